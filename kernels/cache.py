"""The cache of the machine code of kernels: a folder of ours alone, files that know their digest.

What lies there is run. Numba trusts its cache: it takes any folder, fails on damaged files, and
fails a run that cannot write one.
"""

import os
import pickle
import warnings
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    IndexDataCacheFile,
    _CacheLocator,
    _SourceFileBackedLocatorMixin,
)

from .user_cache import cache_root, is_ours, make_folders, writable_by_others

_DIGEST_SIZE = sha256().digest_size


@cache
def cache_folder() -> str | None:
    """The folder of the cache; None where no folder is ours alone, after a warning.

    It is `NUMBA_CACHE_DIR`, or one in the user's cache, another for each state of the kernels.
    Numba's default, beside the sources, would outlive an uninstallation; and Numba watches only
    the file of a cached function for changes, not those of the functions that it calls.
    """
    try:
        folder = Path(numba.config.CACHE_DIR or _default_folder())
        make_folders(folder)
        unsafe = next(writable_by_others(folder), None)
    except OSError as error:
        _warn(f"{error.filename}: {error.strerror}")
        return None
    if unsafe is not None:
        _warn(f"{unsafe}: others can write there")
        return None
    return str(folder)


@cache
def _warn(why: str) -> None:
    warnings.warn(
        f"{why}: kernels are compiled again each time; NUMBA_CACHE_DIR names another folder for "
        "their machine code",
        RuntimeWarning,
        stacklevel=2,
    )


def _default_folder() -> Path:
    digest = sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return cache_root() / digest.hexdigest()[:16]


class _Locator(_SourceFileBackedLocatorMixin, _CacheLocator):  # type: ignore[misc] # Numba is untyped
    """The folder for the functions of one source file, in that of the cache."""

    def __init__(self, function: Any, source: str) -> None:
        self._py_file = source
        self._lineno = function.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        """The path of the folder."""
        return os.path.join(cache_folder() or "", self.get_suitable_cache_subpath(self._py_file))


class _Implementation(CompileResultCacheImpl):  # type: ignore[misc] # as above
    _locator_classes = (_Locator,)


class _CheckedFiles(IndexDataCacheFile):  # type: ignore[misc] # as above
    """An index file and data files, each with a digest of its content before it."""

    def _dump(self, obj: Any) -> bytes:
        content: bytes = super()._dump(obj)
        return sha256(content).digest() + content

    def _load_index(self) -> dict[Any, str]:
        """The names of data files by key; empty where they cannot be had."""
        version = pickle.dumps(self._version, protocol=-1)
        found = _read(self._index_path)
        content = _checked(found[len(version) :]) if found.startswith(version) else None
        if content is None:
            return {}
        stamp, names = pickle.loads(content)  # noqa: S301 - ours, and whole
        return names if stamp == self._source_stamp else {}

    def _load_data(self, name: str) -> Any:
        content = _checked(_read(self._data_path(name)))
        return None if content is None else pickle.loads(content)  # noqa: S301 - as above


def _read(path: str) -> bytes:
    """The content of a file that nobody else has written; nothing where there is none."""
    try:
        with open(path, "rb") as file:
            return file.read() if is_ours(os.fstat(file.fileno())) else b""
    except OSError:
        return b""


def _checked(found: bytes) -> bytes | None:
    """The content behind a digest, if the digest fits it."""
    digest, content = found[:_DIGEST_SIZE], found[_DIGEST_SIZE:]
    return content if sha256(content).digest() == digest else None


class KernelCache(FunctionCache):  # type: ignore[misc] # as above
    """The cache of one kernel; a full disk is no error, and what is damaged is compiled again."""

    _impl_class = _Implementation

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file = _CheckedFiles(self.cache_path, self._impl.filename_base, stamp)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save compiled code, if there is room."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _warn(f"{self.cache_path}: {error.strerror or error}")


def cache_of(function: Callable[..., object]) -> KernelCache | None:
    """The cache of a kernel; None, after a warning, where there is no place for it."""
    if cache_folder() is None:
        return None
    try:
        return KernelCache(function)
    except RuntimeError:  # so Numba says that nothing can be written
        _warn(f"{cache_folder()}: cannot be written")
        return None
