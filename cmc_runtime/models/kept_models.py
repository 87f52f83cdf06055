"""The models that are kept in the user's cache: a list of them, and an end to them."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

from pm_mined.kernels.user_cache import cache_root

from .file_digests import is_complete

CONVERTED = "gguf"
"""The folder of converted GGUF models in the user's cache."""

JOINED = "models"
"""The folder of packaged models whose parts were joined."""

ALPHAS = "alphas"
"""The folder of the strengths that were chosen for models."""

ABOUT = "gguf.json"
"""The file in a converted model's folder that names where it came from."""


class KeptModel(NamedTuple):
    """A model in the user's cache."""

    file: str  # the name of the GGUF file that it was made from
    path: Path
    size: int  # in bytes
    used: float  # the time of the last use, in seconds since 1970


def is_converted(folder: Path) -> bool:
    """True for the whole folder of a converted GGUF model."""
    return (folder / ABOUT).exists() and is_complete(folder)


def converted_models() -> list[KeptModel]:
    """The GGUF models that were converted, the one used last first."""
    found = []
    for about in (cache_root() / CONVERTED).glob(f"*/{ABOUT}"):
        folder = about.parent
        size = sum(path.stat().st_size for path in folder.iterdir())
        found.append(KeptModel(_source(about), folder, size, folder.stat().st_mtime))
    return sorted(found, key=lambda one: -one.used)


def _source(about: Path) -> str:
    try:
        return str(json.loads(about.read_text("utf-8"))["file"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return "damaged"


def kept_models() -> list[KeptModel]:
    """All models in the user's cache: the converted ones, and those joined from packages."""
    joined = sorted((cache_root() / JOINED).glob("*.gguf"))
    states = ((path, path.stat()) for path in joined)
    files = [KeptModel(path.name, path, one.st_size, one.st_mtime) for path, one in states]
    return converted_models() + files


def remove_kept_models() -> None:
    """Remove all of them, what is unfinished, and chosen strengths; they are made again.

    Raises:
        OSError: something cannot be removed.
    """
    for name in (CONVERTED, JOINED, ALPHAS):
        folder = cache_root() / name
        if folder.exists():
            shutil.rmtree(folder)
