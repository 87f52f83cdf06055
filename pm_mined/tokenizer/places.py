"""Places of tokenizers and models: files, folders, packages and repositories of the Hub."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from os import PathLike
from pathlib import Path

_REPO = re.compile(r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?")
_FILE_ENDINGS = (".json", ".model", ".gguf", ".tiktoken")


@dataclass(frozen=True)
class HubRepo:
    """A repository of the Hugging Face Hub; as text `owner/name`, or `owner/name@revision`.

    >>> HubRepo.of("Qwen/Qwen3-8B@v1")
    HubRepo(repo_id='Qwen/Qwen3-8B', revision='v1')
    """

    repo_id: str
    revision: str | None = None

    @classmethod
    def of(cls, spec: str) -> "HubRepo":
        """The repository that `spec` names."""
        repo_id, _, revision = spec.partition("@")
        return cls(repo_id, revision or None)

    @property
    def name(self) -> str:
        """Its name without its owner's."""
        return self.repo_id.rpartition("/")[2]

    def __str__(self) -> str:
        return self.repo_id if self.revision is None else f"{self.repo_id}@{self.revision}"


def find_place(spec: str | PathLike[str]) -> Path | HubRepo | None:
    """Find what a spec stands for: a file or folder that exists, else a Hub repository, else None.

    Whether the Hub has such a repository is not asked.

    Raises:
        OSError: the file cannot be looked for: its name is too long, its folder is closed.
    """
    path = Path(spec)
    if str(spec) and path.exists():
        return path
    is_repo = isinstance(spec, str) and _REPO.fullmatch(spec) and path.suffix not in _FILE_ENDINGS
    return HubRepo.of(str(spec)) if is_repo else None


def nowhere(spec: str | PathLike[str], kind: str, names: Iterable[str], advice: str) -> str:
    """Say that a spec stands for nothing, neither for a place nor for one of `names`.

    >>> nowhere("lama3", "vocabulary", ["llama3", "qwen3"], "see the list")
    'lama3: no vocabulary of that name, and no such file; did you mean llama3? see the list'
    """
    written = str(spec)
    if "/" in written or "\\" in written or written.endswith(_FILE_ENDINGS):
        return f"{written}: no such file or folder"
    near = get_close_matches(written, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{written}: no {kind} of that name, and no such file; {hint}{advice}"


def as_text(name: str) -> str:
    r"""The name of a file as text that can be stored; bytes of it that are not UTF-8 escaped.

    >>> as_text("model"), as_text("m\udcff")
    ('model', 'm\\udcff')
    """
    return name.encode("utf-8", "backslashreplace").decode()


def is_lfs_pointer(head: bytes) -> bool:
    """True if a file that begins with `head` stands for one that `git lfs pull` fetches.

    >>> is_lfs_pointer(b"version https://git-lfs.github.com/spec/v1")
    True
    """
    return head.startswith(b"version https://git-lfs.github.com/spec/")


def installed_file(module: str, file: str) -> Path | None:
    """A file in an installed package, if it is there; the package is not imported."""
    spec = find_spec(module)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder, file)).is_file():
            return path
    return None
