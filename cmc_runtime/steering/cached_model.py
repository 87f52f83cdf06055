"""Next-token logits of a model for sequences of ids that grow and change, by a key-value cache.

A call runs one forward for all sequences that changed since their last one, and one for those that
begin. A sequence knows how many of its ids are as they were, so that nothing is compared or copied
that was read before: but for the model's own attention, a step costs no more the longer a text is.

A forward is padded on the left, as transformers' models expect, and every row runs as many ids as
the one that needs most: a row that needs fewer runs its last cached ids again, in slots that would
be padding otherwise. So the ids of a row always lie in adjacent slots, whatever was taken back,
and the model's own masks hold, that of a sliding window too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, Self
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from cmc_runtime.errors import ContextError
from cmc_runtime.models.load import cache_keyword, num_logits_of
from cmc_runtime.models.torch_errors import is_out_of_memory
from pm_mined import OptionError

from .growing_cache import empty_cache, gathered_cache, part_of_cache
from .small_products import plain_layers, small_products

_WITH_KEYS_AND_VALUES = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, eq=False)
class _Batch:
    """The result of a forward. A row's ids lie in its last slots, behind anything finite."""

    cache: Cache
    logits: Tensor  # float [rows, num_logits]
    slots: int


@dataclass(frozen=True, eq=False)
class _Cached:
    """A row of a batch: the ids of a sequence from `start` to `stop`, and the logits after them."""

    batch: _Batch
    index: int
    start: int
    stop: int


_NOTHING = _Cached(_Batch(empty_cache(), torch.empty(1, 0), 0), 0, 0, 0)


class CachedSequence:
    """The ids of one text, and what a `CachedModel` has cached of them; its `begin` makes one.

    Attributes:
        ids: A list that its owner grows and changes in place.
    """

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids
        self._cached = _NOTHING
        self._kept = 0  # how many of the ids are as they were in the last forward

    def keep(self, count: int) -> None:
        """Say that only the first `count` ids are as they were; call it after each change."""
        self._kept = min(self._kept, count)

    def copy(self, ids: list[int]) -> Self:
        """Another sequence with the same past; `ids` is a copy of this one's."""
        other = type(self)(ids)
        other._cached, other._kept = self._cached, self._kept
        return other


class _Run(NamedTuple):
    """A row of a forward: what is run for a sequence."""

    source: _Cached
    kept: int  # how many ids of the source are used
    start: int  # the first id of the sequence that is read
    tail: tuple[int, ...]  # the ids behind those that are kept

    @property
    def length(self) -> int:
        return self.kept + len(self.tail)


class CachedModel:
    """The next-token logits of a causal language model for sequences of ids.

    Args:
        model: A transformers model in eval mode; all its layers are attention layers.
        num_logits: The first so many logits of each row are returned; None returns all.
        window: What happens to sequences longer than the model's position limit. By default they
            are an error. With a window only the last ids of a long one are read: at most
            `window`, and at least three quarters of that. Their start moves by a quarter of the
            window at a time; each move changes every position, so all that is read is run again.

    Attributes:
        num_logits: The width of the rows returned.
        max_length: The most ids that the window, or else the model, reads; None without a limit.
        ids_run: How many ids have gone through the model so far.

    Raises:
        OptionError: the model has not so many logits, or has fewer positions than the window.
        ContextError: the model has layers that keep other states than keys and values.
    """

    def __init__(
        self, model: PreTrainedModel, num_logits: int | None = None, *, window: int | None = None
    ) -> None:
        config = model.config.get_text_config(decoder=True)
        _check_layers(model, getattr(config, "layer_types", None) or ())
        limit = getattr(config, "max_position_embeddings", None)
        width = num_logits_of(model)
        if num_logits is not None and not 1 <= num_logits <= width:
            raise OptionError(f"num_logits is {num_logits}, but the model has {width} logits")
        if window is not None and not 1 <= window <= (limit or window):
            raise OptionError(f"the window is {window} ids, but the model reads 1 to {limit}")
        self.model = model
        self.num_logits = num_logits or width
        self.max_length = window or limit
        self.ids_run = 0
        self._window = window
        self._layers = plain_layers(model)
        self._cache_keyword = cache_keyword(model)
        self._live: WeakSet[CachedSequence] = WeakSet()  # those with a row in a batch

    def begin(self, ids: list[int]) -> CachedSequence:
        """A sequence of which nothing is cached yet."""
        return CachedSequence(ids)

    def logits(self, sequences: Sequence[CachedSequence]) -> Tensor:
        """The next-token logits after each sequence, as an uncached forward of it alone gives them.

        Args:
            sequences: At least one, with one id at least in each.

        Returns:
            Float [sequences, num_logits], in the model's dtype and on its device. The caller may
            change it.

        Raises:
            ContextError: a sequence is empty, too long, or has ids that the model does not know,
                or there is not enough memory. What was cached stays.
        """
        if not sequences:
            raise ContextError("there are no contexts to read")
        starts = [self._start(sequence.ids, row) for row, sequence in enumerate(sequences)]
        runs = list(map(_run, sequences, starts))
        rows: dict[_Run, _Cached] = {}
        # Prompts are run apart from what goes on: together, all rows would run as many ids.
        for is_prompt in (True, False):
            new = {
                run: one.ids
                for run, one in zip(runs, sequences, strict=True)
                if run is not None and (run.kept == 0) is is_prompt
            }
            rows |= self._run(new) if new else {}
        for run, sequence in zip(runs, sequences, strict=True):
            if run is not None:
                sequence._cached, sequence._kept = rows[run], rows[run].stop
                self._live.add(sequence)
        cached = [sequence._cached for sequence in sequences]
        # Not in inference mode: what comes out of it may not be changed in place.
        found = torch.stack([row.batch.logits[row.index] for row in cached])
        self._let_go()
        return found

    def remove(self, sequence: CachedSequence) -> None:
        """Forget what is cached of a sequence; the next call makes room of it."""
        self._live.discard(sequence)
        sequence._cached, sequence._kept = _NOTHING, 0

    def _start(self, ids: list[int], row: int) -> int:
        """The first of the ids that the model reads."""
        if not ids:
            raise ContextError(f"the context of row {row} is empty: it needs at least one id")
        if self.max_length is None or len(ids) <= self.max_length:
            return 0
        if self._window is None:
            raise ContextError(
                f"the context of row {row} has {len(ids)} ids, but the model reads at most "
                f"{self.max_length}: make it shorter, or read its last ids only (`window=`)"
            )
        step = max(1, self._window // 4)
        moves = -(-(len(ids) - self._window) // step)
        return moves * step

    def _run(self, runs: dict[_Run, list[int]]) -> dict[_Run, _Cached]:
        """One forward; `runs` has with each the ids of its sequence."""
        batches = {run.source.batch: None for run in runs}
        place = {batch: number for number, batch in enumerate(batches)}
        ordered = sorted(runs, key=lambda run: (place[run.source.batch], run.source.index))
        self._check_ids(ordered)
        count = max(len(run.tail) for run in ordered)
        try:
            batch = self._forward([(run, runs[run]) for run in ordered], count)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            longest = max(run.length for run in ordered)
            raise ContextError(
                f"out of memory for {len(ordered)} contexts of up to {longest} ids: use fewer "
                "rows, or a `window`"
            ) from error
        self.ids_run += len(ordered) * count
        return {
            run: _Cached(batch, index, run.start, run.start + run.length)
            for index, run in enumerate(ordered)
        }

    def _check_ids(self, runs: list[_Run]) -> None:
        """On a GPU, an id without an embedding would end the process."""
        embeddings: Any = self.model.get_input_embeddings()
        num_ids = embeddings.num_embeddings
        for wrong in (i for run in runs for i in run.tail if not 0 <= i < num_ids):
            raise ContextError(f"the id {wrong} is in a context, but the model has {num_ids} ids")

    @torch.inference_mode()
    def _forward(self, runs: list[tuple[_Run, list[int]]], count: int) -> _Batch:
        """Run the last `count` ids of each row behind what is cached of it."""
        device = self.model.device
        lengths = torch.tensor([run.length for run, _ in runs])
        cached = [(run.source, max(run.length - count, 0)) for run, _ in runs]
        slots = max(kept for _, kept in cached) + count
        rows = [
            [0] * (count - run.length) + ids[max(run.start, len(ids) - count) :]
            for run, ids in runs
        ]
        positions = (lengths[:, None] - count + torch.arange(count)).clamp(min=0)
        mask = torch.arange(slots) >= slots - lengths[:, None]
        cache = _first_ids(cached, slots - count)
        with small_products(self._layers if len(rows) > 1 else ()):
            output = self.model(
                input_ids=torch.tensor(rows, device=device),
                attention_mask=None if bool(mask.all()) else mask.long().to(device),
                position_ids=positions.to(device),
                use_cache=True,
                logits_to_keep=1,
                **{self._cache_keyword: cache},
            )
        return _Batch(cache, output.logits[:, -1, : self.num_logits], slots)

    def _let_go(self) -> None:
        """Free the rows of batches that no sequence needs any more."""
        used: dict[_Batch, dict[_Cached, None]] = {}
        for sequence in self._live:
            used.setdefault(sequence._cached.batch, {})[sequence._cached] = None
        moved: dict[_Cached, _Cached] = {}
        for batch, rows in used.items():
            if len(rows) < len(batch.logits):
                moved |= _narrowed(batch, list(rows))
        if moved:
            for sequence in self._live:
                sequence._cached = moved.get(sequence._cached, sequence._cached)


def _run(sequence: CachedSequence, start: int) -> _Run | None:
    """Find what is to be run for a sequence, read from `start` on; None if nothing changed."""
    cached, ids = sequence._cached, sequence.ids
    kept = max(sequence._kept - start, 0) if cached.start == start else 0
    length = len(ids) - start
    if kept == length == cached.stop - start:
        return None
    kept = min(kept, length - 1)  # the last id is run even where it is cached: its logits are not
    return _Run(cached if kept else _NOTHING, kept, start, tuple(ids[start + kept :]))


def _check_layers(model: PreTrainedModel, layer_types: Iterable[str]) -> None:
    others = set(layer_types) - _WITH_KEYS_AND_VALUES
    if others or getattr(model, "_is_stateful", False):  # as transformers marks recurrent models
        kinds = ", ".join(sorted(others)) or "recurrent"
        raise ContextError(
            f"the model has layers of another kind than full and sliding attention ({kinds}): "
            "their state cannot be taken back to an earlier id"
        )


@torch.inference_mode()
def _narrowed(batch: _Batch, rows: list[_Cached]) -> dict[_Cached, _Cached]:
    """The same rows, in a batch that has no others."""
    slots = max(row.stop - row.start for row in rows)
    cache = _first_ids([(row, row.stop - row.start) for row in rows], slots)
    narrow = _Batch(cache, batch.logits[[row.index for row in rows]], slots)
    return {row: _Cached(narrow, i, row.start, row.stop) for i, row in enumerate(rows)}


def _first_ids(cached: list[tuple[_Cached, int]], slots: int) -> Cache:
    """The keys and values of the first so many ids of each row, in the last of `slots` slots.

    The caches they come from are left as they are, so that a forward that fails does no harm.
    """
    if slots == 0:
        return empty_cache()
    groups = [list(group) for _, group in groupby(cached, key=lambda pair: pair[0].batch)]
    if len(groups) == 1 and (stop := _common_stop(groups[0], slots)):
        return part_of_cache(groups[0][0][0].batch.cache, stop - slots, stop)
    return gathered_cache([_pick(group, slots) for group in groups])


def _ends(group: list[tuple[_Cached, int]]) -> list[int]:
    """Of rows of one batch: the slot behind the ids that are taken of each."""
    return [row.batch.slots - (row.stop - row.start) + kept for row, kept in group]


def _common_stop(group: list[tuple[_Cached, int]], slots: int) -> int | None:
    """The slot behind all rows of a batch, if it is the same and they need no copy."""
    batch, ends = group[0][0].batch, _ends(group)
    is_whole = [row.index for row, _ in group] == list(range(len(batch.logits)))
    return ends[0] if is_whole and min(ends) == max(ends) >= slots else None


def _pick(group: list[tuple[_Cached, int]], slots: int) -> tuple[Cache, Tensor, Tensor]:
    """The rows of a batch, and of each the slots that become the last of `slots` slots."""
    batch = group[0][0].batch
    device = batch.logits.device
    # Slots before a row's first id are masked: they repeat that id's, which are finite.
    first = torch.tensor([batch.slots - (row.stop - row.start) for row, _ in group])[:, None]
    taken = (torch.tensor(_ends(group))[:, None] - slots + torch.arange(slots)).maximum(first)
    rows = torch.tensor([row.index for row, _ in group], device=device)[:, None]
    return batch.cache, rows, taken.to(device)
