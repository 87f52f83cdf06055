"""The kinds of models that llama.cpp computes as transformers does, and how it lays weights out.

Facts from llama.cpp's `convert_hf_to_gguf.py` and `src/models` (MIT licence,
https://github.com/ggml-org/llama.cpp), checked by logits against both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cmc_runtime.errors import ModelError


@dataclass(frozen=True)
class Architecture:
    """A kind of model.

    Attributes:
        name: As llama.cpp calls it.
        expected: The settings of a configuration that llama.cpp takes for granted.
        interleaved: The two halves of a head that are rotated together lie side by side, in
            queries and keys.
        norm_offset: What is added to the weights of norms.
    """

    name: str
    expected: Mapping[str, Any]
    interleaved: bool = False
    norm_offset: float = 0.0


ARCHITECTURES = {
    "llama": Architecture(
        "llama",
        {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
        interleaved=True,
    ),
    "qwen2": Architecture("qwen2", {"hidden_act": "silu", "use_sliding_window": False}),
    "qwen3": Architecture(
        "qwen3", {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False}
    ),
    "gemma3_text": Architecture(
        "gemma3",
        {
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "use_bidirectional_attention": False,
        },
        norm_offset=1.0,
    ),
}
"""By the `model_type` of a configuration."""

_GEMMA_PERIOD, _GEMMA_LOCAL_THETA = 6, 10_000.0  # every sixth layer looks at the whole text


def architecture_of(config: Any) -> Architecture:
    """The architecture of a configuration of transformers.

    Raises:
        ModelError: llama.cpp computes such a model otherwise, or it is not known how.
    """
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(
            f"a model of type {config.model_type} cannot be written as GGUF (only {known})"
        )
    for name, value in found.expected.items():
        _expect(config, name, getattr(config, name, value), value)
    ropes = config.rope_parameters
    for rope in [ropes] if "rope_type" in ropes else ropes.values():
        _expect(config, "rope_type", rope["rope_type"], "default")
    if found.name == "gemma3":
        _expect(config, "query_pre_attn_scalar", config.query_pre_attn_scalar, head_size(config))
        theta = ropes["sliding_attention"]["rope_theta"]
        _expect(config, "rope_theta of sliding layers", theta, _GEMMA_LOCAL_THETA)
        kinds = ["sliding_attention"] * (_GEMMA_PERIOD - 1) + ["full_attention"]
        layers = [kinds[i % _GEMMA_PERIOD] for i in range(config.num_hidden_layers)]
        _expect(config, "layer_types", config.layer_types, layers)
    return found


def _expect(config: Any, name: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise ModelError(
            f"a model of type {config.model_type} with {name} {found!r} cannot be written as GGUF: "
            f"llama.cpp takes it for {expected!r}"
        )


def head_size(config: Any) -> int:
    """The size of an attention head."""
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def rope_theta(config: Any) -> float:
    """The base of the rotary embedding; of layers that look at the whole text, if others do not."""
    ropes = config.rope_parameters
    return float(ropes.get("full_attention", ropes)["rope_theta"])


def gguf_tensors(model: Any, architecture: Architecture) -> Iterator[tuple[str, Tensor]]:
    """The weights of a model by their names in a GGUF file, as llama.cpp wants them to lie.

    Raises:
        ModelError: there is a weight that llama.cpp has not.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    config = model.config
    arch = next(key for key, name in MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if config.tie_word_embeddings and name == "lm_head.weight":
            continue
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ModelError(f"its weight {name} has no place in a GGUF file")
        yield found, _laid_out(found, weight.detach().cpu(), config, architecture)


def _laid_out(name: str, weight: Tensor, config: Any, architecture: Architecture) -> Tensor:
    if name.endswith("norm.weight"):
        return weight.float() + architecture.norm_offset
    if architecture.interleaved and ".attn_q." in name:
        return _interleaved(weight, config.num_attention_heads)
    if architecture.interleaved and ".attn_k." in name:
        return _interleaved(weight, config.num_key_value_heads)
    return weight


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """Put row `i` of a head and row `i + half` of it side by side."""
    rows = weight.shape[0]
    halves = weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)
