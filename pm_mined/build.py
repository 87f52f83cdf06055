"""`build_map`: the whole algorithm on one screen."""

from os import PathLike

import numpy as np

from .kernels.tokens import UNMAPPED, Choices, Matches, Rule, Unit
from .maps.token_map import TokenMap
from .overrides.table import read_overrides
from .strategies.registry import STRATEGIES, metadata_of, options_of
from .strategies.special import markers_of, match_special_tokens
from .tokenizer.load import load_vocabulary
from .tokenizer.objects import Spec
from .vocabulary import Vocabulary


def build_map(
    src: Spec | Vocabulary,
    dst: Spec | Vocabulary,
    *,
    strategy: str = "pm-mined",
    unit: Unit = "char",
    fallback: str | None = None,
    max_distance: int | None = None,
    top_k: int | None = None,
    decay: float | None = None,
    overrides: str | PathLike[str] | None = None,
) -> TokenMap:
    """Map every token of `src` (the user model's) onto a token of `dst` (the delta model's).

    Vocabularies are given by name, path or Hub repository, or loaded: see `load_vocabulary`.
    Per token the first of these decides: the override table, the role of a special token, the
    same bytes, the strategy. Distances are in code points (`unit="char"`) or bytes (`"byte"`).

    What a token without an exact match maps to is the strategy's: a name of `STRATEGIES`, which has
    a line of `help` on each, and its `options` with their defaults. Maps of `"distribute"`,
    `"decay"` and `"prefixes"` are weighted: several destination tokens, with weights that sum to 1.
    Those of `"both-ways"` are grouped: of several, the largest logit is taken.

    Raises:
        OptionError: there is no such strategy, or it does not take these options.
        PmMinedError: a vocabulary or the override table cannot be used; the text says why.

    >>> from pm_mined import Kind, Vocabulary
    >>> src = Vocabulary.from_tokens([b"<s>", b" cats"], [Kind.SPECIAL, Kind.TEXT])
    >>> dst = Vocabulary.from_tokens([b" cat", b"<bos>"], [Kind.TEXT, Kind.SPECIAL])
    >>> build_map(src, dst).dst_id.tolist()
    [1, 0]
    """
    given = {"fallback": fallback, "max_distance": max_distance, "top_k": top_k, "decay": decay}
    options = options_of(strategy, {"unit": unit, **given})
    src, dst = load_vocabulary(src), load_vocabulary(dst)
    table = read_overrides(overrides, src, dst) if overrides is not None else None

    matches, choices = STRATEGIES[strategy].match(src, dst, options)
    markers = [i for i in markers_of(src) if matches.rule[i] > Rule.BYTE]
    _decide(matches, Rule.NONE, dict.fromkeys(markers, UNMAPPED))
    _decide(matches, Rule.SPECIAL, match_special_tokens(src, dst, markers))
    if table is not None:
        _decide(matches, Rule.OVERRIDE, table.dst_of)

    return TokenMap.from_matches(
        src,
        dst,
        matches,
        strategy=metadata_of(strategy, options),
        choices=None if choices is None else _decided(choices, matches, markers),
        overrides_sha256=table.sha256 if table is not None else None,
    )


def _decide(matches: Matches, rule: Rule, dst_of: dict[int, int]) -> None:
    """Let `rule` decide these source tokens; what it decides has no distance."""
    ids = list(dst_of)
    matches.dst_id[ids] = list(dst_of.values())
    matches.rule[ids] = rule
    matches.distance[ids] = [-1 if dst_id == UNMAPPED else 0 for dst_id in dst_of.values()]


def _decided(choices: Choices, matches: Matches, markers: list[int]) -> Choices:
    """Give tokens that no strategy decides one choice, or none."""
    rows = np.union1d(np.flatnonzero(matches.rule <= Rule.SPECIAL), markers).astype(np.int64)
    return choices.replace(rows, matches.dst_id[rows])
