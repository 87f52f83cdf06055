"""The rows of a training run: every epoch in an order of its own, drawn from the seed.

They are one list, so that a run which goes on from a checkpoint only has to skip.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cmc_runtime.data.samples import Sample, SampleBatch, sample_batch
from pm_mined import OptionError

from .frozen_states import FrozenStates

MAX_ROWS = 100_000_000
"""In all epochs of a run: their order takes 8 bytes a row."""


class Data(NamedTuple):
    """Samples, and their cached states if there are any."""

    samples: Sequence[Sample]
    states: FrozenStates | None = None

    def batch(self, indices: Sequence[int]) -> SampleBatch:
        """These samples together."""
        states = None if self.states is None else self.states.of(indices)
        return sample_batch([self.samples[i] for i in indices], states)


class Pair(NamedTuple):
    """A row of the run: a sample, and one to retain."""

    data: int
    retain: int


class TrainingRows(Dataset[Pair]):
    """The rows that the trainer goes through, once and in this order.

    Args:
        data: int32 [rows]: the sample of each.
        retain: int32 [rows]: the sample to retain.
    """

    def __init__(self, data: Tensor, retain: Tensor) -> None:
        self._data, self._retain = data, retain

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Pair:
        return Pair(int(self._data[index]), int(self._retain[index]))


def check_epochs(epochs: int, num_data: int) -> None:
    """Refuse more rows than can be gone through.

    Raises:
        OptionError: there are more than `MAX_ROWS` in all epochs.
    """
    if epochs * num_data > MAX_ROWS:
        raise OptionError(
            f"num_train_epochs is {epochs} of {num_data:,} rows; expected at most "
            f"{MAX_ROWS // num_data:,}"
        )


def training_rows(num_data: int, num_retain: int, *, epochs: int, seed: int) -> TrainingRows:
    """All rows of all epochs, each epoch in an order of its own."""
    random = torch.Generator().manual_seed(seed)
    data = _shuffled(num_data, epochs * num_data, random)
    retain = _shuffled(num_retain, len(data), random) if num_retain else data
    return TrainingRows(data, retain)


def _shuffled(size: int, count: int, random: torch.Generator) -> Tensor:
    """So many numbers below `size`: each once in an order of chance, and again, and again."""
    numbers = torch.empty(count, dtype=torch.int32)
    for first in range(0, count, size):
        rest = numbers[first : first + size]
        rest[:] = torch.randperm(size, generator=random)[: len(rest)]
    return numbers


class Collator:
    """Makes the batches of a step."""

    def __init__(self, data: Data, retain: Data | None) -> None:
        self._data, self._retain = data, retain

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, SampleBatch]:
        """`data`, and `retain` if there is any."""
        batches = {"data": self._data.batch([pair.data for pair in pairs])}
        if self._retain is not None:
            batches["retain"] = self._retain.batch([pair.retain for pair in pairs])
        return batches
