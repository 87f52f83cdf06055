"""Places of models: folders, `.gguf` files, packages and the Hub."""

from os import PathLike
from pathlib import Path

from cmc_runtime.errors import ModelError
from pm_mined.json_lines import has_lone_surrogate
from pm_mined.tokenizer.hub import download, download_tokenizer
from pm_mined.tokenizer.places import HubRepo, find_place, nowhere

from .packaged import PACKAGED, packaged_model

DELTA_FILES = ("delta.json", "rows.jsonl", "*.arrow")
"""The files beside the weights of a delta: its card, the rows that it keeps, and maps."""


def locate_model(spec: str | PathLike[str]) -> Path | HubRepo:
    """Find the folder, the `.gguf` file or the Hub repository of a model; nothing is fetched.

    A file or folder goes before a packaged model, and that before a repository.

    Raises:
        ModelError: there is no such model.
        PackageError: the package with the model is not installed.
        OSError: the file cannot be looked for.
    """
    if has_lone_surrogate(str(spec)):
        raise ModelError(f"{spec}: its name is not UTF-8: rename it")
    place = find_place(spec)
    if isinstance(place, Path):
        if place.is_dir() or place.suffix == ".gguf":
            return place
        raise ModelError(f"{spec}: not a model: give a folder, a `.gguf` file or a Hub repository")
    if spec in PACKAGED:
        return packaged_model(str(spec))
    if place is None:
        advice = (
            "give a folder, a `.gguf` file, a Hub repository (owner/name) or a packaged model "
            f"({', '.join(PACKAGED)})"
        )
        raise ModelError(nowhere(spec, "model", PACKAGED, advice))
    return place


def download_model(repo: HubRepo) -> Path:
    """The folder of a Hub repository: its tokenizer, configuration and safetensors, and what a
    delta has beside them.

    Raises:
        VocabularyError: it has no tokenizer, or cannot be fetched.
    """
    download_tokenizer(repo)
    # Mistral's repositories have all weights twice; others have formats in subfolders.
    files = ("*.json", "*.jinja", "*.safetensors", *DELTA_FILES)
    ignored = ("consolidated*", "*/*")
    return download(repo, files, ignored)
