"""Models that are spread over several devices, main memory and disk, by accelerate.

Such a model takes ids on one device, its first, and returns logits there. Weights in main memory or
on disk have no data of their own: accelerate fetches them where a layer runs.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

DeviceMap: TypeAlias = str | Mapping[str, int | str]
"""Where the parts of a model go: `auto`, or another of accelerate's names; or a device for each."""

_NO_DEVICES = ("cpu", "disk")


def main_device(model: Any) -> torch.device:
    """The device on which a model takes ids and returns logits."""
    places = (getattr(model, "hf_device_map", None) or {}).values()
    if not places:
        device: torch.device = model.device
        return device
    first = next((one for one in places if one not in _NO_DEVICES), "cpu")
    return torch.device("cuda", first) if isinstance(first, int) else torch.device(first)


def is_spread(model: Any) -> bool:
    """True if the parts of a model are in several places, or where nothing can be computed."""
    places = set((getattr(model, "hf_device_map", None) or {}).values())
    return len(places) > 1 or "disk" in places


def fetched(model: Any, weight: Tensor) -> Tensor:
    """A weight of a model on its main device; itself, if it is there."""
    if not weight.is_meta:
        return weight.to(main_device(model))
    layer, name = _owner(model, weight)
    return layer._hf_hook.weights_map[name].to(main_device(model), weight.dtype)  # type: ignore[no-any-return] # accelerate is not typed


def _owner(model: Any, weight: Tensor) -> tuple[Any, str]:
    """The layer that runs with a weight, and its name there."""
    for layer in model.modules():
        for name, one in layer.named_parameters(recurse=False):
            if one is weight:
                return layer, name
    raise ValueError("the model has no such weight")


def all_weights(model: Any) -> Mapping[str, Tensor]:
    """The weights of a model by their names, in main memory or on a device."""
    if not is_spread(model):
        weights: Mapping[str, Tensor] = model.state_dict()
        return weights
    from accelerate.utils.modeling import get_state_dict_offloaded_model

    found: Mapping[str, Tensor] = get_state_dict_offloaded_model(model)
    return {name: found[name] for name in model.state_dict()}
