"""A small model with an adapter less the same model without it: a delta of what tuning changed.

Both halves read the same ids, so that one forward serves both in decoding: every row runs twice,
side by side, and the adapter is added to the first of each two. A step of one text is bound by
reading the weights, which two rows share. Logits are the output head's of the difference of the
final hidden states, for a head that is one matrix product: a bias falls away, a softcap would not.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cached_property
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from cmc_runtime.errors import ModelError

from .load import cache_keyword, enable_checkpointing
from .lora import Adapter, LoraLayer
from .output_head import OutputHead


class DifferenceModel(nn.Module):
    """Adapted less plain, with the interface of a causal language model that a delta needs.

    Its parameters are the adapter's. As long as that is zero, so are all logits.

    Attributes:
        plain: The base model, a transformers model; it is not changed and may be used elsewhere.
        adapter: The adapter of it.
        config, generation_config: The base model's.

    Raises:
        ModelError: the base model's logits are not a matrix product of its final hidden states.
    """

    def __init__(self, plain: Any, adapter: Adapter) -> None:
        super().__init__()
        head = OutputHead.of(plain)
        if head.softcap is not None:
            raise ModelError(
                f"a {type(plain).__name__} caps its logits, so that the difference which an "
                "adapter makes to them needs two output heads: take another base model"
            )
        self.config, self.generation_config = plain.config, plain.generation_config
        self.adapter = adapter
        self.layers = nn.ModuleList(adapter.layers.values())
        self.decoder = _DifferenceDecoder(plain, adapter.layers)
        self._base = plain, _layer_of(head.weight)  # in a tuple: no part of this module
        self._scale = head.scale

    @property
    def plain(self) -> Any:
        """The base model."""
        return self._base[0]

    @property
    def device(self) -> torch.device:
        """The device of both."""
        device: torch.device = self.plain.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the base model."""
        dtype: torch.dtype = self.plain.dtype
        return dtype

    @property
    def _supports_attention_backend(self) -> bool:
        return bool(self.plain._supports_attention_backend)

    @property
    def _is_stateful(self) -> bool:
        return bool(getattr(self.plain, "_is_stateful", False))

    def get_input_embeddings(self) -> Any:
        """The base model's embeddings."""
        return self.plain.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Linear:
        """The base model's output layer, without a bias."""
        return self._base[1]

    def get_decoder(self) -> nn.Module:
        """Makes the difference of the final hidden states."""
        return self.decoder

    def forward(self, *, logits_to_keep: int = 0, **inputs: Any) -> CausalLMOutput:
        """Float [rows, kept ids, width], from the arguments of a transformers model."""
        states = self.decoder(**inputs).last_hidden_state[:, -logits_to_keep:]
        logits = self.get_output_embeddings()(states)
        return CausalLMOutput(logits=logits if self._scale == 1 else logits * self._scale)

    def activation_checkpointing_enable(self, options: Mapping[str, Any]) -> None:
        """Make activations of the adapted half again in backward."""
        enable_checkpointing(self.decoder.adapted, options)
        for module in self.decoder.adapted.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True  # or it keeps them; what drops out at random stays off

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write the adapter, as PEFT does."""
        self.adapter.save(Path(folder))


def _layer_of(weight: Tensor) -> nn.Linear:
    """An output layer of this weight, without a copy."""
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


class _DifferenceDecoder(nn.Module):
    """The difference of the final hidden states."""

    def __init__(self, plain: Any, layers: Mapping[str, LoraLayer]) -> None:
        super().__init__()
        self._base = plain, layers  # in a tuple: no part of this module
        self._cache_keyword = cache_keyword(plain)

    # Not parts of this module either: these are set beside torch's own attributes.

    @cached_property
    def adapted(self) -> Any:
        """The base model with the adapter in all rows."""
        return _with_layers(*self._base, _added_to_all)

    @cached_property
    def pairs(self) -> Any:
        """The base model with the adapter in the first row of each two."""
        return _with_layers(*self._base, _added_to_first_of_two)

    def forward(self, past_key_values: Cache | None = None, **inputs: Any) -> BaseModelOutput:
        """[rows, ids, size]; with a cache both halves run at once, else one after the other."""
        if past_key_values is None:
            difference = self._one_by_one(inputs)
        else:
            difference = self._at_once(inputs, past_key_values)
        return BaseModelOutput(last_hidden_state=difference)

    def _one_by_one(self, inputs: dict[str, Any]) -> Tensor:
        """Without activations of the plain half: no gradient needs them."""
        plain = self._base[0].get_decoder()
        with torch.no_grad():
            before: Tensor = plain(**inputs).last_hidden_state
        after: Tensor = self.adapted.get_decoder()(**inputs).last_hidden_state
        return after - before

    def _at_once(self, inputs: dict[str, Any], cache: Cache) -> Tensor:
        twice = {
            name: one.repeat_interleave(2, 0) if isinstance(one, Tensor) else one
            for name, one in inputs.items()
        }
        cached = {self._cache_keyword: _PairedCache(cache)}
        states: Tensor = self.pairs.get_decoder()(**twice, **cached).last_hidden_state
        return states[::2] - states[1::2]


_Forward: TypeAlias = Callable[[Tensor], Tensor]


def _with_layers(
    model: Any,
    layers: Mapping[str, LoraLayer],
    added: Callable[[_Forward, LoraLayer], _Forward],
) -> Any:
    """A model of the same weights, whose linear layers compute what `added` makes of them."""
    shared = {id(one): one for one in chain(model.parameters(), model.buffers())}
    copy = deepcopy(model, shared)
    for path, layer in layers.items():
        linear = copy.get_submodule(path)
        linear.forward = added(linear.forward, layer)  # a hook would cost a step some percent
    return copy


def _added_to_all(forward: _Forward, layer: LoraLayer) -> _Forward:
    def adapted(inputs: Tensor) -> Tensor:
        outputs = forward(inputs)
        return outputs.add(layer(inputs).to(outputs.dtype), alpha=layer.scaling)

    return adapted


def _added_to_first_of_two(forward: _Forward, layer: LoraLayer) -> _Forward:
    lora_a, lora_b, scaling = layer.lora_A.t(), layer.lora_B.t(), layer.scaling

    def adapted(inputs: Tensor) -> Tensor:
        if inputs.ndim != 3:
            raise ModelError(
                "the base model joins its rows before a layer of the adapter, as mixtures of "
                "experts do: merge the adapter into its base by peft, and take that as a model"
            )
        outputs = forward(inputs)
        if len(outputs) == 2 and outputs.dtype == lora_a.dtype:
            # Of one text: matrices, which cost less than batches of them.
            outputs[0].addmm_(inputs[0] @ lora_a, lora_b, alpha=scaling)
        else:
            outputs[::2].add_(layer(inputs[::2]), alpha=scaling)
        return outputs

    return adapted


class _PairedCache(Cache):
    """The cache of a batch as a model sees it that runs each row twice.

    The cache itself has one row for both, with twice the heads: who selects and moves its rows
    need not know.
    """

    def __init__(self, cache: Cache) -> None:
        vars(self).update(vars(cache))  # the layers are the same

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add keys and values [2 * rows, heads, ids, size], and return all."""
        joined = _joined(key_states), _joined(value_states)
        keys, values = super().update(*joined, layer_idx, *args, **kwargs)
        return _parted(keys), _parted(values)


def _joined(states: Tensor) -> Tensor:
    """[rows, 2 * heads, ids, size] of [2 * rows, heads, ids, size]."""
    rows, heads, ids, size = states.shape
    return states.reshape(rows // 2, 2 * heads, ids, size)


def _parted(states: Tensor) -> Tensor:
    """The inverse; a view."""
    rows, heads, ids, size = states.shape
    return states.view(2 * rows, heads // 2, ids, size)
