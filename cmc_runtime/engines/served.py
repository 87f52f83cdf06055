"""Deltas that a server steers its requests with, each by the name that the request gives.

No engine is known here. A server's configuration names deltas; a request may ask for one of them,
with a strength and its own text of the prompt. Requests that ask for none are left alone.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from cmc_runtime.delta import Delta, load_delta
from cmc_runtime.models.ends import ending_tokens
from cmc_runtime.models.load import load_tokenizer
from cmc_runtime.steering.requests import Request
from pm_mined import OptionError, PmMinedError
from pm_mined.json_lines import has_lone_surrogate

ARGUMENTS = ("delta", "alpha", "delta_prompt")
_OF_DELTA = {
    "adapter_base": str,
    "map": str,
    "prompt_template": str,
    "unmapped": str,
    "window": int,
    "plausible": float,
    "gate": float,
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """The steering that a request asks for.

    Attributes:
        delta: The name of a delta.
        alpha: How strongly to steer; None is the delta's own strength.
        prompt: The text of the prompt in which the delta reads it; None carries the user model's
            ids over.
    """

    delta: str
    alpha: float | None = None
    prompt: str | None = None


def asked_for(arguments: Mapping[str, Any] | None, names: Iterable[str] | None) -> Asked | None:
    """Read a request's own arguments; None if it asks for no delta.

    Args:
        arguments: Those of the request; what is not in `ARGUMENTS` is somebody else's.
        names: Those of the deltas; None if they are not known here.

    Raises:
        OptionError: there is no such delta, or an argument has another type or value.

    >>> asked_for({"delta": "polite", "alpha": 0.5}, ["polite"])
    Asked(delta='polite', alpha=0.5, prompt=None)
    """
    given = {
        name: value for name in ARGUMENTS if (value := (arguments or {}).get(name)) is not None
    }
    if not given:
        return None
    delta, alpha, prompt = (given.get(name) for name in ARGUMENTS)
    if type(delta) is not str:
        what = "there is none" if delta is None else f"it is {_shown(delta)}"
        raise OptionError(f"delta names what steers the request: {what}; expected {_one_of(names)}")
    if names is not None and delta not in names:
        raise OptionError(f"there is no delta {_shown(delta)} here; expected {_one_of(names)}")
    if alpha is not None and not (type(alpha) in (int, float) and -1e6 < alpha < 1e6):
        raise OptionError(f"alpha is {_shown(alpha)}; expected a number")
    if prompt is not None and not (
        type(prompt) is str and prompt and not has_lone_surrogate(prompt)
    ):
        raise OptionError(f"delta_prompt is {_shown(prompt)}; expected a text")
    return Asked(delta, None if alpha is None else float(alpha), prompt)


def _one_of(names: Iterable[str] | None) -> str:
    return "its name" if names is None else "one of " + ", ".join(names)


def _shown(value: Any) -> str:
    return shorten(repr(value), 80)


def configured_deltas(configuration: Any) -> dict[str, dict[str, Any]]:
    """The deltas of a configuration: by name, their folder (`delta`) and options.

    Args:
        configuration: `{"deltas": {NAME: FOLDER}}`; instead of a folder there may be an object with
            the folder as `delta`, and options of `cmc-runtime generate`: `adapter_base`, `map`,
            `prompt_template`, `unmapped`, `window`, `plausible`, `gate`.

    Raises:
        OptionError: it has another form.

    >>> configured_deltas({"deltas": {"polite": "deltas/polite"}})
    {'polite': {'delta': 'deltas/polite'}}
    """
    form = 'expected {"deltas": {"NAME": "FOLDER", ...}}'
    deltas = configuration.get("deltas") if isinstance(configuration, Mapping) else None
    if not isinstance(deltas, Mapping) or not deltas or len(configuration) > 1:
        raise OptionError(f"the configuration of cmc_runtime is {_shown(configuration)}; {form}")
    return {str(name): _configured(name, one) for name, one in deltas.items()}


def _configured(name: str, given: Any) -> dict[str, Any]:
    found = {"delta": given} if isinstance(given, str) else given
    if not isinstance(found, Mapping) or type(found.get("delta")) is not str:
        raise OptionError(f"delta {name} is {_shown(given)}; expected its folder")
    for option, value in found.items():
        kind = {"delta": str, **_OF_DELTA}.get(option)
        if kind is None:
            known = ", ".join(_OF_DELTA)
            raise OptionError(f"delta {name} has the option {_shown(option)}; expected {known}")
        if not isinstance(value, (int, float) if kind is float else kind):
            raise OptionError(
                f"delta {name}: {option} is {_shown(value)}; expected {kind.__name__}"
            )
    return dict(found)


class ServedRequest:
    """A request of a server, as its delta follows it.

    Attributes:
        delta: The name of its delta.
        request: What the delta steers; None of one that cannot be followed.
        length: How many tokens of its answer are known.
    """

    def __init__(self, delta: str, request: Request | None, length: int = 0) -> None:
        self.delta = delta
        self.request = request
        self.length = length

    def append(self, token_ids: Sequence[int]) -> None:
        """Add tokens that the server's model wrote."""
        self.length += len(token_ids)
        if self.request is not None:
            for token_id in token_ids:
                self.request.append(token_id)

    @property
    def due(self) -> Request | None:
        """The request, if its delta has something to read: of a prompt in ids, these may be half a
        character, or map to nothing.
        """
        request = self.request
        has_any = request is not None and all(text.context.ids for text in request.texts)
        return request if has_any else None

    def copy(self) -> "ServedRequest":
        """Another with the same past: for tokens that may be taken back."""
        request = None if self.request is None else self.request.copy()
        return ServedRequest(self.delta, request, self.length)

    def remove(self) -> None:
        """Free what is kept for it."""
        if self.request is not None:
            self.request.remove()


@dataclass(frozen=True)
class ServedDeltas:
    """The deltas of a server, by name, and the ends of texts for its model."""

    deltas: Mapping[str, Delta]
    ends: Sequence[int]

    def begin(self, asked: Asked, prompt_ids: Sequence[int] | None) -> ServedRequest:
        """Begin to follow a request.

        A server cannot refuse a request any more when this is called. One that cannot be followed
        (the delta's chat template fails for its text, say) is logged, and ends at once: other
        requests must not suffer, and it must not be taken for a steered one.
        """
        try:
            if asked.delta not in self.deltas:
                raise OptionError(f"there is no delta {_shown(asked.delta)}")
            prompt = prompt_ids if asked.prompt is None else asked.prompt
            if prompt is None:
                raise OptionError("a prompt without tokens needs a delta_prompt")
            request = self.deltas[asked.delta].begin(prompt, asked.alpha)
        except PmMinedError as error:
            _log.error("a request ends at once: delta %s cannot follow it: %s", asked.delta, error)
            return ServedRequest(asked.delta, None)
        return ServedRequest(asked.delta, request)

    def steer(self, logits: Tensor, rows: Mapping[int, ServedRequest]) -> Tensor:
        """Steer some rows of the logits in place, those of each delta together.

        Args:
            logits: Floating [rows, user logits].
            rows: The requests of the rows that are to be steered.

        Returns:
            `logits`.
        """
        for name, delta in self.deltas.items():
            due = {
                row: request
                for row, one in rows.items()
                if one.delta == name and (request := one.due) is not None
            }
            if due:
                places = list(due)
                is_all = places == list(range(len(logits)))
                where = slice(None) if is_all else places  # a list would copy all
                base = logits[where]
                fused = delta.fuse(base, list(due.values()))
                if fused is not base:
                    logits[where] = fused
        for row, one in rows.items():
            if one.request is None:
                logits[row] = -math.inf
                logits[row, list(self.ends)] = 0
        return logits

    def warm_up(self, num_logits: int, device: torch.device | str) -> None:
        """Run each delta once, so that the first request does not wait for kernels."""
        for name in self.deltas:
            served = self.begin(Asked(name), [0])
            self.steer(torch.zeros(1, num_logits, device=device), {0: served})
            served.remove()


def load_served(
    configuration: Any,
    tokenizer: str,
    *,
    num_logits: int,
    ends: int | Sequence[int] | None,
    device: torch.device | str,
) -> ServedDeltas:
    """Load the deltas of a server, and run each once.

    Args:
        configuration: See `configured_deltas`.
        tokenizer: That of the server's model: see `load_model`.
        num_logits: The width of the model's logits.
        ends: Its tokens that end a text: see `load_delta`.
        device: Where its logits are.

    Raises:
        OptionError: the configuration has another form.
        PmMinedError: a delta cannot be loaded: see `load_delta`.
    """
    configured = configured_deltas(configuration)
    own = load_tokenizer(tokenizer)
    deltas = {}
    for name, options in configured.items():
        deltas[name] = load_delta(
            *(options.pop("delta"), own),
            num_logits=num_logits,
            ends=ends,
            device=device,
            token_map=options.pop("map", None),
            note=partial(_log.info, "delta %s: %s", name),
            **options,
        )
        _log.info("delta %s: %s", name, deltas[name])
    known = [i for i in ending_tokens(ends, own) if 0 <= i < num_logits]
    served = ServedDeltas(deltas, known)
    served.warm_up(num_logits, device)
    return served
