"""Decoding with delta models through token maps.

>>> import cmc_runtime
>>> tensors = cmc_runtime.load_map_tensors("llama3-to-qwen3.arrow")  # doctest: +SKIP
>>> fused = cmc_runtime.fuse_logits(base, delta, tensors, alpha=1.0)  # doctest: +SKIP

Names are imported on first use: `import cmc_runtime` loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .delta import Delta, load_delta
    from .engines.generate import Completion, Sampling, generate
    from .engines.transformers import SteeringProcessor
    from .errors import ContextError, ModelError
    from .fusion.arguments import implementation_of
    from .fusion.fuse_logits import fuse_logits
    from .fusion.next_tokens import next_tokens
    from .maps.tensors import MapTensors, identity_map_tensors, load_map_tensors
    from .models.load import LoadedModel, load_model
    from .steering.requests import Request
    from .steering.ways import AdaptiveSteering, Contrast, Steering

_HOME = {
    "AdaptiveSteering": "steering.ways",
    "Completion": "engines.generate",
    "ContextError": "errors",
    "Contrast": "steering.ways",
    "Delta": "delta",
    "LoadedModel": "models.load",
    "MapTensors": "maps.tensors",
    "ModelError": "errors",
    "Request": "steering.requests",
    "Sampling": "engines.generate",
    "Steering": "steering.ways",
    "SteeringProcessor": "engines.transformers",
    "fuse_logits": "fusion.fuse_logits",
    "generate": "engines.generate",
    "identity_map_tensors": "maps.tensors",
    "implementation_of": "fusion.arguments",
    "load_delta": "delta",
    "load_map_tensors": "maps.tensors",
    "load_model": "models.load",
    "next_tokens": "fusion.next_tokens",
}

__all__ = [
    "AdaptiveSteering",
    "Completion",
    "ContextError",
    "Contrast",
    "Delta",
    "LoadedModel",
    "MapTensors",
    "ModelError",
    "Request",
    "Sampling",
    "Steering",
    "SteeringProcessor",
    "fuse_logits",
    "generate",
    "identity_map_tensors",
    "implementation_of",
    "load_delta",
    "load_map_tensors",
    "load_model",
    "next_tokens",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
