"""Chunks of tokens that share a matrix product, and slices of their logits, small to copy."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cmc_runtime.models.output_head import OutputHead

# A matrix product is made for as many tokens as have this many bytes of base logits, but for no
# fewer than CHUNK_TOKENS: smaller ones wait for the weights. At their peak, the logits of both
# models are there, and for the KL divergence the base's again.
CHUNK_BYTES = {"cpu": 2**25, "gpu": 2**28}
CHUNK_TOKENS = 128
# Between two products, a slice of this size at a time: copies stay small, and in a CPU's cache.
SLICE_BYTES = {"cpu": 2**22, "gpu": 2**26}


def chunks(rows: int, head: OutputHead) -> Iterator[slice]:
    """The rows of each matrix product: chunks of one size, for two rows cost as much as twenty."""
    bytes_of_row = 4 * max(head.width, 1)
    most = max(CHUNK_TOKENS, CHUNK_BYTES[_place(head.weight)] // bytes_of_row)
    count = -(-rows // most)
    size = -(-rows // max(count, 1))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, max(size, 1)))


def slices(logits: Tensor, chunk: slice, *others: Tensor) -> Iterator[tuple[Any, ...]]:
    """Slices of a chunk's rows, each with those rows of its logits [rows, width], and of others."""
    bytes_of_row = 4 * max(logits.shape[1], 1)
    size = max(1, SLICE_BYTES[_place(logits)] // bytes_of_row)
    starts = range(chunk.start, chunk.stop, size)
    rows = [slice(start, min(start + size, chunk.stop)) for start in starts]
    return zip(rows, *(torch.split(one, size) for one in (logits, *others)), strict=True)


def _place(tensor: Tensor) -> str:
    return "cpu" if tensor.device.type == "cpu" else "gpu"
