"""Decoding with delta models through token maps.

>>> import cmc_runtime
>>> tensors = cmc_runtime.load_map_tensors("llama3-to-qwen3.arrow")  # doctest: +SKIP
>>> fused = cmc_runtime.fuse_logits(base, delta, tensors, alpha=1.0)  # doctest: +SKIP

Names are imported on first use: `import cmc_runtime` loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cached_model import CachedModel
    from .context import ContextTables, DeltaContext
    from .delta_stream import DeltaStream, Row
    from .fuse import fuse_logits
    from .logits_processor import SteeringProcessor
    from .map_tensors import MapTensors, load_map_tensors
    from .models import LoadedModel, load_model
    from .steering import AdaptiveSteering, Contrast, FixedSteering

_HOME = {
    "AdaptiveSteering": "steering",
    "CachedModel": "cached_model",
    "ContextTables": "context",
    "Contrast": "steering",
    "DeltaContext": "context",
    "DeltaStream": "delta_stream",
    "FixedSteering": "steering",
    "LoadedModel": "models",
    "MapTensors": "map_tensors",
    "Row": "delta_stream",
    "SteeringProcessor": "logits_processor",
    "fuse_logits": "fuse",
    "load_map_tensors": "map_tensors",
    "load_model": "models",
}

__all__ = [
    "AdaptiveSteering",
    "CachedModel",
    "ContextTables",
    "Contrast",
    "DeltaContext",
    "DeltaStream",
    "FixedSteering",
    "LoadedModel",
    "MapTensors",
    "Row",
    "SteeringProcessor",
    "fuse_logits",
    "load_map_tensors",
    "load_model",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
