"""`build_map`: the whole algorithm on one screen."""

from os import PathLike
from typing import get_args

from .errors import PmMinedError
from .kernels.tokens import UNMAPPED, Matches, Rule, Unit
from .overrides import read_overrides
from .registry import load_vocabulary
from .special_tokens import match_special_tokens
from .strategies import STRATEGIES
from .token_map import TokenMap
from .vocabulary import Vocabulary


def build_map(
    src: str | PathLike[str] | Vocabulary,
    dst: str | PathLike[str] | Vocabulary,
    *,
    strategy: str = "pm-mined",
    unit: Unit = "char",
    overrides: str | PathLike[str] | None = None,
) -> TokenMap:
    """Map every token of `src` (the user model's) onto a token of `dst` (the delta model's).

    Vocabularies are given by name, path or Hub repository, as in `load_vocabulary`, or loaded.
    Per token the first of these decides: the override table, the role of a special token, then
    the strategy: `"pm-mined"` takes the same bytes, else the nearest prefix or extension, with
    distances in code points (`unit="char"`) or bytes (`"byte"`); `"exact"` the same bytes only.

    Raises:
        PmMinedError: a vocabulary or the override table cannot be used; the text says why.

    >>> from pm_mined import Kind, Vocabulary
    >>> src = Vocabulary.from_tokens([b"<s>", b" cats"], [Kind.SPECIAL, Kind.TEXT])
    >>> dst = Vocabulary.from_tokens([b" cat", b"<bos>"], [Kind.TEXT, Kind.SPECIAL])
    >>> build_map(src, dst).dst_id.tolist()
    [1, 0]
    """
    if strategy not in STRATEGIES:
        raise PmMinedError(f"no strategy {strategy!r}; there are {', '.join(STRATEGIES)}")
    if unit not in get_args(Unit):
        raise PmMinedError(f"no unit {unit!r}; there are {', '.join(get_args(Unit))}")
    src = src if isinstance(src, Vocabulary) else load_vocabulary(src)
    dst = dst if isinstance(dst, Vocabulary) else load_vocabulary(dst)
    table = read_overrides(overrides, src, dst) if overrides is not None else None

    matches = STRATEGIES[strategy](src.packed, dst.packed, unit)
    _decide(matches, Rule.SPECIAL, match_special_tokens(src, dst))
    if table is not None:
        _decide(matches, Rule.OVERRIDE, table.dst_of)

    digest = table.sha256 if table is not None else None
    return TokenMap.from_matches(
        src, dst, matches, strategy=strategy, unit=unit, overrides_sha256=digest
    )


def _decide(matches: Matches, rule: Rule, dst_of: dict[int, int]) -> None:
    """Let `rule` decide these source tokens; what it decides has no distance."""
    ids = list(dst_of)
    matches.dst_id[ids] = list(dst_of.values())
    matches.rule[ids] = rule
    matches.distance[ids] = [-1 if dst_id == UNMAPPED else 0 for dst_id in dst_of.values()]
