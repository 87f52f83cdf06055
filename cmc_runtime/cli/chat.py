"""`cmc-runtime chat`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pm_mined import OptionError, PmMinedError
from pm_mined.cli.output import note, say, say_error, show, working

from .loading import load_steered
from .options import (
    AUTO,
    AdapterBase,
    Alpha,
    DeltaPromptTemplate,
    DeltaWindow,
    Device,
    DeviceMap,
    Dtype,
    Gate,
    Map,
    MaxNewTokens,
    Plausible,
    PromptTemplate,
    Rows,
    Seed,
    SteeringDelta,
    Temperature,
    TopK,
    TopP,
    Unmapped,
    UserModel,
    is_alpha,
    refuse_without_delta,
)
from .packages import check_runtime
from .strength import rows_for_auto, strength

if TYPE_CHECKING:
    from cmc_runtime.engines.chat import Chat

_HELP = """\
/alpha 1.5  steer that strongly from now on
/alpha auto as strongly as fits the model
/alpha      show how strongly
/reset      forget all that was said
/help       show this
/quit       end, as Ctrl-D does
Ctrl-C      stop an answer; at the prompt, end
What begins with a space is never a command."""


def chat(
    model: UserModel,
    delta: SteeringDelta = None,
    adapter_base: AdapterBase = None,
    token_map: Map = None,
    alone: Annotated[
        bool, typer.Option("--plain/--no-plain", help="Let the model answer unsteered, too.")
    ] = True,
    alpha: Alpha = None,
    rows: Rows = None,
    unmapped: Unmapped = None,
    plausible: Plausible = None,
    gate: Gate = None,
    prompt_template: PromptTemplate = None,
    delta_prompt_template: DeltaPromptTemplate = None,
    delta_window: DeltaWindow = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = None,
    dtype: Dtype = None,
    device: Device = None,
    device_map: DeviceMap = None,
) -> None:
    """Talk with a model, steered by a delta model and left alone, side by side.

    Each side answers by what it said before. /help shows the commands: /alpha 1.5 changes the
    strength, /reset begins anew. The prompt template is the model's chat template if not given,
    and where it has none, the delta's.

    In a pipe, each line is a prompt, and the answers to several are separated by a line of three
    dashes. For answers in JSON, there is `cmc-runtime generate --json`.
    """
    check_runtime()
    refuse_without_delta(
        delta,
        adapter_base=adapter_base,
        map=token_map,
        alpha=alpha,
        rows=rows,
        unmapped=unmapped,
        plausible=plausible,
        gate=gate,
        delta_prompt_template=delta_prompt_template,
        delta_window=delta_window,
    )
    examples = rows_for_auto(rows, alpha)
    with working("Loading torch and transformers"):
        from cmc_runtime.engines.chat import Chat
        from cmc_runtime.engines.generate import Sampling
        from cmc_runtime.models.prompts import CHAT, PLAIN, check_prompt_template

    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, seed)
    if prompt_template is not None:
        check_prompt_template(prompt_template)
    user, ready = load_steered(
        model,
        delta,
        adapter_base=adapter_base,
        device=device,
        device_map=device_map,
        dtype=dtype,
        token_map=token_map,
        prompt_template=delta_prompt_template,
        unmapped=unmapped,
        window=delta_window,
        plausible=plausible,
        gate=gate,
    )
    own = CHAT if user.tokenizer.chat_template else None
    template = prompt_template or own or (PLAIN if ready is None else ready.prompt_template)

    def strength_of(given: str | None) -> float | None:
        return strength(given, examples, user, ready, template)

    steering: dict[str, Any] = {"alone": alone, "alpha": strength_of(alpha)}
    talk = _Talk(
        Chat(user, ready, **steering, prompt_template=template, sampling=sampling), strength_of
    )
    talk.run()
    if talk.failed and not talk.is_with_person:
        raise typer.Exit(1)


class _Talk:
    """Lines in, answers out."""

    def __init__(self, chat: "Chat", strength_of: Callable[[str], float | None]) -> None:
        self._chat, self._strength_of = chat, strength_of
        self._turns = 0
        self.is_with_person = sys.stdin.isatty() and sys.stdout.isatty()
        self.failed = False

    def run(self) -> None:
        """Answer line by line, to the last one or `/quit`."""
        if self.is_with_person:
            note("/help shows the commands; Ctrl-C stops an answer, Ctrl-D ends")
        for line in _lines("> " if self.is_with_person else ""):
            if line.strip() == "/quit":
                return
            try:
                self._take(line)
            except PmMinedError as error:
                self.failed = True
                say_error(error)

    def _take(self, line: str) -> None:
        if line.startswith("/"):
            self._obey(*line.split(maxsplit=1))
        elif line.strip():
            self._answer(line.strip())

    def _obey(self, command: str, value: str = "") -> None:
        if command == "/alpha":
            self._set_alpha(value)
        elif command == "/reset":
            self._chat.reset()
        elif command == "/help":
            say(_HELP)
        else:
            raise OptionError(f"{command}: no such command; /help shows all")

    def _set_alpha(self, value: str) -> None:
        if self._chat.alpha is None:
            raise OptionError("/alpha: nothing is steered; begin with --delta")
        if value:
            if not is_alpha(value):
                raise OptionError(f"/alpha {value}: expected a number, such as 1.5, or {AUTO}")
            self._chat.alpha = self._strength_of(value)
        note(f"alpha {self._chat.alpha:g}")

    def _answer(self, prompt: str) -> None:
        from .chat_display import display_of

        if self._turns and not self.is_with_person:
            show("---\n")
        self._turns += 1
        with display_of(self._chat.titles) as display:
            try:
                self._chat.answer(prompt, display.add)
            except KeyboardInterrupt:
                if not self.is_with_person:
                    raise


def _lines(prompt: str) -> Iterator[str]:
    """The lines of the standard input, each after a prompt."""
    with suppress(ImportError):  # not on every system
        import readline  # noqa: F401 - so that `input` can be edited, and has a history
    sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # named later
    while True:
        try:
            line = input(prompt)
        except (EOFError, KeyboardInterrupt) as end:
            if prompt:
                say("")  # its line ends
            if isinstance(end, EOFError):
                return
            raise
        yield line
