"""A key-value cache that grows in place: a step writes its own keys and values, and copies none.

transformers' `DynamicCache` copies all that it holds whenever something is added. Here each layer
keeps its keys and values in memory with room behind them. Several caches may share that memory: a
cache that was made from the beginning of another is a view of it. What is added is written in place
where nothing follows yet, and else what there is is copied first, so that no other cache changes.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

_GROWTH = 1.5  # times the slots in use
_LEAST = 64  # slots


class _Room:
    """Memory for the keys and values of one layer: [rows, heads, slots, size] each."""

    def __init__(self, keys: Tensor, values: Tensor, slots: int) -> None:
        self._memory = [_with_slots(states, slots) for states in (keys, values)]
        self.slots = slots
        self.filled = keys.shape[2]

    def write(self, *new: Tensor) -> None:
        """Put keys and values behind what there is."""
        stop = self.filled + new[0].shape[2]
        for memory, states in zip(self._memory, new, strict=True):
            memory[:, :, self.filled : stop] = states
        self.filled = stop

    def read(self, start: int, stop: int) -> list[Tensor]:
        """The keys and values of these slots, without a copy."""
        return [memory[:, :, start:stop] for memory in self._memory]


def _with_slots(states: Tensor, slots: int) -> Tensor:
    """A copy of `states` in memory of so many slots."""
    rows, heads, filled, size = states.shape
    memory = states.new_empty(rows, heads, slots, size)
    memory[:, :, :filled] = states
    return memory


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call] # transformers is typed in part
    """The `keys` and `values` of one attention layer: [rows, heads, slots, size] each."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._room: _Room | None = None
        self._start = self._stop = 0  # which slots of the room are this layer's

    @classmethod
    def of(cls, keys: Tensor, values: Tensor) -> Self:
        """A layer that holds these."""
        layer = cls()
        layer._hold(keys, values)
        return layer

    def part(self, start: int, stop: int) -> Self:
        """A layer that holds the slots from `start` to `stop`, in the same memory."""
        layer = self.of(self.keys[:, :, start:stop], self.values[:, :, start:stop])
        layer._room = self._room
        layer._start, layer._stop = self._start + start, self._start + stop
        return layer

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        """Add keys and values, and return all; called by the model's attention."""
        if self.is_initialized:
            self._room = self._room_for(key_states.shape[2])
            self._room.write(key_states, value_states)
            self._stop += key_states.shape[2]
            key_states, value_states = self._room.read(self._start, self._stop)
        self._hold(key_states, value_states)
        return self.keys, self.values

    def _hold(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def _room_for(self, new: int) -> _Room:
        """The room, if so many slots can be written behind this layer's; else another."""
        room = self._room
        if room is not None and room.filled == self._stop <= room.slots - new:
            return room
        self._start, self._stop = 0, self.keys.shape[2]
        needed = self._stop + new
        return _Room(self.keys, self.values, max(int(_GROWTH * needed), needed + _LEAST))


def empty_cache() -> Cache:
    """A cache to which a model adds its layers."""
    return Cache(layer_class_to_replicate=GrowingLayer)


def part_of_cache(cache: Cache, start: int, stop: int) -> Cache:
    """A cache of the slots from `start` to `stop` of another, in the same memory."""
    return Cache(layers=[layer.part(start, stop) for layer in _layers(cache)])


def gathered_cache(
    sources: Sequence[tuple[Cache, Tensor, Tensor]],
) -> Cache:
    """A cache of rows of several others.

    Args:
        sources: Of each, the cache, the rows that are taken from it (int64 [rows, 1]), and which
            of their slots (int64 [rows, slots]; as many for all).
    """
    layers = zip(*(_layers(cache) for cache, _, _ in sources), strict=True)
    picks = [(rows, slots) for _, rows, slots in sources]
    return Cache(
        layers=[
            GrowingLayer.of(
                _gathered([layer.keys for layer in layer_of_each], picks),
                _gathered([layer.values for layer in layer_of_each], picks),
            )
            for layer_of_each in layers
        ]
    )


def _layers(cache: Cache) -> list[GrowingLayer]:
    layers: list[Any] = cache.layers  # made here or by `empty_cache`
    return layers


def _gathered(states: list[Tensor], picks: list[tuple[Tensor, Tensor]]) -> Tensor:
    """[rows, heads, slots, size] of the picked rows, one source after the other."""
    parts = [
        one[rows, :, slots].transpose(1, 2)
        for one, (rows, slots) in zip(states, picks, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
