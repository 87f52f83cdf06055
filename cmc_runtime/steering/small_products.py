"""Linear layers of a few rows on a CPU: torch takes longer than it must for the large ones.

Of an output layer, `weight @ rows.T` takes less time than `rows @ weight.T`, which linear layers
ask for. With 49,152 logits of 576 numbers, ms of one core (EPYC without AVX-512, torch 2.13):

    rows                1     2     4     8    16    32    64
    rows @ weight.T  12.6  25.2  36.9  45.4  57.4  88.6   141
    weight @ rows.T  12.5  17.3  18.4  25.7  46.3  73.1   121

Layers of a small model's size gain at 4 rows and lose nothing at others.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

_ROWS = range(2, 65)


def plain_layers(model: nn.Module) -> list[nn.Linear]:
    """The linear layers of a model in float32 on a CPU that nobody has changed."""
    return [
        layer
        for layer in model.modules()
        if type(layer) is nn.Linear
        and "forward" not in layer.__dict__
        and layer.weight.dtype == torch.float32
        and layer.weight.device.type == "cpu"
    ]


@contextmanager
def small_products(layers: Sequence[nn.Linear]) -> Iterator[None]:
    """Let these layers compute a few rows the other way round."""
    for layer in layers:
        layer.__dict__["forward"] = partial(product, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


def product(layer: nn.Linear, rows: Tensor) -> Tensor:
    """Float32 [..., outputs], of float32 [..., inputs], as the layer itself gives it.

    >>> product(nn.Linear(3, 4), torch.ones(2, 3)).shape
    torch.Size([2, 4])
    """
    if rows.numel() // layer.in_features not in _ROWS:
        return functional.linear(rows, layer.weight, layer.bias)
    columns = (layer.weight @ rows.reshape(-1, layer.in_features).t()).t().contiguous()
    made = columns.reshape(*rows.shape[:-1], layer.out_features)
    return made if layer.bias is None else made + layer.bias
