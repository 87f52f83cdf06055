"""The frozen model's hidden states, kept on disk: they never change, so they are made once.

The file is safetensors with one tensor, `states` [tokens, size], of the tokens that the samples
are to predict, sample after sample. It is read where it lies, a batch at a time. What it was made
of, the model's weights and the samples, stands in its header and its name.
"""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import Module

from cmc_runtime.data.samples import Sample, sample_batch
from cmc_runtime.errors import StatesError

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}


Progress: TypeAlias = Callable[[int, int], object]


class FrozenStates:
    """States of samples, from a file; make one with `frozen_states`."""

    def __init__(self, path: Path, starts: Sequence[int]) -> None:
        file: Any = safe_open(path, framework="pt")
        self._states = file.get_slice("states")
        self._starts = starts

    def of(self, samples: Sequence[int]) -> Tensor:
        """[tokens, size]: the states of these samples, one after the other."""
        starts = self._starts
        return torch.cat([self._states[starts[i] : starts[i + 1]] for i in samples])


def frozen_states(
    folder: Path,
    model: Any,
    samples: Sequence[Sample],
    *,
    batch_size: int,
    progress: Progress = lambda *_: None,
) -> FrozenStates:
    """The states of a model for samples, from a folder if they are there, else made and put there.

    `progress` is told how many samples are done, and how many there are.

    Raises:
        StatesError: the file cannot be written; what was written is gone.
    """
    starts = [0, *np.cumsum([sample.num_targets for sample in samples]).tolist()]
    key = _key(model, samples)
    path = folder / f"states-{key[:16]}.safetensors"
    if not _is_made_of(path, key):
        temporary = path.with_suffix(".part")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(temporary, model, samples, starts, key, batch_size, progress)
            os.replace(temporary, path)
        except OSError as error:
            with suppress(OSError):  # the folder may be none
                temporary.unlink()
            size = starts[-1] * model.config.get_text_config().hidden_size * model.dtype.itemsize
            raise StatesError(
                f"{path}: cannot keep the frozen model's states, {size / 1e9:.1f} GB: "
                f"{error.strerror or error}; train without keeping them, or make room"
            ) from error
    return FrozenStates(path, starts)


def _key(model: Module, samples: Sequence[Sample]) -> str:
    """A digest of the model's weights and of what it reads."""
    digest = sha256()
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        digest.update(memoryview(_bytes(weight)))
    for sample in samples:
        digest.update(np.array([sample.num_prompt, *sample.ids], np.int64).tobytes())
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    """The values of a tensor as an array of bytes."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def _is_made_of(path: Path, key: str) -> bool:
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("key") == key
    except SafetensorError:  # cut off: it is made anew
        return False


def _write(
    path: Path,
    model: Any,
    samples: Sequence[Sample],
    starts: Sequence[int],
    key: str,
    batch_size: int,
    progress: Progress,
) -> None:
    """The whole file; similar lengths run together, so that little is padding."""
    size = model.config.get_text_config().hidden_size
    header, row_bytes = _header(key, starts[-1], size, model.dtype)
    by_length = sorted(range(len(samples)), key=lambda i: len(samples[i].ids))
    with path.open("wb") as file:
        file.write(header)
        for first in range(0, len(samples), batch_size):
            some = by_length[first : first + batch_size]
            with torch.no_grad():
                batch = sample_batch([samples[i] for i in some]).to(model.device)
                states = batch.user_states(model).cpu()
            counts = [samples[i].num_targets for i in some]
            for i, own in zip(some, torch.split(states, counts), strict=True):
                file.seek(len(header) + starts[i] * row_bytes)
                file.write(memoryview(_bytes(own)))
            progress(min(first + batch_size, len(samples)), len(samples))
        file.flush()
        os.fsync(file.fileno())


def _header(key: str, tokens: int, size: int, dtype: torch.dtype) -> tuple[bytes, int]:
    """The beginning of a safetensors file, and the bytes of a row."""
    row_bytes = size * dtype.itemsize
    tensor = {
        "dtype": _DTYPES[dtype],
        "shape": [tokens, size],
        "data_offsets": [0, tokens * row_bytes],
    }
    text = json.dumps({"__metadata__": {"key": key}, "states": tensor}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, row_bytes
