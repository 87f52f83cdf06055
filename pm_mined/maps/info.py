"""The metadata of a map: its vocabularies, its strategy, its counts and digests."""

import json
from dataclasses import asdict, dataclass
from types import NoneType
from typing import Any, Literal, get_args

from pm_mined.kernels.tokens import Kind, Rule, Unit
from pm_mined.vocabulary import MAX_SIZE, Vocabulary

FORMAT_VERSION = 2
_RULES = [rule.name.lower() for rule in Rule]
_KINDS = [kind.name.lower() for kind in Kind]
NAMES = {
    1: {"rule": _RULES[: Rule.ENCODING], "src_kind": _KINDS},
    2: {"rule": _RULES, "src_kind": _KINDS},
}
"""The dictionaries of columns by format version; the index of a name is its code."""

Side = Literal["src", "dst"]
"""One of the two vocabularies: the source, or the destination."""

SIDES: dict[Side, str] = {"src": "source", "dst": "destination"}
"""The names of the sides in messages."""


@dataclass(frozen=True)
class VocabularyInfo:
    """The description of a vocabulary in a map."""

    name: str
    source: str
    size: int
    fingerprint: str

    @property
    def place(self) -> str:
        """The name, path or Hub repository to load it again from, if it is still there."""
        kind, _, place = self.source.partition(":")
        if kind in ("file", "folder"):
            return f"./{place}"
        return place if kind == "hub" else self.name

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> "VocabularyInfo":
        """Describe `vocabulary`; what its names have that UTF-8 has not is escaped."""
        name, source = (
            text.encode(errors="backslashreplace").decode()
            for text in (vocabulary.name, vocabulary.source)
        )
        return cls(name, source, len(vocabulary), vocabulary.fingerprint)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "VocabularyInfo":
        """Undo `asdict`; raises as `MapInfo.from_json`."""
        info = cls(**document)
        _check_types({"name": info.name, "source": info.source}, str)
        _check_types({"fingerprint": info.fingerprint}, str)
        _check_types({"size": info.size}, int)
        if not 0 <= info.size <= MAX_SIZE:
            raise ValueError(f"size is {info.size} (at most {MAX_SIZE})")
        return info


@dataclass(frozen=True)
class MapInfo:
    """Everything about a map but its rows; stored as JSON in the file."""

    format_version: int
    tool_version: str
    strategy: dict[str, Any]
    src: VocabularyInfo
    dst: VocabularyInfo
    overrides_sha256: str | None
    rules: dict[str, int]
    column_sha256: dict[str, str]

    def of(self, side: Side) -> VocabularyInfo:
        """The description of one of the two vocabularies."""
        return self.src if side == "src" else self.dst

    def to_json(self) -> bytes:
        """The metadata of a file, deterministic to the byte."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True).encode()

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "MapInfo":
        """Undo `to_json`, for a version of the format that is known here.

        Raises:
            KeyError, TypeError, ValueError: something is missing, too much, of a wrong type, or
                cannot be.
        """
        src, dst = (VocabularyInfo.from_json(document[side]) for side in get_args(Side))
        info = cls(**{**document, "src": src, "dst": dst})
        _check_types({"tool_version": info.tool_version}, str)
        _check_types({"overrides_sha256": info.overrides_sha256}, str, NoneType)
        for name in ("strategy", "rules", "column_sha256"):
            _check_types({name: getattr(info, name)}, dict)
        _check_types(info.strategy, str, int, float, bool, NoneType)
        _check_types({"name": info.strategy["name"]}, str)
        _check_types(info.rules, int)
        _check_types(info.column_sha256, str)
        if info.strategy["unit"] not in get_args(Unit):
            raise ValueError(f"unit is {info.strategy['unit']!r}")
        info.to_json()  # a text may be one that JSON can write, and UTF-8 cannot
        return info


def _check_types(values: dict[str, Any], *types: type) -> None:
    for name, value in values.items():
        if type(value) not in types:
            raise TypeError(f"{name} is {value!r}")
