"""The rows of a training run: every epoch in an order of its own, drawn from the seed.

They are one list, so that a run which goes on from a checkpoint only has to skip.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainingArguments

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


class Rows(Dataset[dict[str, int]]):
    """The rows that the trainer goes through, once and in this order.

    Args:
        samples: int32 [rows] for each name of data: which of its samples a row takes.

    >>> Rows({"data": torch.tensor([4, 2])})[1]
    {'data': 2}
    """

    def __init__(self, samples: Mapping[str, Tensor]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return min(map(len, self._samples.values()))

    def __getitem__(self, index: int) -> dict[str, int]:
        return {name: int(some[index]) for name, some in self._samples.items()}

    def first(self, count: int) -> "Rows":
        """The first rows, at most so many."""
        return Rows({name: some[:count] for name, some in self._samples.items()})


def rows_of_step(arguments: TrainingArguments) -> int:
    """The number of rows that make a step, in all processes."""
    batches: int = arguments.gradient_accumulation_steps * arguments.world_size
    return batches * arguments.per_device_train_batch_size


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


def training_rows(num_data: int, num_retain: int, *, epochs: int, seed: int) -> Rows:
    """All rows of all epochs, each epoch in an order of its own: `data`, and `retain` if any."""
    random = torch.Generator().manual_seed(seed)
    rows = {"data": _shuffled(num_data, epochs * num_data, random)}
    if num_retain:
        rows["retain"] = _shuffled(num_retain, len(rows["data"]), random)
    return Rows(rows)


def _shuffled(size: int, count: int, random: torch.Generator) -> Tensor:
    """So many numbers below `size`: each once in an order of chance, and again, and again."""
    numbers = torch.empty(count, dtype=torch.int32)
    for first in range(0, count, size):
        rest = numbers[first : first + size]
        rest[:] = torch.randperm(size, generator=random)[: len(rest)]
    return numbers


class Collator:
    """Makes batches of rows, of each data that they take samples from."""

    def __init__(self, data: Mapping[str, Data]) -> None:
        self._data = data

    def __call__(self, rows: Sequence[Mapping[str, int]]) -> dict[str, SampleBatch]:
        """A batch for each name in the rows."""
        return {name: self._data[name].batch([row[name] for row in rows]) for name in rows[0]}
