"""GGUF models, converted once: safetensors, configuration and tokenizer in the user's cache.

From a GGUF file transformers makes a model in half a minute, from such a folder in a second. A
folder is named by the SHA-256 of the file and the versions of what converts: the same file in
another place is the same model, and a file that was changed is another one. The digest takes a
tenth of a second for 100 MB; size and time would be faster to ask for, but a file can be replaced
without a change of either. Folders are complete or not there, their files are checked by their
digests before they are first used and when anything touched one since, and those used the longest
ago make room for new ones.
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError

from pm_mined.atomic_file import write_atomically
from pm_mined.kernels.user_cache import user_cache

from .file_digests import complete, fault_of, file_digest, is_complete
from .kept_models import ABOUT, CONVERTED, converted_models
from .new_folder import new_folder
from .saved_tokenizer import save_tokenizer

MAX_BYTES = 20_000_000_000
"""The size of all converted models together."""

_CONVERTERS = ("gguf", "tokenizers", "transformers")
_LAYOUT = 2  # of a folder; one of another layout is made anew
_CHECKED = ".checked"  # beside a folder: the states of its files when they were checked
_NEW = "new-"  # how the names of unfinished folders begin

Loaded: TypeAlias = tuple[Any, Any]
"""A model of transformers and its tokenizer."""

Read: TypeAlias = Callable[[Path, torch.dtype], Loaded]
"""Loads a model from a folder or a GGUF file."""


def load_gguf(path: Path, dtype: torch.dtype, read: Read, note: Callable[[str], object]) -> Loaded:
    """Load the model of a GGUF file: from the user's cache, where it is put if it is not there.

    Where it cannot be put there, `note` is told why, and the model is that of the file itself.
    """
    folder = loaded = None
    try:
        folder = find_converted(path)
    except OSError as error:
        note(_not_kept(path, error))
        return read(path, dtype)
    if folder is None:
        loaded = read(path, torch.float32)
        try:
            folder = _keep(path, *loaded)
        except (OSError, SafetensorError, _NotKeptError) as error:
            note(_not_kept(path, error))
            return loaded if dtype == torch.float32 else read(path, dtype)
        del loaded
    return read(folder, dtype)


class _NotKeptError(Exception):
    """The reason that a model is not kept."""


def _not_kept(path: Path, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    place = getattr(error, "filename", None)
    where = f"{place}: " if place else ""
    return f"{path.name} is not kept for faster loading: {where}{reason}"


def find_converted(path: Path) -> Path | None:
    """Find the folder with the model of a GGUF file, if it was converted and is whole.

    Raises:
        OSError: the cache cannot be used, or somebody else can write it.
    """
    folder = user_cache(CONVERTED) / _key(path)
    if not is_complete(folder):
        return None
    if not _is_whole(folder):
        shutil.rmtree(folder)
        return None
    os.utime(folder)  # the last use
    return folder


def _is_whole(folder: Path) -> bool:
    """True if all files are as they were written; they are read again only if one was touched.

    The system keeps the time of a file's last change, which nobody can set: the digest of 1 GB of
    weights would be a third of the time that a model takes to load.
    """
    states = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    about = [(name, s.st_size, s.st_ino, s.st_ctime_ns) for name, s in states]
    now = json.dumps(about).encode()
    seen = folder.with_suffix(_CHECKED)
    if seen.exists() and seen.read_bytes() == now:
        return True
    if fault_of(folder) is not None:
        return False
    with suppress(OSError):  # then they are read again the next time
        write_atomically(seen, now)
    return True


def _key(path: Path) -> str:
    """The name of the folder: a digest of the file and of what converts it."""
    versions = ", ".join(f"{name} {version(name)}" for name in _CONVERTERS)
    made = f"{file_digest(path)} by {versions}, layout {_LAYOUT}"
    return sha256(made.encode()).hexdigest()[:32]


def _keep(path: Path, model: Any, tokenizer: Any) -> Path:
    """Put a model in float32 and its tokenizer into a folder that `find_converted` finds."""
    size = sum(weight.nbytes for weight in model.parameters())
    if size > MAX_BYTES:
        raise _NotKeptError(
            f"it would have {size / 1e9:.0f} GB, and {MAX_BYTES / 1e9:.0f} GB are kept at most"
        )
    root = user_cache(CONVERTED)
    with new_folder(root, _NEW) as made:
        _save(made, model, tokenizer)
        (made / ABOUT).write_text(json.dumps({"file": path.name}), "utf-8")
        complete(made)
        folder = root / _key(path)
        if not is_complete(folder):  # else another process was first
            os.rename(made, folder)
    _make_room(folder)
    return folder


def _save(folder: Path, model: Any, tokenizer: Any) -> None:
    model.save_pretrained(folder)
    try:
        save_tokenizer(folder, tokenizer)
    except ValueError as error:
        raise _NotKeptError(str(error)) from error


def _make_room(new: Path) -> None:
    """Remove the models that were used the longest ago, until the rest is small enough."""
    left = MAX_BYTES
    for one in converted_models():
        left -= one.size
        if left < 0 and one.path != new:
            shutil.rmtree(one.path, ignore_errors=True)
            one.path.with_suffix(_CHECKED).unlink(missing_ok=True)
