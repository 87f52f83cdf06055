"""The tokens that a delta model has learned to write, as its card has them."""

import base64
import binascii
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pm_mined.kernels.tokens import UNMAPPED

from .tensors import MapTensors


def written_tokens(tensors: MapTensors, targets: Iterable[int], size: int) -> NDArray[np.bool_]:
    """Bool [size]: the delta model's tokens that are read for any of the user model's `targets`.

    >>> from cmc_runtime import identity_map_tensors
    >>> written_tokens(identity_map_tensors(4, 3), [2, 2, 3], size=3).tolist()
    [False, False, True]
    """
    src_id = np.fromiter(set(targets), np.int64)
    read = tensors.index.cpu().numpy()[src_id]
    if tensors.choices is not None:
        src_ids, offsets, dst_id = (one.cpu().numpy() for one in tensors.choices[:3])
        of_targets = np.repeat(np.isin(src_ids, src_id), np.diff(offsets))
        read = np.concatenate([read, dst_id[of_targets]])
    written = np.zeros(size, np.bool_)
    written[read[read != UNMAPPED]] = True
    return written


def written_text(written: NDArray[np.bool_]) -> str:
    """A bit for each token, the first token's the lowest of the first byte, in base64.

    >>> written_text(np.array([True, False, True]))
    'BQ=='
    """
    return base64.b64encode(np.packbits(written, bitorder="little").tobytes()).decode()


def read_written(text: str, size: int) -> NDArray[np.bool_]:
    """Bool [size], from what `written_text` made.

    Raises:
        ValueError: it is of another size, or no base64.

    >>> read_written("BQ==", 3).tolist()
    [True, False, True]
    """
    try:
        bits = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except binascii.Error as error:
        raise ValueError(f"no base64: {error}") from error
    if len(bits) != -(-size // 8):
        raise ValueError(f"bits for {8 * len(bits):,} tokens, and there are {size:,}")
    return np.unpackbits(bits, count=size, bitorder="little").astype(np.bool_)
