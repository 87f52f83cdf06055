"""A digest of a model: its weights, and the configuration by which it computes."""

import json
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from .difference import DifferenceModel
from .placement import all_weights

_NOT_COMPUTED_BY = ("_name_or_path", "transformers_version")


def model_digest(model: Any) -> str:
    """SHA-256 of a model of transformers, in hexadecimal digits; wherever its files are.

    Every weight counts with its name, dtype and shape; of the configuration all that `config.json`
    has, and the implementation of attention, which rounds in its own way. Of a `DifferenceModel`,
    its base model counts, and its adapter with all its settings.
    """
    config = model.config.to_dict()
    for name in _NOT_COMPUTED_BY:
        config.pop(name, None)
    about = [config, model.config._attn_implementation]
    if isinstance(model, DifferenceModel):
        about += [model_digest(model.plain), list(model.adapter.layers), dict(model.adapter.config)]
    digest = sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for name, weight in all_weights(model).items():
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        digest.update(memoryview(tensor_bytes(weight)))
    return digest.hexdigest()


def tensor_bytes(tensor: Tensor) -> Any:
    """The values of a tensor as an array of bytes."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
