"""The files of a model's folder that a GGUF file carries, each under a key, besides its weights.

With them, a delta that was written as a GGUF file is the same when it is read again: its tokenizer,
its configuration, the tokens that end its texts, and its card. llama.cpp looks at none of them but
the chat template.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoConfig

from cmc_runtime.errors import ModelError
from pm_mined import VocabularyError
from pm_mined.tokenizer.readers.gguf_header import read_header

from .model_folder import check_objects

KEYS = {
    "config.json": "cmc_runtime.config",
    "generation_config.json": "cmc_runtime.generation_config",
    "tokenizer_config.json": "cmc_runtime.tokenizer_config",
    "delta.json": "cmc_runtime.card",
    "tokenizer.json": "tokenizer.huggingface.json",
    "chat_template.jinja": "tokenizer.chat_template",
}
"""The keys by the names of files; the last two are those that the format has for them."""

_NEEDED = ("config.json", "tokenizer_config.json", "tokenizer.json")


def carried_files(path: Path) -> dict[str, str]:
    """The files that a GGUF file carries, by their names; none if it is not of `cmc-runtime`.

    Raises:
        ModelError: the file is damaged, or carries some of them only.
    """
    try:
        found = read_header(path, KEYS.values())
    except (VocabularyError, OSError) as error:
        raise ModelError(f"{path}: cannot load it: {error}") from error
    files = {name: found[key] for name, key in KEYS.items() if key in found}
    if KEYS["config.json"] not in found:
        return {}
    missing = [KEYS[name] for name in _NEEDED if not isinstance(files.get(name), str)]
    if missing:
        raise ModelError(f"{path}: cannot load it: it lacks {missing[0]}, as no whole file does")
    return {name: text for name, text in files.items() if isinstance(text, str)}


@contextmanager
def carried_folder(path: Path) -> Iterator[Path | None]:
    """A temporary folder with the files that a GGUF file carries; None if it carries none."""
    files = carried_files(path)
    if not files:
        yield None
        return
    with TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text, "utf-8")
        yield Path(folder)


def carried_config(folder: Path | None) -> dict[str, Any]:
    """The argument by which transformers takes the configuration of such a folder, if there is one.

    Raises:
        ModelError: a file in it is damaged.
    """
    if folder is None:
        return {}
    check_objects(folder)
    return {"config": AutoConfig.from_pretrained(folder, trust_remote_code=False)}
