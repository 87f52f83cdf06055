"""The frozen model's hidden states, kept on disk: they never change, so they are made once.

The file is safetensors with one tensor, `states` [tokens, size], of the tokens that the samples
are to predict, sample after sample. It is read where it lies, a batch at a time. What it was made
of stands in its header and its name: the model with its weights and configuration, the samples,
the kind of device, and the versions of the libraries that compute. The size of batches does not:
it changes no more than the last bits. A SHA-256 of the states stands in the header as well, and is
checked before they are used. Of two trainings that make the same file at once, each makes its own,
and the last one's stays.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BufferedRandom
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import transformers
from safetensors import safe_open
from torch import Tensor

from cmc_runtime.data.samples import Sample, sample_batch
from cmc_runtime.errors import StatesError
from cmc_runtime.models.digest import tensor_bytes
from cmc_runtime.models.placement import main_device
from pm_mined.atomic_file import replacing_file
from pm_mined.json_lines import has_lone_surrogate

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
_NO_DIGEST = "0" * 64


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
    digest: str,
    samples: Sequence[Sample],
    *,
    batch_size: int,
    progress: Progress = lambda *_: None,
) -> FrozenStates:
    """The states of a model for samples, from a folder if they are there, else made and put there.

    `digest` is the model's: see `model_digest`. `progress` is told how many samples are done, and
    how many there are.

    Raises:
        StatesError: the file cannot be read or written; what was written is gone.
    """
    if has_lone_surrogate(str(folder)):
        raise StatesError(f"{folder}: its name is not UTF-8: choose another folder")
    starts = list(accumulate((sample.num_targets for sample in samples), initial=0))
    size = model.config.get_text_config().hidden_size
    layout = _Layout(_key(model, digest, samples), starts[-1], size, model.dtype)
    path = folder / f"states-{layout.key[:16]}.safetensors"
    try:
        if not _is_whole(path, layout):
            folder.mkdir(parents=True, exist_ok=True)
            with replacing_file(path) as number, open(number, "r+b", closefd=False) as file:
                _write(file, layout, model, samples, starts, batch_size, progress)
        return FrozenStates(path, starts)
    except OSError as error:
        raise StatesError(
            f"{path}: cannot keep the frozen model's states, {layout.num_bytes / 1e9:.1f} GB: "
            f"{error.strerror or error}; train without keeping them, or make room"
        ) from error


def _key(model: Any, digest: str, samples: Sequence[Sample]) -> str:
    """A digest of all that decides about the states."""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    key = hashlib.sha256(f"{digest} on {main_device(model).type} with {versions}".encode())
    for sample in samples:
        ids = np.array([sample.num_prompt, len(sample.ids), *sample.ids], np.int64)
        key.update(ids.tobytes())
    return key.hexdigest()


@dataclass(frozen=True)
class _Layout:
    """The layout of a file of states."""

    key: str
    tokens: int
    size: int
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def num_bytes(self) -> int:
        return self.tokens * self.row_bytes

    def header(self, sha256: str = _NO_DIGEST) -> bytes:
        """The beginning of the safetensors file; as long with any digest."""
        tensor = {
            "dtype": _DTYPES[self.dtype],
            "shape": [self.tokens, self.size],
            "data_offsets": [0, self.num_bytes],
        }
        about = {"key": self.key, "sha256": sha256}
        text = json.dumps({"__metadata__": about, "states": tensor}).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def _is_whole(path: Path, layout: _Layout) -> bool:
    """True if the file is there, and every byte of it is as it was written."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        header = file.read(len(layout.header()))
        return header == layout.header(hashlib.file_digest(file, "sha256").hexdigest())


def _write(
    file: BufferedRandom,
    layout: _Layout,
    model: Any,
    samples: Sequence[Sample],
    starts: Sequence[int],
    batch_size: int,
    progress: Progress,
) -> None:
    """The whole file; similar lengths run together, so that little is padding."""
    begin = len(layout.header())
    by_length = sorted(range(len(samples)), key=lambda i: len(samples[i].ids))
    for first in range(0, len(samples), batch_size):
        some = by_length[first : first + batch_size]
        with torch.no_grad():
            batch = sample_batch([samples[i] for i in some]).to(main_device(model))
            states = batch.user_states(model).cpu()
        counts = [samples[i].num_targets for i in some]
        for i, own in zip(some, torch.split(states, counts), strict=True):
            file.seek(begin + starts[i] * layout.row_bytes)
            file.write(memoryview(tensor_bytes(own)))
        progress(min(first + batch_size, len(samples)), len(samples))
    file.seek(begin)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    file.write(layout.header(sha256))
