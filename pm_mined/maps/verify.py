"""Checking that a map is whole, and that it belongs to the vocabularies at hand."""

import shlex
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pm_mined.display import display_token
from pm_mined.errors import MapFileError, VocabularyError
from pm_mined.kernels.tokens import UNMAPPED, Kind, Rule
from pm_mined.tokenizer.load import load_vocabulary
from pm_mined.tokenizer.locate import local_files
from pm_mined.tokenizer.registry import named_vocabularies
from pm_mined.vocabulary import Vocabulary

from .arrow_columns import packed_tokens
from .info import SIDES, Side
from .token_map import TokenMap

_IdTokens = dict[int, tuple[bytes, Kind | None]]


def check_map(token_map: TokenMap) -> None:
    """Check every column, and that the columns agree; a load leaves that unchecked.

    Raises:
        MapFileError: the map is damaged, or its columns contradict each other.

    >>> check_map(load_map("llama3-to-qwen3.arrow"))  # doctest: +SKIP
    """
    token_map.to_arrow()
    unmapped = token_map.dst_id == UNMAPPED
    undecided = token_map.rule == Rule.NONE
    names = token_map.names("rule")
    counts = np.bincount(token_map.rule, minlength=len(names)).tolist()
    decided = (token_map.rule == Rule.OVERRIDE) | (token_map.rule == Rule.SPECIAL)
    contradictions = {
        "unmapped though a rule decided": unmapped & ~undecided & (token_map.rule != Rule.OVERRIDE),
        "mapped though no rule decided": undecided & ~unmapped,
        "unmapped, but with a distance": unmapped & (token_map.distance != -1),
        "mapped, but without a distance": ~unmapped & (token_map.distance < 0),
        "a distance longer than its tokens": token_map.distance > _longest(token_map),
        "several destination tokens by hand or role": decided & (token_map.choice_counts > 1),
        "its destination token spelled in two ways": _spelled_otherwise(token_map),
    }
    for what, where in contradictions.items():
        if (ids := np.flatnonzero(where)).size:
            some = f"{ids.size:,} tokens" if ids.size > 1 else "1 token"
            said = f"{what}: {some}, the first is id {ids[0]}"
            raise MapFileError(f"the map contradicts itself: {said}; build it again")
    if dict(zip(names, counts, strict=True)) != token_map.info.rules:
        raise MapFileError("the map contradicts itself: its counts by rule are not its rules")
    if token_map.source.fingerprint != token_map.info.src.fingerprint:
        raise MapFileError("the map contradicts itself: its source tokens have another fingerprint")


def _longest(token_map: TokenMap) -> NDArray[np.int64]:
    """int64 [source ids]: the size of the longer one of both tokens, in bytes."""
    sides = (packed_tokens(token_map.column(name)) for name in ("src_token", "dst_token"))
    longest: NDArray[np.int64] = np.maximum(*(np.diff(side.offsets) for side in sides))
    return longest


def _spelled_otherwise(token_map: TokenMap) -> NDArray[np.bool_]:
    tokens = packed_tokens(token_map.column("dst_token")).tolist()
    spelling: dict[int, bytes] = {}
    ids = token_map.dst_id.tolist()
    return np.array(
        [
            i != UNMAPPED and spelling.setdefault(i, t) != t
            for i, t in zip(ids, tokens, strict=True)
        ],
        bool,
    )


def vocabulary_of(token_map: TokenMap, side: Side, spec: str | None = None) -> Vocabulary:
    """Load the vocabulary that a map was built from, and make sure that it is the one.

    `spec` says where it is, as for `load_vocabulary`; a vocabulary of the registry needs none.

    Raises:
        VocabularyError: it cannot be found or read, or is another one: the text says in what.
    """
    vocabulary = load_vocabulary(spec if spec is not None else place_of(token_map, side))
    if (how := difference(token_map, side, vocabulary)) is not None:
        raise VocabularyError(f"{vocabulary.name} is not the {SIDES[side]} of this map: {how}")
    return vocabulary


def place_of(token_map: TokenMap, side: Side) -> str:
    """The registered name of a vocabulary of a map: what `load_vocabulary` takes.

    Whoever made the map wrote what else it says of its vocabularies: no file is opened, and no
    repository asked, because a map names it.

    Raises:
        VocabularyError: the map was not built from a vocabulary of the registry.
    """
    info = token_map.info.of(side)
    entry = named_vocabularies().get(info.name)
    kind, _, place = info.source.partition(":")
    if entry is not None and (kind == "pypi" or (kind == "hub" and place == entry.hub)):
        return info.name
    example = f", such as --{side} {shlex.quote(place)}" if kind == "hub" else ""
    raise VocabularyError(
        f"the map's {SIDES[side]} {info.name} came from {info.source}, and a map does not decide "
        f"what is opened: say where it is with --{side}{example}"
    )


def files_of(token_map: TokenMap, side: Side, spec: str | None = None) -> list[Path]:
    """The files that `vocabulary_of` would read, as `local_files` finds them."""
    with suppress(VocabularyError, OSError):  # reading it says why
        return local_files(spec if spec is not None else place_of(token_map, side))
    return []


def difference(token_map: TokenMap, side: Side, vocabulary: Vocabulary) -> str | None:
    """Describe the difference of `vocabulary` from the map's; None if it is the same.

    A map holds all source tokens, but only those destination tokens that are first choices.
    """
    info = token_map.info.of(side)
    if vocabulary.fingerprint == info.fingerprint:
        return None
    known = _source_tokens(token_map) if side == "src" else _destination_tokens(token_map)
    differing = [i for i, token in known.items() if not _is_token(vocabulary, i, *token)]
    said = []
    if len(vocabulary) != info.size:
        said.append(f"{info.size:,} tokens in the map, {len(vocabulary):,} in {vocabulary.name}")
    shared = [i for i in differing if i < len(vocabulary)]
    if shared:
        said.append(_first_difference(known, shared, vocabulary))
    elif side == "src":
        said.append("the tokens that both have are the same")
    else:
        said.append("the destination tokens of the map are the same")
    return "; ".join(said)


def _source_tokens(token_map: TokenMap) -> _IdTokens:
    source = token_map.source
    kinds = [Kind(kind) for kind in source.packed.kinds.tolist()]
    return dict(enumerate(zip(source.packed.tolist(), kinds, strict=True)))


def _destination_tokens(token_map: TokenMap) -> _IdTokens:
    tokens = packed_tokens(token_map.column("dst_token")).tolist()
    pairs = zip(token_map.dst_id.tolist(), tokens, strict=True)
    return {dst_id: (token, None) for dst_id, token in sorted(pairs) if dst_id != UNMAPPED}


def _is_token(vocabulary: Vocabulary, token_id: int, token: bytes, kind: Kind | None) -> bool:
    if token_id >= len(vocabulary) or vocabulary[token_id] != token:
        return False
    return kind is None or vocabulary.kind(token_id) == kind


def _first_difference(known: _IdTokens, differing: list[int], vocabulary: Vocabulary) -> str:
    first = differing[0]
    token, kind = known[first]
    here, kind_here = vocabulary[first], vocabulary.kind(first)
    of = f" ({kind.name.lower()})" if kind is not None else ""
    reserved = (Kind.SPECIAL, Kind.UNUSED)
    only = all(
        vocabulary.kind(i) in reserved and known[i][1] in (None, *reserved) for i in differing
    )
    which = ", special or unused ones only" if only else ""
    count = f"{len(differing):,} tokens differ" if len(differing) > 1 else "1 token differs"
    return (
        f"{count}{which}: id {first} is {display_token(token)}{of} in "
        f"the map and {display_token(here)} ({kind_here.name.lower()}) in {vocabulary.name}"
    )
