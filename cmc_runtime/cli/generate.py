"""`cmc-runtime generate`."""

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pm_mined import OptionError
from pm_mined.cli.output import note, print_json, progress_bar, show, working

from .loading import load_steered
from .options import (
    AdapterBase,
    Alpha,
    BatchSize,
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
    refuse_without_delta,
)
from .packages import check_runtime
from .strength import rows_for_auto, strength

if TYPE_CHECKING:
    from cmc_runtime.engines.generate import Completion
    from cmc_runtime.models.load import LoadedModel


def generate(
    model: UserModel,
    delta: SteeringDelta = None,
    adapter_base: AdapterBase = None,
    token_map: Map = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="What to complete; may be given several times."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Prompts: plain text, one a line, or JSON, JSON Lines or Parquet rows with "
            "prompt, question or instruction.",
        ),
    ] = None,
    alpha: Alpha = None,
    rows: Rows = None,
    unmapped: Unmapped = None,
    plausible: Plausible = None,
    gate: Gate = None,
    prompt_template: PromptTemplate = None,
    delta_prompt_template: DeltaPromptTemplate = None,
    delta_window: DeltaWindow = None,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = None,
    batch_size: BatchSize = 1,
    dtype: Dtype = None,
    device: Device = None,
    device_map: DeviceMap = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print text as it comes.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line for each prompt.")
    ] = False,
) -> None:
    """Complete prompts with a model that a delta model steers.

    Several texts are separated by a line of three dashes. The keys of --json: prompt; text;
    token_ids, with the one that ended the text; seconds, that the prompt's batch took;
    ended, false where the text was cut off; alpha, null without a delta.
    """
    check_runtime()
    if stream and (as_json or batch_size > 1):
        raise OptionError("--stream prints one text as it comes: leave out --json and --batch-size")
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
    prompts, examples = _prompts(prompt, file), rows_for_auto(rows, alpha)
    with working("Loading torch and transformers"):
        from cmc_runtime.engines import generate as generation
        from cmc_runtime.models.prompts import PLAIN, check_prompt_template

    sampling = generation.Sampling(max_new_tokens, temperature, top_p, top_k, seed)
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
    if ready is not None:
        prompt_template = prompt_template or ready.prompt_template
    prompt_template = prompt_template or PLAIN
    if prompt_template == PLAIN and user.tokenizer.chat_template:
        note(f"{user.spec} has a chat template; --prompt-template chat puts the prompt into it")
    chosen = strength(alpha, examples, user, ready, prompt_template)
    own = None if ready is None else ready.alpha
    display = _Display(
        *(user, len(prompts), own if chosen is None else chosen), stream=stream, as_json=as_json
    )
    with display.progress:
        for completion in generation.generate(
            *(user, prompts, ready),
            alpha=chosen,
            prompt_template=prompt_template,
            sampling=sampling,
            batch_size=batch_size,
            on_step=display.step,
        ):
            display.finish(completion)
    note(display.speed)


def _prompts(prompt: list[str] | None, file: Path | None) -> list[str]:
    if file is None and not prompt:
        raise OptionError("nothing to complete: give --prompt TEXT or --file FILE")
    prompts = list(prompt or ())
    if file is not None:
        from cmc_runtime.data.examples import read_prompts

        read = read_prompts(file)
        prompts += read.texts
        if read.skipped:
            note(f"{file}: {read.skipped}")
    return prompts


class _Display:
    """Shows completions as they come, in one of three ways, beside the progress and the speed."""

    def __init__(
        self,
        user: "LoadedModel",
        total: int,
        alpha: float | None,
        *,
        stream: bool,
        as_json: bool,
    ) -> None:
        from cmc_runtime.engines.token_text import TokenText

        self._new_text = partial(TokenText, user.vocabulary)
        self._text = self._new_text()
        self._stream, self._as_json = stream, as_json
        self._alpha = alpha
        self._total, self._done, self._tokens = total, 0, 0
        self._start = time.perf_counter()
        self.progress = progress_bar(shown=not stream)
        self._task = self.progress.add_task("Generating", total=total)

    @property
    def speed(self) -> str:
        """The tokens so far, the time and the speed, in words."""
        seconds = time.perf_counter() - self._start
        rate = self._tokens / seconds
        return f"{self._tokens:,} tokens in {seconds:.1f} s, {rate:.1f} tokens/s"

    def step(self, token_ids: list[int]) -> None:
        """Count one more token of each request that runs."""
        self._tokens += len(token_ids)
        if self._stream:
            show(self._text.append(token_ids))
        self.progress.update(self._task, description=self.speed)

    def finish(self, completion: "Completion") -> None:
        """Print a completion."""
        self._done += 1
        self.progress.stop()  # it and the text may share a terminal
        if self._as_json:
            print_json(asdict(completion) | {"alpha": self._alpha}, indent=None)
        else:
            show((self._text.end() if self._stream else completion.text) + "\n")
            self._text = self._new_text()
            if self._done < self._total:
                show("---\n")
        self.progress.update(self._task, completed=self._done)
        self.progress.start()
