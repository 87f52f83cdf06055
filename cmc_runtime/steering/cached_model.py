"""Next-token logits of a model as a function of contexts, made fast by a key-value cache.

A call runs one forward for all rows whose context is new. Each goes on from the cached row with
the longest common prefix, so rows may be reordered, repeated, added or dropped from call to call.

A forward is padded on the left, as transformers' models expect, and every row runs as many ids as
the one that needs most: a row that needs fewer runs its last cached ids again, in slots that would
be padding otherwise. So the ids of a row always lie in adjacent slots, whatever was taken back,
and the model's own masks hold, that of a sliding window too.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from cmc_runtime.errors import ContextError
from cmc_runtime.models.load import cache_keyword, is_out_of_memory, num_logits_of
from pm_mined import OptionError

Context = tuple[int, ...]

_WITH_KEYS_AND_VALUES = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, eq=False)
class _Batch:
    """What one forward left. A row's ids lie in its last slots; before them is anything finite."""

    cache: DynamicCache  # keys and values of each layer: float [rows, heads, slots, size]
    logits: torch.Tensor  # float [rows, num_logits]
    slots: int


@dataclass(frozen=True, eq=False)
class _Row:
    """A cached context."""

    context: Context
    batch: _Batch
    index: int


@dataclass(frozen=True)
class _Start:
    """A context: the first ids of a cached row, and new ones."""

    source: _Row
    shared: int
    tail: Context

    @property
    def length(self) -> int:
        return self.shared + len(self.tail)

    @property
    def context(self) -> Context:
        return self.source.context[: self.shared] + self.tail

    @property
    def is_cached(self) -> bool:
        return not self.tail and self.shared == len(self.source.context)

    @property
    def to_run(self) -> int:
        """The last id of a context is run even where its keys are cached: its logits are not."""
        return max(len(self.tail), 1)


class CachedModel:
    """The next-token logits of a causal language model for any contexts.

    Args:
        model: A transformers model in eval mode; all its layers are attention layers.
        num_logits: The first so many logits of each row are returned; None returns all.
        window: What happens to contexts longer than the model's position limit. By default they
            are an error. With a window only the last ids of a long context are read: at most
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
        self._cache_keyword = cache_keyword(model)
        self._rows = [_NOTHING]  # of the last call, in its order

    def logits(self, contexts: Sequence[Sequence[int]]) -> torch.Tensor:
        """The next-token logits after each context, as an uncached forward of it alone gives them.

        Args:
            contexts: The ids of each row; at least one row, and one id in each.

        Returns:
            Float [rows, num_logits], in the model's dtype and on its device. The caller may
            change it.

        Raises:
            ContextError: a context is empty, too long, or has ids that the model does not know,
                or there is not enough memory. What was cached stays.
        """
        if not contexts:
            raise ContextError("there are no contexts to read")
        readable = [self._readable(tuple(ids), row) for row, ids in enumerate(contexts)]
        starts: dict[Context, _Start] = {}
        for row, context in enumerate(readable):
            if context not in starts:
                starts[context] = self._start(context, row)
        new = [start for start in starts.values() if not start.is_cached]
        rows = self._run(new) if new else {}
        self._rows = _let_go([rows.get(starts[c], starts[c].source) for c in readable])
        # Not in inference mode: what comes out of it may not be changed in place.
        return torch.stack([row.batch.logits[row.index] for row in self._rows])

    def _readable(self, context: Context, row: int) -> Context:
        """The part of a context that the model reads."""
        if not context:
            raise ContextError(f"the context of row {row} is empty: it needs at least one id")
        if self.max_length is None or len(context) <= self.max_length:
            return context
        if self._window is None:
            raise ContextError(
                f"the context of row {row} has {len(context)} ids, but the model reads at most "
                f"{self.max_length}: make it shorter, or read its last ids only (`window=`)"
            )
        step = max(1, self._window // 4)
        moves = -(-(len(context) - self._window) // step)
        return context[moves * step :]

    def _start(self, context: Context, row: int) -> _Start:
        """What of a context is cached; mostly its row of the last call has it."""
        source, shared = self._rows[0], 0
        for candidate in self._rows[row : row + 1] + self._rows:
            # A row that does not agree on the next id cannot have more.
            if candidate.context[shared : shared + 1] == context[shared : shared + 1]:
                more = _common_prefix(candidate.context, context)
                if more >= shared:
                    source, shared = candidate, more
        return _Start(source, shared, context[shared:])

    def _run(self, starts: list[_Start]) -> dict[_Start, _Row]:
        """One forward for contexts that are not cached."""
        batches = list(dict.fromkeys(row.batch for row in self._rows))
        starts.sort(key=lambda start: (batches.index(start.source.batch), start.source.index))
        self._check_ids(starts)
        count = max(start.to_run for start in starts)
        try:
            batch = self._forward(starts, count)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            longest = max(start.length for start in starts)
            raise ContextError(
                f"out of memory for {len(starts)} contexts of up to {longest} ids: use fewer rows, "
                "or a `window`"
            ) from error
        self.ids_run += len(starts) * count
        return {start: _Row(start.context, batch, index) for index, start in enumerate(starts)}

    def _check_ids(self, starts: list[_Start]) -> None:
        """On a GPU, an id without an embedding would end the process."""
        embeddings: Any = self.model.get_input_embeddings()
        num_ids = embeddings.num_embeddings
        for wrong in (i for start in starts for i in start.tail if not 0 <= i < num_ids):
            raise ContextError(f"the id {wrong} is in a context, but the model has {num_ids} ids")

    @torch.inference_mode()
    def _forward(self, starts: list[_Start], count: int) -> _Batch:
        """Run the last `count` ids of each context behind what is cached of it."""
        device = self.model.device
        lengths = torch.tensor([start.length for start in starts])
        cached = [(start.source, max(start.length - count, 0)) for start in starts]
        slots = max(kept for _, kept in cached) + count
        ids = [(0,) * (count - start.length) + start.context[-count:] for start in starts]
        positions = (lengths[:, None] - count + torch.arange(count)).clamp(min=0)
        mask = torch.arange(slots) >= slots - lengths[:, None]
        cache = _first_ids(cached, slots - count)
        output = self.model(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=None if bool(mask.all()) else mask.long().to(device),
            position_ids=positions.to(device),
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_keyword: cache},
        )
        return _Batch(cache, output.logits[:, -1, : self.num_logits], slots)


_NOTHING = _Row((), _Batch(DynamicCache(), torch.empty(1, 0), 0), 0)


def _check_layers(model: PreTrainedModel, layer_types: Iterable[str]) -> None:
    others = set(layer_types) - _WITH_KEYS_AND_VALUES
    if others or getattr(model, "_is_stateful", False):  # as transformers marks recurrent models
        kinds = ", ".join(sorted(others)) or "recurrent"
        raise ContextError(
            f"the model has layers of another kind than full and sliding attention ({kinds}): "
            "their state cannot be taken back to an earlier id"
        )


def _common_prefix(a: Context, b: Context) -> int:
    """How many ids two contexts share; by slices, which Python compares in C."""
    low, high = 0, min(len(a), len(b))
    middle = high  # mostly, one goes on from the other
    while low < high:
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
        middle = (low + high + 1) // 2
    return low


def _let_go(rows: list[_Row]) -> list[_Row]:
    """The same rows, without the memory of others that were in their batches."""
    batches: dict[_Batch, list[_Row]] = {}
    for row in dict.fromkeys(rows):
        batches.setdefault(row.batch, []).append(row)
    kept = {row: new for members in batches.values() for row, new in _narrowed(members).items()}
    return [kept[row] for row in rows]


@torch.inference_mode()
def _narrowed(rows: list[_Row]) -> dict[_Row, _Row]:
    """Rows of one batch, in a batch that has no others."""
    batch = rows[0].batch
    if len(rows) == len(batch.logits):
        return {row: row for row in rows}
    slots = max(len(row.context) for row in rows)
    cache = _first_ids([(row, len(row.context)) for row in rows], slots)
    narrow = _Batch(cache, batch.logits[[row.index for row in rows]], slots)
    return {row: _Row(row.context, narrow, index) for index, row in enumerate(rows)}


def _first_ids(cached: list[tuple[_Row, int]], slots: int) -> DynamicCache:
    """The keys and values of the first so many ids of each row, in the last of `slots` slots.

    The caches they come from are left as they are, so that a forward that fails does no harm.
    """
    if slots == 0:
        return DynamicCache()
    groups = [list(group) for _, group in groupby(cached, key=lambda pair: pair[0].batch)]
    sources = [group[0][0].batch.cache for group in groups]
    picks = [_pick(group, slots) for group in groups]
    cache = copy.copy(sources[0])
    cache.layers = [copy.copy(layer) for layer in cache.layers]
    layer: Any  # only attention layers come here, and they have keys and values
    for number, layer in enumerate(cache.layers):
        parts: list[Any] = [
            (source.layers[number], pick) for source, pick in zip(sources, picks, strict=True)
        ]
        layer.keys = _joined([pick(part.keys) for part, pick in parts])
        layer.values = _joined([pick(part.values) for part, pick in parts])
    return cache


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _pick(group: list[tuple[_Row, int]], slots: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """What takes the rows' `slots` slots from keys or values of their batch."""
    batch = group[0][0].batch
    rows = [row.index for row, _ in group]
    ends = [batch.slots - len(row.context) + kept for row, kept in group]
    if rows == list(range(len(batch.logits))) and min(ends) == max(ends) >= slots:
        return lambda states: states[:, :, ends[0] - slots : ends[0]]  # no copy
    device = batch.logits.device
    # Slots before a row's first id are masked: they repeat that id's, which are finite.
    first = torch.tensor([batch.slots - len(row.context) for row, _ in group])[:, None]
    taken = (torch.tensor(ends)[:, None] - slots + torch.arange(slots)).maximum(first).to(device)
    of_row = torch.tensor(rows, device=device)[:, None]
    return lambda states: states[of_row, :, taken].transpose(1, 2)
