"""Decoding with delta models through token maps.

>>> import cmc_runtime
>>> tensors = cmc_runtime.load_map_tensors("llama3-to-qwen3.arrow")  # doctest: +SKIP
>>> fused = cmc_runtime.fuse_logits(base, delta, tensors, alpha=1.0)  # doctest: +SKIP

Names are imported on first use: `import cmc_runtime` loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .decoding.cached_model import CachedModel, ContextError
    from .decoding.context import ContextTables, DeltaContext
    from .decoding.delta_stream import DeltaStream, Row
    from .decoding.generation import Completion, Sampling, generate
    from .decoding.logits_processor import SteeringProcessor
    from .decoding.steering import AdaptiveSteering, Contrast, FixedSteering
    from .decoding.token_choice import next_tokens
    from .delta import Delta, load_delta
    from .fuse import fuse_logits
    from .fusion import implementation_of
    from .map_tensors import MapTensors, identity_map_tensors, load_map_tensors
    from .models import LoadedModel, ModelError, load_model

_HOME = {
    "AdaptiveSteering": "decoding.steering",
    "CachedModel": "decoding.cached_model",
    "Completion": "decoding.generation",
    "ContextError": "decoding.cached_model",
    "ContextTables": "decoding.context",
    "Contrast": "decoding.steering",
    "Delta": "delta",
    "DeltaContext": "decoding.context",
    "DeltaStream": "decoding.delta_stream",
    "FixedSteering": "decoding.steering",
    "LoadedModel": "models",
    "MapTensors": "map_tensors",
    "ModelError": "models",
    "Row": "decoding.delta_stream",
    "Sampling": "decoding.generation",
    "SteeringProcessor": "decoding.logits_processor",
    "fuse_logits": "fuse",
    "generate": "decoding.generation",
    "identity_map_tensors": "map_tensors",
    "implementation_of": "fusion",
    "load_delta": "delta",
    "load_map_tensors": "map_tensors",
    "load_model": "models",
    "next_tokens": "decoding.token_choice",
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
