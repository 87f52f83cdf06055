"""GGUF files as transformers reads them, so that their models are like all others."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import transformers

from cmc_runtime.errors import ModelError


def check_gguf_packages(path: Path) -> None:
    """Refuse a GGUF file where the packages are missing that transformers reads it with.

    Raises:
        ModelError: the packages to install.
    """
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise ModelError(f"{path}: to load a GGUF file, run `pip install {' '.join(missing)}`")


def unpacked(path: Path) -> dict[str, Any]:
    """The argument by which no weights of a GGUF file stay in its blocks, as some versions can."""
    if path.is_file() and hasattr(transformers, "GgufConfig"):
        return {"quantization_config": transformers.GgufConfig(dequantize=True)}
    return {}


def make_plain(model: Any) -> None:
    """Forget that weights were quantized in a GGUF file: the model can be trained and saved.

    Deltas that were made of such models in earlier versions say it in their config.json.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and quantizer.quantization_config.quant_method == "gguf":
        quantizer.remove_quantization_config(model)


_READ_ONCE = ("GGUFReader", "get_tensor_name_map")
_one_at_a_time = Lock()


@contextmanager
def reading_once() -> Iterator[None]:
    """Remember what transformers asks the library `gguf` for, in the block.

    It has the library parse the whole file three times, each string by several views of numpy, and
    make the table of tensor names for every module. That is two thirds of the time.
    """
    import gguf  # which takes a second

    with _one_at_a_time:
        functions = {name: getattr(gguf, name) for name in _READ_ONCE}
        for name, function in functions.items():
            setattr(gguf, name, cache(function))
        try:
            yield
        finally:
            for name, function in functions.items():
                setattr(gguf, name, function)
