"""A model of a GGUF file as a folder of transformers, which vLLM reads, too."""

import os
from pathlib import Path

from cmc_runtime.delta_card import read_card
from cmc_runtime.models.load import LoadedModel
from cmc_runtime.models.new_folder import new_folder
from pm_mined import OptionError

_NEW = ".cmc-runtime-convert-"


def check_new_folder(output: Path) -> None:
    """Refuse a folder that has something in it, or cannot be made.

    Raises:
        OptionError: it is one.
    """
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() or output.is_symlink():
        raise OptionError(f"{output}: there is something already: choose another folder")
    if not output.resolve().parent.is_dir():
        raise OptionError(f"{output}: there is no folder {output.parent} to put it into")


def write_folder(loaded: LoadedModel, output: Path) -> None:
    """Write a model, its tokenizer, and its card if it has one: all of the folder, or nothing.

    Raises:
        OptionError: there is something in its place.
        CardError: the card is damaged.
        OSError: the folder cannot be written.
    """
    check_new_folder(output)
    card = read_card(Path(loaded.spec))
    with new_folder(output.resolve().parent, _NEW) as room:
        folder = room / "model"
        folder.mkdir()
        loaded.save(folder)
        if card is not None:
            card.save(folder)
        os.rename(folder, output)
