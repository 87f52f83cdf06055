"""Prompts with their responses in the tokens of two models, and batches of them.

The user model (in training: the frozen model) reads prompt and response at once. The delta model
reads the tree of all contexts that it would have while the user model writes. The loss of a sample
is that of the response's tokens and of the token that ends it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cmc_runtime.contexts.token_tree import TokenTree, token_tree
from cmc_runtime.contexts.tree_attention import TreeBatch, tree_batch
from cmc_runtime.delta import Delta
from cmc_runtime.errors import DataError
from cmc_runtime.models.ends import response_end
from cmc_runtime.models.load import LoadedModel
from cmc_runtime.models.output_head import hidden_states
from cmc_runtime.models.prompts import encode_prompt, response_lead
from pm_mined import OptionError, load_encoder
from pm_mined.tokenizer.encoders.libraries import Encode

from .examples import Example, Skipped


@dataclass(frozen=True)
class Sample:
    """A prompt and a response.

    Attributes:
        row: The number of the row in the data.
        ids: Ids of the user model: prompt, response, and the end token if there is one.
        num_prompt: The number of ids of the prompt.
        num_text: The number of ids of the response, without the end token.
        num_chars: The characters of the response, with the spaces that lead to it.
        tree: The contexts of the delta model; None without one.
    """

    row: int
    ids: list[int]
    num_prompt: int
    num_text: int
    num_chars: int
    tree: TokenTree | None

    @property
    def num_targets(self) -> int:
        """The number of tokens to predict."""
        return len(self.ids) - self.num_prompt


class SampleMaker:
    """Encodes rows for a user model, and for a delta model that steers it.

    Args:
        user: The user model; a response ends with one of its `ends`.
        prompt_template: The user model's: see `encode_prompt`.
        delta: The delta model, if there is one.
        reencode: Use the places at which the delta re-encodes: see `token_tree`.
    """

    def __init__(
        self,
        user: LoadedModel,
        prompt_template: str,
        delta: Delta | None = None,
        *,
        reencode: bool = True,
    ) -> None:
        self._tokenizer: Any = user.tokenizer
        self._check_ids = user.check_ids
        self._prompt_template = prompt_template
        self._lead = response_lead(prompt_template)
        self._end = response_end(user.tokenizer, user.ends, prompt_template)
        self._encode = text_encoder(user.tokenizer)
        self._delta = delta
        self._reencode = reencode

    def make(self, prompt: str, response: str, row: int) -> Sample:
        """Make one sample.

        Raises:
            OptionError: a prompt has no tokens, or there is no chat template.
            VocabularyError: the chat template fails.
            ContextError: the model does not have a token.
        """
        prompt_ids = encode_prompt(self._tokenizer, prompt, self._prompt_template)
        text = self._lead + response
        (encoded,) = self._encode([text])
        response_ids = encoded.tolist()
        ends = [] if self._end is None else [self._end]
        tree = None
        if self._delta is not None:
            context = self._delta.context(prompt)
            tree = token_tree(context, response_ids + ends, reencode=self._reencode)
        ids = prompt_ids + response_ids + ends
        self._check_ids(ids)
        return Sample(row, ids, len(prompt_ids), len(response_ids), len(text), tree)


class FittingSamples(NamedTuple):
    """The result of `fitting_samples`."""

    samples: list[Sample]
    num_bytes: int  # of their responses in UTF-8, with the spaces that lead to them
    skipped: Skipped


def fitting_samples(
    user: LoadedModel,
    examples: Sequence[Example],
    prompt_template: str,
    delta: Delta | None = None,
    *,
    max_length: int | None = None,
    reencode: bool = True,
    progress: Callable[[int, int], object] = lambda *_: None,
) -> FittingSamples:
    """Make samples of examples, skipping those that are too long for a model.

    Args:
        user: The user model, or in training the frozen model.
        examples: Prompts with responses.
        prompt_template: The user model's: see `encode_prompt`.
        delta: The delta model, if there is one.
        max_length: The most tokens of the user model; by default its position limit.
        reencode: Use the places at which the delta re-encodes: see `token_tree`.
        progress: Called with the number of examples that are done, and of all.

    Raises:
        DataError: no example is left.
        OptionError: `prompt_template` or `max_length` is invalid; a prompt has no tokens.

    >>> rows = read_examples("data.jsonl").rows  # doctest: +SKIP
    >>> fitting_samples(user, rows, "{prompt}", delta).samples  # doctest: +SKIP
    """
    if max_length is not None and max_length < 1:
        raise OptionError(f"max_length is {max_length}; expected 1 or more tokens")
    maker, skipped = SampleMaker(user, prompt_template, delta, reencode=reencode), Skipped()
    samples, num_bytes = [], 0
    for done, (prompt, response, row, *_) in enumerate(examples, 1):
        sample = maker.make(prompt, response, row)
        progress(done, len(examples))
        fault = why_unusable(sample, user, delta, max_length)
        if fault is not None:
            skipped.add(fault, row)
            continue
        samples.append(sample)
        lead = sample.num_chars - len(response)  # spaces
        num_bytes += lead + len(response.encode())
    if not samples:
        raise DataError(f"no usable row for {user.spec}: {skipped}")
    return FittingSamples(samples, num_bytes, skipped)


def why_unusable(
    sample: Sample, user: LoadedModel, delta: Delta | None, max_length: int | None
) -> str | None:
    """The reason that a sample cannot be used, as `Skipped` words it; None if it can.

    The arguments are those of `fitting_samples`.
    """
    positions = getattr(user.model.config.get_text_config(), "max_position_embeddings", None)
    limits = [limit for limit in (max_length, positions) if limit is not None]
    if limits and len(sample.ids) > min(limits):
        return f"of more than {min(limits):,} tokens"
    window = None if delta is None else delta.window
    if window is not None and sample.tree is not None and sample.tree.longest > window:
        return f"of more than {window:,} tokens of the delta model"
    return None if sample.num_text else "whose response has no tokens"


def text_encoder(tokenizer: Any) -> Encode:
    """Make a function that encodes text as in the middle of a longer one."""
    return load_encoder(tokenizer, inside=True)


@dataclass(frozen=True, eq=False)
class SampleBatch:
    """A batch of samples, made by `sample_batch`.

    Its tokens are those to predict, sample after sample.
    """

    rows: list[int]
    """The number of each sample in the data."""
    input_ids: Tensor
    """int64 [samples, ids], the user model's, padded on the right."""
    attention_mask: Tensor
    """int64 [samples, ids]"""
    places: Tensor
    """int64 [tokens]: the places in [samples * ids] at which the user model predicts them."""
    targets: Tensor
    """int64 [tokens]"""
    sample_of: Tensor
    """int64 [tokens]: the sample that each belongs to."""
    is_text: Tensor
    """Bool [tokens]: true for the response, false for its end token."""
    tree: TreeBatch | None
    """The contexts of the delta model."""
    states: Tensor | None = None
    """[tokens, size]: the user model's cached final hidden states, or None."""

    def to(self, device: torch.device | str) -> "SampleBatch":
        """The same batch on a device."""
        return SampleBatch(
            self.rows,
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.places.to(device),
            self.targets.to(device),
            self.sample_of.to(device),
            self.is_text.to(device),
            None if self.tree is None else self.tree.to(device),
            None if self.states is None else self.states.to(device),
        )

    def user_states(self, model: Any) -> Tensor:
        """[tokens, size]: the user model's hidden states from which each token is predicted."""
        if self.states is not None:
            return self.states
        states = hidden_states(model, self.input_ids, self.attention_mask)
        return functional.embedding(self.places, states.flatten(0, 1))


def sample_batch(samples: Sequence[Sample], states: Tensor | None = None) -> SampleBatch:
    """Make a batch of at least one sample, on the CPU.

    `states` are cached hidden states of the user model, [tokens, size].
    """
    width = max(len(sample.ids) for sample in samples)
    input_ids, attention_mask = np.zeros((2, len(samples), width), np.int64)
    places, targets, sample_of, is_text = [], [], [], []
    for i, sample in enumerate(samples):
        length, count = len(sample.ids), sample.num_targets
        input_ids[i, :length], attention_mask[i, :length] = sample.ids, 1
        places.append(i * width + np.arange(sample.num_prompt - 1, length - 1))
        targets.append(sample.ids[sample.num_prompt :])
        sample_of.append(np.full(count, i))
        is_text.append(np.arange(count) < sample.num_text)
    trees = [sample.tree for sample in samples if sample.tree is not None]
    return SampleBatch(
        [sample.row for sample in samples],
        torch.from_numpy(input_ids),
        torch.from_numpy(attention_mask),
        _joined(places),
        _joined(targets),
        _joined(sample_of),
        _joined(is_text),
        tree_batch(trees) if trees else None,
        states,
    )


def _joined(parts: list[Any]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))
