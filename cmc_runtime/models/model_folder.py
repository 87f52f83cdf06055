"""Checks of a model's folder before transformers reads it, and of the model that it makes."""

import json
from os import PathLike
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from cmc_runtime.errors import ModelError
from pm_mined.tokenizer.errors_of_libraries import is_library_error
from pm_mined.tokenizer.places import is_lfs_pointer

from .placement import main_device

_PICKLES = ("*.bin", "*.pt", "*.pth")
_INDEX = "model.safetensors.index.json"
_OBJECTS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    _INDEX,
)
"""The files that hold one JSON object each, where they are there."""

_BOUNDS = {"num_hidden_layers": (1, 10_000), "num_labels": (0, 1_000_000)}
_ASSISTED = ("assistant_early_exit", "prompt_lookup_num_tokens")


def check_folder(folder: Path) -> None:
    """Refuse a folder without a model that transformers may read.

    Raises:
        ModelError: a file is missing or damaged, or names a file that is not in the folder.
    """
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"{folder}: an adapter of another model: merge it into that model first")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: not a model: it has no config.json")
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for ending in _PICKLES for path in folder.glob(ending))
        has = f"only pickles ({pickles[0]}), which can run any code" if pickles else "none"
        raise ModelError(f"{folder}: the weights must be in safetensors, but it has {has}")
    for path in sorted(folder.glob("*.safetensors")):
        _refuse_lfs_pointer(path)
    check_objects(folder)


def check_objects(folder: Path) -> None:
    """Refuse a folder whose files of JSON are damaged.

    Raises:
        ModelError: one is, or names a file that is not in the folder.
    """
    objects = {name: _object(folder / name) for name in _OBJECTS if (folder / name).exists()}
    _check_numbers(folder / "config.json", objects["config.json"])
    if _INDEX in objects:
        _check_index(folder / _INDEX, objects[_INDEX])


def _refuse_lfs_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if is_lfs_pointer(file.read(100)):
            said = f"{path.name} is a Git LFS pointer: run `git lfs pull` for the file itself"
            raise ModelError(f"{path.parent}: {said}")


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: not a JSON object")
    return value


def _check_numbers(path: Path, config: dict[str, Any]) -> None:
    """Check the numbers by which transformers counts without a look at them."""
    for part in (config, config.get("text_config")):
        for name, (least, most) in _BOUNDS.items():
            value = part.get(name) if isinstance(part, dict) else None
            if isinstance(value, int) and not least <= value <= most:
                raise ModelError(f"{path}: {name} is {value}; expected {least} to {most:,}")


def _check_index(path: Path, index: dict[str, Any]) -> None:
    """Check that the index of the weights names files of its folder alone."""
    files = index.get("weight_map")
    if not isinstance(files, dict):
        raise ModelError(f"{path}: its weight_map is not an object")
    for name in files.values():
        if not isinstance(name, str) or name != Path(name).name:
            raise ModelError(f"{path}: it names {name!r}; expected a file of this folder")
        if not (path.parent / name).is_file():
            raise ModelError(f"{path}: it names {name}, which is not there")


def check_model(model: Any, spec: str | PathLike[str]) -> None:
    """Refuse a model that cannot write a token, whatever is wrong in its configuration.

    Raises:
        ModelError: the ids of its special tokens are none, or it cannot run.
    """
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(model.generation_config, name, None)
        ids = value if isinstance(value, list) else [value]
        if not all(one is None or type(one) is int for one in ids):
            raise ModelError(f"{spec}: {name} is {value!r}; expected the id of a token")
    for name in _ASSISTED:
        if getattr(model.generation_config, name, None) is not None:
            raise ModelError(
                f"{spec}: its generation_config.json asks for assisted generation, which cannot be "
                f"steered: remove {name} from it"
            )
    prompts = torch.zeros(2, 1, dtype=torch.int64, device=main_device(model))
    try:
        with torch.no_grad():
            made = model.generate(prompts, max_new_tokens=2, do_sample=False)
            made.tolist()  # some configurations make something else of it
    except BaseException as error:
        if not is_library_error(error):
            raise
        reason = shorten(f"{type(error).__name__}: {error}", 200)
        raise ModelError(f"{spec}: it loads, but cannot write a token: {reason}") from error
