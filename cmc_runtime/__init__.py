"""Decoding with delta models through token maps.

>>> import cmc_runtime
>>> tensors = cmc_runtime.load_map_tensors("llama3-to-qwen3.arrow")  # doctest: +SKIP
>>> fused = cmc_runtime.fuse_logits(base, delta, tensors, alpha=1.0)  # doctest: +SKIP

Names are imported on first use: `import cmc_runtime` loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cached_model import CachedModel, ContextError
    from .context import ContextTables, DeltaContext
    from .delta import Delta, load_delta
    from .delta_stream import DeltaStream, Row
    from .fuse import fuse_logits, implementation_of
    from .generation import Completion, Sampling, generate
    from .logits_processor import SteeringProcessor
    from .map_tensors import MapTensors, identity_map_tensors, load_map_tensors
    from .models import LoadedModel, ModelError, load_model
    from .steering import AdaptiveSteering, Contrast, FixedSteering
    from .token_choice import next_tokens

_HOME = {
    "AdaptiveSteering": "steering",
    "CachedModel": "cached_model",
    "Completion": "generation",
    "ContextError": "cached_model",
    "ContextTables": "context",
    "Contrast": "steering",
    "Delta": "delta",
    "DeltaContext": "context",
    "DeltaStream": "delta_stream",
    "FixedSteering": "steering",
    "LoadedModel": "models",
    "MapTensors": "map_tensors",
    "ModelError": "models",
    "Row": "delta_stream",
    "Sampling": "generation",
    "SteeringProcessor": "logits_processor",
    "fuse_logits": "fuse",
    "generate": "generation",
    "identity_map_tensors": "map_tensors",
    "implementation_of": "fuse",
    "load_delta": "delta",
    "load_map_tensors": "map_tensors",
    "load_model": "models",
    "next_tokens": "token_choice",
}

__all__ = [
    "AdaptiveSteering",
    "CachedModel",
    "Completion",
    "ContextError",
    "ContextTables",
    "Contrast",
    "Delta",
    "DeltaContext",
    "DeltaStream",
    "FixedSteering",
    "LoadedModel",
    "MapTensors",
    "ModelError",
    "Row",
    "Sampling",
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
