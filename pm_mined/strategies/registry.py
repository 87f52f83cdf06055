"""The matching strategies by name, and their options.

A strategy maps the ordinary tokens of one vocabulary onto another's. Special tokens and overrides
are not its business: `build_map` puts them on top. Every strategy takes the same bytes first
(rules `exact` and `byte`); what it does with the other tokens is its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

from pm_mined.errors import OptionError
from pm_mined.kernels.tokens import Unit

from . import encoding, prefixes, spelling
from .base import Match, Options
from .candidates import Explain


class Strategy(NamedTuple):
    """A strategy, and all that is to be known of it."""

    help: str  # what a token without an exact match maps to
    match: Match
    explain: Explain
    options: dict[str, Any]  # those that it has beside `unit`, with their defaults
    asks_tokenizer: bool = False


STRATEGIES = {
    "pm-mined": Strategy(
        "the nearest prefix or extension; with fallback edit, else the nearest within max_distance",
        spelling.pm_mined,
        spelling.explain_pm_mined,
        {"fallback": None, "max_distance": 2},
    ),
    "exact": Strategy("nothing", spelling.exact, spelling.explain_exact, {}),
    "mined": Strategy(
        "the nearest of all tokens by edit distance", spelling.mined, spelling.explain_mined, {}
    ),
    "first-token": Strategy(
        "the first token of the destination tokenizer's encoding",
        encoding.first_token,
        encoding.explain_first_token,
        {},
        asks_tokenizer=True,
    ),
    "distribute": Strategy(
        "the tokens of that encoding, by equal weights",
        encoding.distribute,
        encoding.explain_weighted,
        {"top_k": 8},
        asks_tokenizer=True,
    ),
    "decay": Strategy(
        "the same, each with decay times the weight of the one before",
        encoding.decay,
        encoding.explain_weighted,
        {"top_k": 8, "decay": 0.1},
        asks_tokenizer=True,
    ),
    "prefixes": Strategy(
        "all prefixes and extensions, with decay times the weight for each edit more",
        prefixes.prefixes,
        spelling.explain_pm_mined,
        {"top_k": 8, "decay": 0.5},
    ),
    "both-ways": Strategy(
        "that first token and all whose own encoding begins with this one: the largest logit",
        encoding.both_ways,
        encoding.explain_both_ways,
        {},
        asks_tokenizer=True,
    ),
}
"""The strategies by name, in the order of all lists of them."""


_END = "end"  # not of the strategy: see `pm_mined.maps.ends`


class _Option(NamedTuple):
    """The values that an option may have, and its wording."""

    allowed: str
    allows: Callable[[Any], bool]
    words: str  # empty: another option says it


def _whole_number(most: int, words: str) -> _Option:
    def allows(value: Any) -> bool:
        return type(value) is int and 1 <= value <= most

    return _Option(f"a whole number from 1 to {most}", allows, words)


def _is_share(value: Any) -> bool:
    return isinstance(value, float | int) and 0 < value <= 1


_OPTIONS = {
    "top_k": _whole_number(1024, "top {}"),
    "decay": _Option("a number more than 0 and at most 1", _is_share, "decay {}"),
    "unit": _Option("char or byte", lambda value: value in get_args(Unit), "distances in {}"),
    "fallback": _Option("edit", lambda value: value == "edit", ""),
    "max_distance": _whole_number(64, "fallback edit within {}"),
}


def options_of(strategy: str, given: dict[str, Any]) -> Options:
    """The options of a strategy: what is given and not None, else its defaults.

    Raises:
        OptionError: there is no such strategy, it has no such option, or the value cannot be.

    >>> options_of("decay", {"top_k": 4, "decay": None})
    Options(unit='char', fallback=None, max_distance=2, top_k=4, decay=0.1)
    """
    if strategy not in STRATEGIES:
        raise OptionError(f"no strategy {strategy!r}; there are {', '.join(STRATEGIES)}")
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        _check_option(strategy, name, value)
    if "max_distance" in given and "fallback" not in given:
        raise OptionError("max_distance (--max-distance) needs fallback edit (--fallback edit)")
    return Options(**{**STRATEGIES[strategy].options, **given})


def _check_option(strategy: str, name: str, value: Any) -> None:
    said = f"{name} (--{name.replace('_', '-')})"
    if name not in ("unit", *STRATEGIES[strategy].options):
        *others, last = (other for other, one in STRATEGIES.items() if name in one.options)
        having = f"{', '.join(others)} and {last} have it" if others else f"{last} has it"
        raise OptionError(f"strategy {strategy} has no option {said}; {having}")
    option = _OPTIONS[name]
    if not option.allows(value):
        raise OptionError(f"{said} is {value!r}: it must be {option.allowed}")


def metadata_of(strategy: str, options: Options) -> dict[str, Any]:
    """A strategy and all the options that it goes by, as a map remembers them.

    >>> metadata_of("exact", Options("byte"))
    {'name': 'exact', 'unit': 'byte'}
    """
    taken = {name: getattr(options, name) for name in STRATEGIES[strategy].options}
    if taken.get("fallback", "edit") is None:
        taken = {}
    return {"name": strategy, "unit": options.unit, **taken}


def without_end(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata of the strategy alone, as it was before ends of texts were laid over the map.

    >>> without_end({"name": "exact", "unit": "char", "end": "<|im_end|>"})
    {'name': 'exact', 'unit': 'char'}
    """
    return {name: value for name, value in metadata.items() if name != _END}


def describe_strategy(metadata: dict[str, Any]) -> str:
    """Describe in words how a map was made, from its metadata; unknown options are left out.

    >>> describe_strategy({"name": "exact", "unit": "char"})
    'strategy exact, distances in code points'
    >>> describe_strategy({"name": "decay", "unit": "byte", "top_k": 8, "decay": 0.1})
    'strategy decay, top 8, decay 0.1, distances in bytes'
    >>> describe_strategy({"name": "exact", "unit": "char", "end": "<|im_end|>"})
    'strategy exact, distances in code points, ends of texts map to <|im_end|>'
    """
    unit = "code points" if metadata["unit"] == "char" else "bytes"
    values = {**metadata, "unit": unit}
    clauses = {"name": "strategy {}"} | {name: one.words for name, one in _OPTIONS.items()}
    clauses[_END] = "ends of texts map to {}"
    said = (words.format(values[name]) for name, words in clauses.items() if name in values)
    return ", ".join(filter(None, said))
