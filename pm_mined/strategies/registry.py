"""Matching strategies: each maps the ordinary tokens of one vocabulary onto another's.

Special tokens and overrides are not theirs: `build_map` puts them on top. Every strategy takes
the same bytes first (rules `exact` and `byte`); what it does with the other tokens is its own.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple, get_args

import numpy as np

from pm_mined.errors import OptionError, VocabularyError
from pm_mined.kernels.tokens import UNMAPPED, Choices, Matches, Rule, Unit
from pm_mined.vocabulary import Vocabulary


class Options(NamedTuple):
    """What a strategy can be told."""

    unit: Unit = "char"
    fallback: str | None = None  # "edit": the nearest by edit distance, where nothing else is
    max_distance: int = 2  # of the fallback
    top_k: int = 8  # destination tokens for each source token, at most
    decay: float = 0.5  # what one more place, or one more edit, leaves of a weight


class Matched(NamedTuple):
    """What a strategy finds."""

    matches: Matches
    choices: Choices | None = None  # None: one destination token each, that of `matches`


Match = Callable[[Vocabulary, Vocabulary, Options], Matched]


def pm_mined(src: Vocabulary, dst: Vocabulary, options: Options) -> Matched:
    """Exact bytes, else the nearest prefix or extension; with a fallback, else the nearest."""
    from pm_mined.kernels.prefix_match import prefix_match

    try:
        matches = prefix_match(src.packed, dst.packed, options.unit)
    except ValueError as error:
        raise VocabularyError(f"the destination vocabulary is too large: {error}") from error
    if options.fallback == "edit":
        _put_nearest(matches, src, dst, options.unit, options.max_distance)
    return Matched(matches)


def exact(src: Vocabulary, dst: Vocabulary, options: Options) -> Matched:
    """Exact bytes only."""
    matches = pm_mined(src, dst, options._replace(fallback=None)).matches
    inexact = matches.rule > Rule.BYTE
    matches.dst_id[inexact] = UNMAPPED
    matches.rule[inexact] = Rule.NONE
    matches.distance[inexact] = -1
    return Matched(matches)


def mined(src: Vocabulary, dst: Vocabulary, options: Options) -> Matched:
    """Exact bytes, else the nearest of all destination tokens by edit distance."""
    matches = exact(src, dst, options).matches
    _put_nearest(matches, src, dst, options.unit, None)
    return Matched(matches)


def _put_nearest(
    matches: Matches, src: Vocabulary, dst: Vocabulary, unit: Unit, max_distance: int | None
) -> None:
    """Let edit distance decide what is not mapped yet."""
    from pm_mined.kernels.nearest import nearest

    rows = np.flatnonzero(matches.dst_id == UNMAPPED)
    dst_id, distance = nearest(src.packed.take(rows), dst.packed, unit, max_distance)
    matches.dst_id[rows] = dst_id
    matches.distance[rows] = distance
    matches.rule[rows] = np.where(dst_id == UNMAPPED, Rule.NONE, Rule.EDIT)


def _in(module: str, name: str) -> Match:
    """A strategy of another module, imported when it is used."""

    def match(src: Vocabulary, dst: Vocabulary, options: Options) -> Matched:
        strategy: Match = getattr(import_module(f".{module}", __package__), name)
        return strategy(src, dst, options)

    return match


class Strategy(NamedTuple):
    """A strategy, and the options that it takes beside `unit`, with their defaults."""

    match: Match
    options: dict[str, Any]
    asks_tokenizer: bool = False


STRATEGIES = {
    "pm-mined": Strategy(pm_mined, {"fallback": None, "max_distance": 2}),
    "exact": Strategy(exact, {}),
    "mined": Strategy(mined, {}),
    "first-token": Strategy(_in("encoding", "first_token"), {}, asks_tokenizer=True),
    "distribute": Strategy(_in("encoding", "distribute"), {"top_k": 8}, asks_tokenizer=True),
    "decay": Strategy(_in("encoding", "decay"), {"top_k": 8, "decay": 0.1}, asks_tokenizer=True),
    "prefixes": Strategy(_in("prefixes", "prefixes"), {"top_k": 8, "decay": 0.5}),
    "both-ways": Strategy(_in("encoding", "both_ways"), {}, asks_tokenizer=True),
}

_ALLOWED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "unit": ("'char' or 'byte'", lambda value: value in get_args(Unit)),
    "fallback": ("'edit'", lambda value: value == "edit"),
    "max_distance": (
        "a number from 1 to 64",
        lambda value: type(value) is int and 1 <= value <= 64,
    ),
    "top_k": ("a number from 1 to 1024", lambda value: type(value) is int and 1 <= value <= 1024),
    "decay": (
        "a number more than 0 and at most 1",
        lambda value: isinstance(value, float | int) and 0 < value <= 1,
    ),
}


def options_of(strategy: str, given: dict[str, Any]) -> Options:
    """The options of a strategy: what is given and not None, else its defaults.

    Raises:
        OptionError: there is no such strategy, it does not take an option, or not that value.

    >>> options_of("decay", {"top_k": 4, "decay": None})
    Options(unit='char', fallback=None, max_distance=2, top_k=4, decay=0.1)
    """
    if strategy not in STRATEGIES:
        raise OptionError(f"no strategy {strategy!r}; there are {', '.join(STRATEGIES)}")
    defaults = STRATEGIES[strategy].options
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if name not in ("unit", *defaults):
            takers = [other for other, one in STRATEGIES.items() if name in one.options]
            raise OptionError(f"strategy {strategy} takes no {name}: {' or '.join(takers)} does")
        what, allows = _ALLOWED[name]
        if not allows(value):
            raise OptionError(f"{name} is {value!r}: it must be {what}")
    if "max_distance" in given and "fallback" not in given:
        raise OptionError("max_distance bounds the fallback: give fallback 'edit' as well")
    return Options(**{**defaults, **given})


def describe(strategy: str, options: Options) -> dict[str, Any]:
    """A strategy and all the options that it goes by, as a map remembers them.

    >>> describe("exact", Options("byte"))
    {'name': 'exact', 'unit': 'byte'}
    """
    taken = {name: getattr(options, name) for name in STRATEGIES[strategy].options}
    if taken.get("fallback", "edit") is None:
        taken = {}
    return {"name": strategy, "unit": options.unit, **taken}
