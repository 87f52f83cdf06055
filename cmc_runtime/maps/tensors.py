"""A token map as tensors: padded to the models' logits, on their device, with its inverse."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pm_mined import (
    MapFileError,
    OptionError,
    TokenMap,
    VocabularyError,
    load_map,
    load_vocabulary,
)
from pm_mined.kernels.tokens import UNMAPPED, Choices
from pm_mined.maps.verify import difference

Side = Literal["src", "dst"]

_SIDES: dict[Side, str] = {"src": "source", "dst": "destination"}
_OTHER: dict[Side, Side] = {"src": "dst", "dst": "src"}


class Inverse(NamedTuple):
    """The inverse of an index as CSR: id `d` stands at the ascending places
    `src_id[offsets[d]:offsets[d + 1]]`.
    """

    offsets: Tensor  # int32 [num_dst_logits + 1]
    src_id: Tensor  # int32 [mapped]


class ChoiceTensors(NamedTuple):
    """The source ids with several destination ids, the `i`th with
    `dst_id[offsets[i]:offsets[i + 1]]`.
    """

    src_id: Tensor  # int64 [such source ids], ascending
    offsets: Tensor  # int32 [such source ids + 1]
    dst_id: Tensor  # int32 [choices]
    weight: Tensor | None  # float32 [choices]; None: the largest logit is to be taken
    inverse: Inverse  # of `dst_id`: its `src_id` are places among the choices


class Moved(NamedTuple):
    """The source ids that the identity map has elsewhere: all at one destination id."""

    src_id: Tensor  # int64 [moved], ascending
    dst_id: int


@dataclass(frozen=True, eq=False)
class MapTensors:
    """A token map for logits of given widths, from `load_map_tensors` or `identity_map_tensors`.

    All tensors are on one device, and all ids in them within the widths.

    >>> tensors = identity_map_tensors(4, 3)
    >>> tensors.num_src_logits, tensors.num_dst_logits, tensors.num_mapped
    (4, 3, 3)
    """

    index: Tensor
    """int32 [num_src_logits]: the (first) destination id, -1 where unmapped."""
    num_dst_logits: int
    choices: ChoiceTensors | None
    """Those of source ids with several destination ids; None if each has at most one."""
    inverse: Inverse
    """The inverse of `index`."""
    is_identity: bool
    """True if each id that both sides have maps to itself, and no other is mapped, but for
    those of `moved`."""
    moved: Moved | None = None
    """Source ids of the identity that map to one other id, as ends of texts do; None if none do."""

    @property
    def num_src_logits(self) -> int:
        """The width of the base logits."""
        return len(self.index)

    @property
    def num_mapped(self) -> int:
        """The number of source ids that are mapped."""
        return len(self.inverse.src_id)

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.index.device

    @cached_property
    def mapped(self) -> Tensor:
        """Bool [num_src_logits]: true where the source id is mapped."""
        with torch.inference_mode(False):  # it may be needed for a gradient later
            return self.index >= 0

    @cached_property
    def padded_index(self) -> Tensor:
        """int64 [num_src_logits]: `index` with `num_dst_logits`, one past the end, for -1."""
        with torch.inference_mode(False):
            return torch.where(self.mapped, self.index, self.num_dst_logits).long()


def load_map_tensors(
    token_map: str | PathLike[str] | TokenMap,
    *,
    device: torch.device | str | None = None,
    num_src_logits: int | None = None,
    num_dst_logits: int | None = None,
    src: Any = None,
    dst: Any = None,
    written: NDArray[np.bool_] | None = None,
) -> MapTensors:
    """Load a map, or take a loaded one, for the logits of a user model and of a delta model.

    `num_src_logits` and `num_dst_logits` are the widths of their logits; without them, the sizes
    of the vocabularies. What a model has beyond its vocabulary is unmapped. A model may have
    fewer logits than its vocabulary has tokens (Gemma 3: an image token that the text models do
    without), but only if the map neither maps nor maps to those that are missing.

    `src` and `dst` are the tokenizers in use, to make sure that the map is theirs: anything that
    `pm_mined.load_vocabulary` takes. `written`, bool [destination tokens], are those that the delta
    model has learned to write: where the largest logit of several tokens is to be taken, of these
    alone, if there are any, and else of the first. The others' logits are whatever training left
    there.

    Raises:
        MapFileError: the file is not a map, or is damaged.
        VocabularyError: a tokenizer is not the map's (the text says in what, and whether source
            and destination are swapped), or cannot be read.
        OptionError: a width leaves out tokens that the map uses; there is no such device.

    >>> from pm_mined import Kind, Vocabulary, build_map
    >>> src = Vocabulary.from_tokens([b" cats", b"<s>"], [Kind.TEXT, Kind.SPECIAL])
    >>> dst = Vocabulary.from_tokens([b"a", b" cat"], [Kind.TEXT, Kind.TEXT])
    >>> load_map_tensors(build_map(src, dst), num_src_logits=4).index
    tensor([ 1, -1, -1, -1], dtype=torch.int32)
    """
    loaded = token_map if isinstance(token_map, TokenMap) else load_map(token_map)
    _check_tokenizers(loaded, src, dst)
    index, choices = _written_first(loaded, written)
    num_src = loaded.info.src.size if num_src_logits is None else num_src_logits
    num_dst = loaded.info.dst.size if num_dst_logits is None else num_dst_logits
    read = index[index != UNMAPPED]
    if choices is not None:
        read = np.concatenate([read, choices.dst_id])
    if len(read) and not 0 <= read.min() <= read.max() < loaded.info.dst.size:
        raise MapFileError(f"the map has ids beyond its {loaded.info.dst.size:,} tokens")
    _check_width("src", num_src, np.flatnonzero(index != UNMAPPED), loaded)
    _check_width("dst", num_dst, read, loaded)
    return _tensors(_padded(index, num_src, UNMAPPED), num_dst, choices, device)


def identity_map_tensors(
    num_src_logits: int,
    num_dst_logits: int | None = None,
    *,
    device: torch.device | str | None = None,
    ends: Mapping[int, int] = MappingProxyType({}),
) -> MapTensors:
    """The map of a delta model with the user model's own vocabulary: id `i` maps to id `i`.

    `num_src_logits` and `num_dst_logits` are the widths of the logits of the user model and of
    the delta model, without the latter the same. Ids beyond the delta's width are unmapped. `ends`
    are ids that end a text and what these map to instead; all are within the widths.

    Raises:
        OptionError: a width is not a whole number; there is no such device.

    >>> identity_map_tensors(4, 3).index
    tensor([ 0,  1,  2, -1], dtype=torch.int32)
    """
    num_dst = num_src_logits if num_dst_logits is None else num_dst_logits
    _check_whole("src", num_src_logits)
    _check_whole("dst", num_dst)
    index = _identity(num_src_logits, num_dst)
    index[list(ends)] = list(ends.values())
    return _tensors(index, num_dst, None, device)


def _written_first(
    token_map: TokenMap, written: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int32], Choices | None]:
    """The first destination id of each source id, and all of them, without those never written."""
    index, choices = token_map.dst_id, token_map.choices
    if written is None or choices is None or choices.weight is not None:
        return index, choices
    choices = choices.among(written)
    mapped = np.diff(choices.offsets) > 0
    first = np.full_like(index, UNMAPPED)
    first[mapped] = choices.dst_id[choices.offsets[:-1][mapped]]
    return first, choices


def _check_tokenizers(token_map: TokenMap, src: Any, dst: Any) -> None:
    given: dict[Side, Any] = {"src": src, "dst": dst}
    found = {side: load_vocabulary(one) for side, one in given.items() if one is not None}
    differences = {side: difference(token_map, side, one) for side, one in found.items()}
    if all(how is None for how in differences.values()):
        return
    info = token_map.info
    if all(one.fingerprint == info.of(_OTHER[side]).fingerprint for side, one in found.items()):
        raise VocabularyError(
            f"source and destination are swapped: the map is from {info.src.name} to "
            f"{info.dst.name}; build the other one with `pm-mined build`, its --src being the "
            "model that is decoded and its --dst the delta"
        )
    for side, how in differences.items():
        if how is not None:
            name = found[side].name
            raise VocabularyError(f"{name} is not the {_SIDES[side]} of this map: {how}")


def _check_width(side: Side, width: int, used: NDArray[Any], token_map: TokenMap) -> None:
    """Refuse a width that leaves out ids in `used`: nothing is truncated silently."""
    info = token_map.info.of(side)
    _check_whole(side, width)
    beyond = np.unique(used[used >= width])
    if len(beyond):
        raise OptionError(
            f"num_{side}_logits is {width:,}, but {info.name} has {info.size:,} tokens, and the "
            f"map {'maps' if side == 'src' else 'maps to'} {len(beyond):,} of those that would be "
            f"left out (the first is id {beyond[0]}): the map is of another model"
        )


def _check_whole(side: Side, width: int) -> None:
    if type(width) is not int or width < 0:
        raise OptionError(f"num_{side}_logits is {width!r}; expected a whole number, 0 or more")


def _identity(num_src: int, num_dst: int) -> NDArray[np.int32]:
    return _padded(np.arange(num_dst, dtype=np.int32), num_src, UNMAPPED)


def _tensors(
    index: NDArray[np.int32],
    num_dst: int,
    choices: Choices | None,
    device: torch.device | str | None,
) -> MapTensors:
    has_several = choices is not None and bool((np.diff(choices.offsets) > 1).any())
    elsewhere = np.flatnonzero(index != _identity(len(index), num_dst))
    to = index[elsewhere]
    is_one = bool(len(to) and to[0] != UNMAPPED and (to == to[0]).all())
    is_moved = is_one and not has_several
    try:
        return MapTensors(
            index=torch.tensor(index, device=device),
            num_dst_logits=num_dst,
            choices=_choices(choices, num_dst, device) if choices and has_several else None,
            inverse=_inverse(index, num_dst, device),
            is_identity=not has_several and (is_moved or not len(to)),
            moved=Moved(torch.tensor(elsewhere, device=device), int(to[0])) if is_moved else None,
        )
    except (RuntimeError, AssertionError) as error:  # what torch raises without such a device
        reason = str(error).splitlines()[0]
        raise OptionError(f"the map cannot be put on device {device}: {reason}") from error


def _padded(values: NDArray[np.int32], width: int, padding: int) -> NDArray[np.int32]:
    """The first `width` values, or all of them and `padding` up to the width."""
    padded = np.full(width, padding, np.int32)
    kept = values[:width]
    padded[: len(kept)] = kept
    return padded


def _choices(choices: Choices, num_dst: int, device: torch.device | str | None) -> ChoiceTensors:
    """Those of source ids with several; the weight of one alone is 1."""
    counts = np.diff(choices.offsets)
    src_id = np.flatnonzero(counts > 1)
    kept = np.repeat(counts > 1, counts)
    offsets = np.concatenate([[0], np.cumsum(counts[src_id])]).astype(np.int32)
    dst_id, weight = choices.dst_id[kept], choices.weight
    return ChoiceTensors(
        torch.tensor(src_id, device=device),
        torch.tensor(offsets, device=device),
        torch.tensor(dst_id, device=device),
        None if weight is None else torch.tensor(weight[kept], device=device),
        _inverse(dst_id, num_dst, device),
    )


def _inverse(index: NDArray[np.int32], num_dst: int, device: torch.device | str | None) -> Inverse:
    places = np.flatnonzero(index != UNMAPPED)
    order = places[np.argsort(index[places], kind="stable")]
    counts = np.bincount(index[places], minlength=num_dst)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return Inverse(
        torch.tensor(offsets, device=device), torch.tensor(order.astype(np.int32), device=device)
    )
