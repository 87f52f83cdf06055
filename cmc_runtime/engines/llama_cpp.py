"""Steering in llama.cpp, by llama-cpp-python: completions, chats and streams of a `Llama`.

    from llama_cpp import Llama, LogitsProcessorList
    from cmc_runtime.engines.llama_cpp import SteeringProcessor, load_delta_for

    llama = Llama("model.gguf")
    delta = load_delta_for(llama, "my-delta")
    steer = SteeringProcessor(delta, prompt=question)
    llama(question, logits_processor=LogitsProcessorList([steer]))

Nothing of llama-cpp-python is imported: its processors are functions of ids and scores.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cmc_runtime.delta import Delta, load_delta
from cmc_runtime.models.load import LoadedModel
from cmc_runtime.models.prompts import Text
from cmc_runtime.steering.ways import Steering
from pm_mined import OptionError
from pm_mined.tokenizer.readers.gguf_header import read_header

_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")  # of a text, a turn, a message


def load_delta_for(
    llama: Any,
    spec: str | PathLike[str] | LoadedModel,
    *,
    ends: Sequence[int] | None = None,
    **how: Any,
) -> Delta:
    """Load a delta for the model of a `Llama`, whose GGUF file has its tokenizer.

    Args:
        llama: An object of llama-cpp-python's `Llama`.
        spec: See `load_delta`.
        ends: The tokens that end a text; by default those that the file names.
        how: Other options of `load_delta`.

    Raises:
        PmMinedError: as `load_delta`.

    >>> load_delta_for(Llama("model.gguf"), "my-delta")  # doctest: +SKIP
    Delta('my-delta', ...)
    """
    path = Path(llama.model_path)
    return load_delta(
        *(spec, path),
        num_logits=llama.n_vocab(),
        ends=_ends_of(path) if ends is None else ends,
        device="cpu",
        **how,
    )


def _ends_of(path: Path) -> list[int]:
    """The ids at which llama.cpp ends a text, as a GGUF file has them."""
    named = read_header(path, [f"tokenizer.ggml.{name}" for name in _ENDS])
    return [int(one) for one in dict.fromkeys(named.values())]


class SteeringProcessor:
    """Steers the scores of one `Llama`, for `logits_processor=LogitsProcessorList([processor])`.

    With a `prompt`, one object serves one answer. Without, it serves one after the other: what the
    model reads is carried over to the delta, and where it is no longer what it was, begun anew.

    Args:
        steering: A `Delta` or another steering; of several, each steers what the one before
            returned.
        prompt: The text, or the conversation, that the delta answers; None carries over the ids
            that the model reads.
        alpha: How strongly to steer; by default as strongly as the steering says.

    Raises:
        OptionError: as `Delta.begin`.
    """

    def __init__(
        self,
        steering: Steering | Sequence[Steering],
        prompt: Text | None = None,
        alpha: float | None = None,
    ) -> None:
        self._steerings = list(steering) if isinstance(steering, Sequence) else [steering]
        self._prompt, self._alpha = prompt, alpha
        self._ids: NDArray[np.intc] = np.empty(0, np.intc)
        self._requests: list[Any] = []  # one for each steering, when a prompt is known

    def __call__(
        self, input_ids: NDArray[np.intc], scores: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Float32 [user logits] of the next token; `input_ids` is int [ids so far]."""
        self._follow(input_ids)
        base = torch.tensor(scores).reshape(1, -1)
        fused = base
        for steering, request in zip(self._steerings, self._requests, strict=True):
            fused = steering.fuse(fused, [request])
        return fused.numpy().reshape(scores.shape).astype(scores.dtype, copy=False)

    def _follow(self, input_ids: NDArray[np.intc]) -> None:
        """Let the requests read the new token, or the prompt of a new answer."""
        known = len(self._ids)
        is_next = len(input_ids) == known + 1 and np.array_equal(input_ids[:known], self._ids)
        if is_next and self._requests:
            for request in self._requests:
                request.append(int(input_ids[-1]))
        elif not np.array_equal(input_ids, self._ids) or not self._requests:
            self._begin(input_ids)
        self._ids = np.array(input_ids)

    def _begin(self, input_ids: NDArray[np.intc]) -> None:
        if self._requests and self._prompt is not None:
            raise OptionError("a processor with a prompt serves one answer: make another for this")
        for request in self._requests:
            request.remove()
        prompt = input_ids.tolist() if self._prompt is None else self._prompt
        self._requests = [one.begin(prompt, self._alpha) for one in self._steerings]
