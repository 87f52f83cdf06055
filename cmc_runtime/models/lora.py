"""LoRA adapters: the layers of a model with one, and its folder, as PEFT has it.

The folder holds `adapter_config.json` and `adapter_model.safetensors`. What is read is plain LoRA
of linear layers: the product `scaling * lora_B @ lora_A` is added to what a layer does. All else
is refused by its name. peft reads what is written here; it is not needed.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from cmc_runtime.errors import ModelError
from pm_mined.atomic_file import write_atomically

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_KEY = re.compile(r"base_model\.model\.(.+)\.(lora_[AB])\.weight")

# Of alpha_pattern: names, and regular expressions that take no time, whoever wrote them.
_PATTERN = re.compile(r"\^?(?:[\w-]|\\?\.)*(?:\.\*(?:[\w-]|\\?\.)*){0,2}\$?")

# Keys of a configuration that are used here, or that chose and made the layers, which the weights
# name. Whatever another key says would be missed: it must say nothing.
_USED = {"alpha_pattern", "base_model_name_or_path", "lora_alpha", "revision", "use_rslora"}
_DONE = {
    *("auto_mapping", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode"),
    *("layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "megatron_core"),
    *("peft_version", "qalora_group_size", "r", "rank_pattern", "target_modules"),
}
_EXPECTED = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),  # others change the base
}


class LoraLayer(nn.Module):
    """The change of a linear layer: `scaling * lora_B @ lora_A`.

    Attributes:
        lora_A: Floating [rank, inputs].
        lora_B: Floating [outputs, rank].
        scaling: A factor.
    """

    def __init__(self, lora_A: Tensor, lora_B: Tensor, scaling: float) -> None:  # noqa: N803 - as peft names them
        super().__init__()
        self.lora_A = nn.Parameter(lora_A, requires_grad=False)
        by_rank = lora_B.t().contiguous().t()  # adding the product then reads it as it lies
        self.lora_B = nn.Parameter(by_rank, requires_grad=False)
        self.scaling = scaling

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., outputs] of [..., inputs], without the factor."""
        low = functional.linear(inputs.to(self.lora_A.dtype), self.lora_A)
        return functional.linear(low, self.lora_B)


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter.

    Attributes:
        config: The contents of `adapter_config.json`.
        layers: The changes, by the names of the base model's layers.
    """

    config: Mapping[str, Any]
    layers: Mapping[str, LoraLayer]

    def save(self, folder: Path) -> None:
        """Write its two files."""
        text = json.dumps({**self.config, "inference_mode": True}, indent=2, sort_keys=True) + "\n"
        weights = {
            f"base_model.model.{path}.{name}.weight": weight.contiguous()
            for path, layer in self.layers.items()
            for name, weight in layer.state_dict().items()
        }
        write_atomically(folder / WEIGHTS, safetensors.torch.save(weights, {"format": "pt"}))
        write_atomically(folder / CONFIG, text.encode())

    def load_weights(self, folder: Path) -> None:
        """Take the weights that `save` wrote of the same adapter."""
        for path, matrices in _matrices(folder).items():
            self.layers[path].load_state_dict(matrices)


def is_adapter(folder: Path) -> bool:
    """True if a folder holds an adapter of PEFT, of whatever kind."""
    return (folder / CONFIG).is_file()


def fresh_adapter(model: Any, base: str, *, rank: int, alpha: float, seed: int) -> Adapter:
    """Make an adapter of all linear layers but the output layer, which changes nothing yet.

    As in peft, `lora_A` is drawn from Kaiming's uniform distribution, and `lora_B` is zero. They
    are in float32 at least, on the model's device. `base` names the model in the configuration.
    """
    head = model.get_output_embeddings()
    random = torch.Generator().manual_seed(seed)
    dtype = torch.promote_types(model.dtype, torch.float32)
    layers = {}
    for path, layer in model.named_modules():
        if not isinstance(layer, nn.Linear | Conv1D) or layer is head:
            continue
        outputs, inputs = _shape(layer)
        drawn = torch.empty(rank, inputs)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=random)
        made = LoraLayer(drawn, torch.zeros(outputs, rank), alpha / rank)
        layers[path] = made.to(model.device, dtype)
    config = {
        "base_model_name_or_path": base,
        "bias": "none",
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted({path.rpartition(".")[2] for path in layers}),
        "task_type": "CAUSAL_LM",
    }
    return Adapter(config, layers)


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of an adapter.

    Raises:
        ModelError: it is damaged, or of another kind than plain LoRA.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text("utf-8"))
        if not isinstance(config, dict):
            raise TypeError("it is no JSON object")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: not the configuration of an adapter: {error}") from error
    for name, value in config.items():
        if not _is_plain(name, value):
            said = shorten(f"{name} {value!r}", 100)
            _refuse(folder, f"{said}; only plain LoRA of a causal language model is supported")
    return config


def _is_plain(name: str, value: Any) -> bool:
    if name in _EXPECTED:
        return any(value is one or value == one for one in _EXPECTED[name])
    return name in _USED | _DONE or not value


def _refuse(folder: Path, reason: str) -> None:
    raise ModelError(f"{folder}: an adapter with {reason}: merge it into its base by peft")


def read_adapter(folder: Path, model: Any, dtype: torch.dtype | None = None) -> Adapter:
    """The adapter in a folder, on its base model's device; by default, in its dtype too.

    Raises:
        ModelError: it cannot be read, is of another kind than plain LoRA, or of another model.
    """
    config = read_config(folder)
    layers = {}
    for path, matrices in _matrices(folder).items():
        _check_layer(folder, model, path, {name: one.shape for name, one in matrices.items()})
        scaling = _scaling(folder, config, path, len(matrices["lora_A"]))
        made = LoraLayer(**matrices, scaling=scaling)
        layers[path] = made.to(model.device, dtype or model.dtype)
    return Adapter(config, layers)


def _matrices(folder: Path) -> dict[str, dict[str, Tensor]]:
    """`lora_A` and `lora_B` by the names of layers."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError(f"{folder}: the weights of an adapter must be in {WEIGHTS}: save it so")
    try:
        weights = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot read: {shorten(str(error), 200)}") from error
    found: dict[str, dict[str, Tensor]] = {}
    for key, weight in weights.items():
        match = _KEY.fullmatch(key)
        if match is None:
            _refuse(folder, f"{shorten(key, 100)}, which is no LoRA of a linear layer")
        else:
            found.setdefault(match[1], {})[match[2]] = weight
    if not found:
        raise ModelError(f"{path}: there is nothing in it")
    return found


def _check_layer(
    folder: Path, model: Any, path: str, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse a layer that the model does not have, or not of that shape."""
    layer = dict(model.named_modules()).get(path)
    if not isinstance(layer, nn.Linear | Conv1D):
        raise ModelError(f"{folder}: an adapter of {path}, which is no linear layer of its base")
    if layer is model.get_output_embeddings():
        _refuse(folder, f"a change of the output layer, {path}")
    outputs, inputs = _shape(layer)
    rank = shapes.get("lora_A", (0,))[0]
    if rank == 0 or shapes != {"lora_A": (rank, inputs), "lora_B": (outputs, rank)}:
        found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ModelError(
            f"{folder}: {path} of its base has {inputs} inputs and {outputs} outputs, but the "
            f"adapter {found}: it is of another model"
        )


def _shape(layer: Any) -> tuple[int, int]:
    """The numbers of outputs and inputs of a linear layer."""
    size = tuple(layer.weight.shape)
    return size[::-1] if isinstance(layer, Conv1D) else size


def _scaling(folder: Path, config: Mapping[str, Any], path: str, rank: int) -> float:
    """The factor of a layer's product, as peft computes it."""
    try:
        patterns = dict(config.get("alpha_pattern") or {})
        for pattern in patterns:
            if not _PATTERN.fullmatch(pattern):
                _refuse(folder, f"alpha_pattern {shorten(pattern, 100)!r}")
        matching = (one for one in patterns if re.fullmatch(rf"(.*\.)?({one})", path))
        alpha = float(patterns.get(next(matching, None), config.get("lora_alpha", 8)))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{folder / CONFIG}: {path} has no alpha: {error}") from error
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
