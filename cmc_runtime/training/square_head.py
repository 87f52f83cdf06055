"""An output layer that is quick to train: a model's own output embeddings times a square matrix.

The matrix begins at zero, and so do the logits. Beside the layers, only it is trained: embeddings,
most of a small model, have no gradients and no optimizer states. When the delta model is saved, the
product takes the layer's place: what is in its folder is a plain model of transformers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class SquareHead(nn.Module):
    """Logits `embeddings @ square @ hidden`, of which only `square`, at first 0, is trained.

    Args:
        embeddings: Floating [width, hidden size]; it may be shared, and stays as it is.

    >>> head = SquareHead(nn.Parameter(torch.tensor([[1.0, 2.0]])))
    >>> head(torch.ones(3, 2)).shape, head.weight.tolist()
    (torch.Size([3, 1]), [[0.0, 0.0]])
    """

    def __init__(self, embeddings: nn.Parameter) -> None:
        super().__init__()
        self.out_features, size = embeddings.shape
        self.square = nn.Linear(size, size, bias=False)
        nn.init.zeros_(self.square.weight)
        self.embeddings = nn.Linear(size, self.out_features, bias=False, device="meta")
        self.embeddings.weight = embeddings

    def forward(self, hidden: Tensor) -> Tensor:
        """Floating [..., width] of `hidden`, floating [..., hidden size]."""
        logits: Tensor = self.embeddings(self.square(hidden))
        return logits

    @property
    def weight(self) -> Tensor:
        """The product, [width, hidden size], as a plain layer has it; made at each call."""
        return self.embeddings.weight @ self.square.weight

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """The same layer as a plain one."""
        size = self.square.in_features
        plain = nn.Linear(size, self.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(self.weight)
        return plain


def square_head(model: Any) -> SquareHead | None:
    """The output layer of a model, if it is one."""
    head = model.get_output_embeddings()
    return head if isinstance(head, SquareHead) else None


def make_trainable(model: Any) -> None:
    """Let all of a model be trained, but not the embeddings beside a square head."""
    model.requires_grad_(True).train()
    head = square_head(model)
    if head is not None:
        head.embeddings.requires_grad_(False)
        model.get_input_embeddings().requires_grad_(False)


def fold(model: Any) -> None:
    """Put a plain output layer in the place of a square head, if the model has one."""
    head = square_head(model)
    if head is not None:
        model.set_output_embeddings(head.folded())


@contextmanager
def output_layer(model: Any, layer: nn.Module | None) -> Iterator[None]:
    """Put another output layer into a model meanwhile; None leaves its own."""
    if layer is None:
        yield
        return
    own = model.get_output_embeddings()
    model.set_output_embeddings(layer)
    try:
        yield
    finally:
        model.set_output_embeddings(own)
