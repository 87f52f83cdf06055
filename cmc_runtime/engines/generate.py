"""Text from a user model, steered or not: for scripts and the command line.

It is `model.generate` of transformers for prompts as text, in batches, with errors that say what
to do. Who needs beams or another cache calls that with a `SteeringProcessor`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from cmc_runtime.errors import ModelError
from cmc_runtime.models.load import LoadedModel
from cmc_runtime.models.prompts import PLAIN, Conversation, Text, encode_prompt
from cmc_runtime.models.torch_errors import out_of_memory_says
from cmc_runtime.steering.ways import Steering
from pm_mined import OptionError, Vocabulary

from .token_text import text_of
from .transformers import SteeringProcessor, alphas_of

OnStep = Callable[[list[int]], object]
"""Told after each step the new token of each row; padding where a row has ended."""


@dataclass(frozen=True)
class Sampling:
    """The choice of the next token, and when to stop.

    Attributes:
        max_new_tokens: How many tokens at most.
        temperature: 0 takes the likeliest token.
        top_p: Among the likeliest tokens that have this probability together.
        top_k: Among so many likeliest tokens; 0 is all.
        seed: For the same text in every run; None leaves it to torch.

    Raises:
        OptionError: a number is out of its range.

    >>> Sampling(max_new_tokens=32, temperature=0.7, seed=1).options
    {'max_new_tokens': 32, 'do_sample': True, 'temperature': 0.7, 'top_p': 1.0, 'top_k': 0}
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "1 or more")
        _check("temperature", self.temperature, 0 <= self.temperature < 1e6, "0 or more")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "more than 0, at most 1")
        _check("top_k", self.top_k, self.top_k >= 0, "0 or more")
        _check("seed", self.seed, 0 <= (self.seed or 0) < 2**62, "0 to 2**62 - 1")

    @property
    def options(self) -> dict[str, Any]:
        """The same for `model.generate`."""
        if self.temperature == 0:
            return {"max_new_tokens": self.max_new_tokens, "do_sample": False}
        chosen = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return {"max_new_tokens": self.max_new_tokens, "do_sample": True, **chosen}


def _check(name: str, value: object, is_fine: bool, expected: str) -> None:
    if not is_fine:
        raise OptionError(f"{name} is {value}; expected {expected}")


@dataclass(frozen=True)
class Completion:
    """The text written after a prompt.

    >>> Completion("Who wrote Emma?", " Jane Austen", [22093, 80368], 0.1).text
    ' Jane Austen'
    """

    prompt: str  # of a conversation, the last
    text: str  # without special tokens
    token_ids: list[int]  # with them, that which ended the text too
    seconds: float  # that its batch took
    ended: bool = False  # by a token that ends a text, and not for its length


def generate(
    user: LoadedModel,
    prompts: Sequence[Text],
    steering: Steering | Sequence[Steering] | None = None,
    *,
    alpha: float | Sequence[float] | None = None,
    prompt_template: str = PLAIN,
    sampling: Sampling | None = None,
    batch_size: int = 1,
    on_step: OnStep = lambda _: None,
) -> Iterator[Completion]:
    """Complete prompts, batch by batch, in their order.

    All prompts are checked at once; text is made as the answer is read. What the model's own
    generation config says beyond `sampling` holds: which tokens end a text, and penalties.

    Args:
        user: The model that writes.
        prompts: Their texts, or conversations.
        steering: A `Delta` or another steering; of several, each steers what the one before
            returned. None leaves the model alone.
        alpha: How strongly to steer, or that for each prompt; by default as strongly as the
            steering says.
        prompt_template: That of the user model: see `encode_prompt`.
        sampling: Without it, 128 tokens, the likeliest each time. The seed of a batch is its
            `seed` plus the number of the first prompt.
        batch_size: How many prompts run at once.
        on_step: See `OnStep`.

    Raises:
        OptionError: a prompt has no ids, or is too long for the model; `batch_size` or
            `prompt_template` is invalid.
        VocabularyError: the tokenizer cannot be read.
        ModelError, ContextError: logits are not finite, or there is not enough memory.

    >>> for answer in generate(user, ["Who wrote Emma?"], delta, alpha=0.5):  # doctest: +SKIP
    ...     print(answer.text)
    Jane Austen.
    """
    sampling = sampling or Sampling()
    _check("batch_size", batch_size, batch_size >= 1, "1 or more")
    encoded = [
        _encode(user, i, prompt, prompt_template, sampling) for i, prompt in enumerate(prompts)
    ]
    if steering is None:
        steering = ()
    steerings = steering if isinstance(steering, Sequence) else [steering]
    alphas = alphas_of(prompts, alpha)
    writer = _Writer(user, user.vocabulary, steerings, alphas, sampling, on_step)
    batches = (slice(i, i + batch_size) for i in range(0, len(prompts), batch_size))
    return (
        completion
        for batch in batches
        for completion in writer.complete(batch.start, prompts[batch], encoded[batch])
    )


def _encode(
    user: LoadedModel, number: int, prompt: Text, prompt_template: str, sampling: Sampling
) -> list[int]:
    which, advice = f"prompt {number + 1}", "shorten it"
    if isinstance(prompt, Conversation):
        which, advice = "the conversation", "begin a new one"
    try:
        ids = encode_prompt(user.tokenizer, prompt, prompt_template)
    except OptionError as error:
        raise OptionError(f"{which}: {error}") from error
    user.check_ids(ids)
    limit = getattr(user.model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and len(ids) + sampling.max_new_tokens > limit:
        raise OptionError(
            f"{which} has {len(ids):,} tokens and {sampling.max_new_tokens:,} are to "
            f"come, but the model reads {limit:,} at most: {advice}, or ask for fewer"
        )
    return ids


@dataclass(frozen=True)
class _Writer:
    """Writes the batches of one call."""

    user: LoadedModel
    vocabulary: Vocabulary
    steerings: Sequence[Steering]
    alphas: Sequence[float | None]
    sampling: Sampling
    on_step: OnStep

    def complete(
        self, first: int, prompts: Sequence[Text], encoded: Sequence[list[int]]
    ) -> Iterator[Completion]:
        """The completions of one batch, whose first prompt has this number."""
        start = time.perf_counter()
        inputs = _padded(encoded, self._pad_id, self.user.device)
        length = inputs["input_ids"].shape[1]
        hint = "use a smaller batch" if len(prompts) > 1 else "shorten the prompt, or ask for fewer"
        message = f"for {len(prompts)} prompts at once: {hint}"
        with _seeded(self.sampling.seed, first), out_of_memory_says(message), _broken_logits():
            processors = self._processors(first, inputs["input_ids"], prompts)
            made: Any = self.user.model.generate(  # type: ignore[operator]
                **inputs,
                **self.sampling.options,
                pad_token_id=self._pad_id,
                eos_token_id=self.user.ends or None,
                logits_processor=processors,
                streamer=_Listener(self.on_step),
            )
        seconds = time.perf_counter() - start
        for prompt, ids in zip(prompts, made[:, length:].tolist(), strict=True):
            last = prompt.prompt if isinstance(prompt, Conversation) else prompt
            yield self._completion(last, ids, seconds)

    def _processors(
        self, first: int, ids: torch.Tensor, prompts: Sequence[Text]
    ) -> LogitsProcessorList:
        if not self.steerings:
            return LogitsProcessorList()
        alphas = self.alphas[first : first + len(prompts)]
        return LogitsProcessorList([SteeringProcessor(self.steerings, ids, prompts, alphas)])

    @property
    def _pad_id(self) -> int:
        padding = self.user.model.generation_config.pad_token_id
        return int(padding if padding is not None else [*self.user.ends, 0][0])

    def _completion(self, prompt: str, ids: list[int], seconds: float) -> Completion:
        """The ids up to the first that ends a text, and their text."""
        ends = self.user.ends
        stop = next((i for i, token_id in enumerate(ids) if token_id in ends), None)
        own = ids if stop is None else ids[: stop + 1]
        return Completion(prompt, text_of(self.vocabulary, own), own, seconds, stop is not None)


class _Listener(BaseStreamer):
    """Hands on each step's tokens; the first that `generate` tells it are the prompts."""

    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step
        self._prompts_told = False

    def put(self, value: torch.Tensor) -> None:
        if self._prompts_told:
            self._on_step(value.tolist())
        self._prompts_told = True

    def end(self) -> None:
        """Nothing is held back."""


def _padded(
    encoded: Sequence[list[int]], pad_id: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Prompts of a batch, padded on the left: int64 [prompts, ids], and what is no padding."""
    width = max(map(len, encoded))
    ids = [[pad_id] * (width - len(row)) + row for row in encoded]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in encoded]
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }


@contextmanager
def _seeded(seed: int | None, first: int) -> Iterator[None]:
    """Chance that starts from a seed, and leaves that of the caller alone."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed + first)
        yield


@contextmanager
def _broken_logits() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "probability tensor" in str(error):
            raise ModelError("the model's logits are NaN or infinite: it cannot be used") from error
        raise
