"""The last step of a causal language model: its final hidden states, and logits from them."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cmc_runtime.errors import ModelError
from pm_mined import OptionError

from .placement import fetched

# In the configurations of transformers' models: factors of the logits, divisors, and bounds.
_FACTORS = ("logit_scale", "lm_head_multiplier")  # Cohere; Falcon-H1
_DIVISORS = ("logits_scaling",)  # Granite
_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap")  # Gemma 2; RecurrentGemma

_PROBED = 80.0  # logits between this and its negative: softcaps are 30 or so


@dataclass(frozen=True, eq=False)
class OutputHead:
    """Logits as a function of hidden states; with `x` for `scale * (weight @ hidden + bias)`,
    these are `softcap * tanh(x / softcap)`, or `x` itself without a softcap.

    Attributes:
        weight: Floating [width, hidden size].
        bias: Floating [width], or None.
        scale: A factor.
        softcap: The bound of all logits, or None.

    >>> head = OutputHead(torch.tensor([[1.0], [3.0]]), scale=0.5)
    >>> head(torch.tensor([[2.0]]))
    tensor([[1., 3.]])
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: Any) -> "OutputHead":
        """The head of a causal language model of transformers; it shares the model's parameters.

        Scale and softcap are read from the configuration. A forward of one id makes sure that
        they are all that lies between the states of `hidden_states` and the model's logits.

        Raises:
            ModelError: the model has no output layer, or does something else there.
        """
        layer = model.get_output_embeddings()
        if layer is None:
            raise ModelError(f"a {type(model).__name__} has no output layer: it makes no logits")
        config = model.config.get_text_config(decoder=True)
        scale = 1.0
        for name in _FACTORS:
            scale *= getattr(config, name, None) or 1.0
        for name in _DIVISORS:
            scale /= getattr(config, name, None) or 1.0
        softcaps = [getattr(config, name, None) for name in _SOFTCAPS]
        softcap = next((float(one) for one in softcaps if one), None)
        bias = getattr(layer, "bias", None)
        bias = None if bias is None else fetched(model, bias)
        head = cls(fetched(model, layer.weight), bias, float(scale), softcap)
        _check(model, layer, head)
        return head

    @property
    def width(self) -> int:
        """The number of logits, padding included."""
        return self.weight.shape[0]

    def to(self, dtype: torch.dtype) -> "OutputHead":
        """The same head with its parameters in a dtype; no copy of those that have it."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return replace(self, weight=self.weight.to(dtype), bias=bias)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Float [..., width], in float32 at least, of floating `hidden` [..., hidden size].

        The matrix product is in the dtype of `hidden`, as in the model, all else in float32.

        Raises:
            OptionError: the hidden states do not fit.
        """
        return self.finish(self.project(hidden))

    def project(self, hidden: Tensor) -> Tensor:
        """`weight @ hidden + bias`, [..., width], in the dtype of `hidden`."""
        if hidden.shape[-1:] != self.weight.shape[1:]:
            raise OptionError(
                f"hidden states are {list(hidden.shape)}, but the output head reads vectors of "
                f"{self.weight.shape[1]:,}"
            )
        head = self.to(hidden.dtype)
        return functional.linear(hidden, head.weight, head.bias)

    def finish(self, projected: Tensor) -> Tensor:
        """The logits, in float32 at least, from what `project` returned."""
        logits = projected.to(torch.promote_types(projected.dtype, torch.float32))
        if self.scale != 1:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = (logits / self.softcap).tanh() * self.softcap
        return logits


def hidden_states(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> Tensor:
    """Run a causal language model of transformers up to its output head.

    Ids, mask and positions are int64 [batch, positions], as the model takes them. Returns floating
    [batch, positions, hidden size], differentiable in the model's parameters.
    """
    inputs = {"attention_mask": attention_mask, "position_ids": position_ids}
    given = {name: value for name, value in inputs.items() if value is not None}
    states: Tensor = model.get_decoder()(
        input_ids=input_ids, use_cache=False, **given
    ).last_hidden_state
    return states.to(input_ids.device)


def _check(model: Any, layer: Any, head: OutputHead) -> None:
    """Run one id with an output layer that returns known numbers, to see what follows it."""
    like = head.weight
    probe = torch.linspace(-_PROBED, _PROBED, head.width, dtype=like.dtype, device=like.device)
    decoded, read = [], []

    def answer(_layer: Any, inputs: tuple[Tensor, ...], projected: Tensor) -> Tensor:
        read.append(inputs[0])
        return probe.to(projected.device).expand_as(projected)

    hooks = [
        model.get_decoder().register_forward_hook(lambda *call: decoded.append(call[-1])),
        layer.register_forward_hook(answer),
    ]
    try:
        with torch.no_grad():
            ids = torch.zeros(1, 1, dtype=torch.int64, device=like.device)
            logits = model(input_ids=ids, use_cache=False).logits.to(like.device)
    finally:
        for hook in hooks:
            hook.remove()
    same = decoded and read and _equal(decoded[-1].last_hidden_state, read[-1])
    if not same:
        _refuse(model, "its output layer does not read its decoder's last hidden states")
    expected = head.finish(probe).expand_as(logits)
    tolerance = 8 * torch.finfo(like.dtype).eps
    if not torch.allclose(logits.to(expected.dtype), expected, rtol=tolerance, atol=tolerance):
        _refuse(model, "what it does to the logits after its output layer is not known")


def _equal(one: Tensor, other: Tensor) -> bool:
    """True if two tensors are equal, NaN to NaN as well: damaged weights are not refused here."""
    other = other.to(one.device)
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _refuse(model: Any, why: str) -> None:
    config = model.config.get_text_config(decoder=True).to_dict()
    settings = [
        f"{name} {value}"
        for name, value in config.items()
        if value is not None and any(part in name for part in ("logit", "lm_head", "mup"))
    ]
    hint = f"; of its settings, these may be the reason: {', '.join(settings)}" if settings else ""
    raise ModelError(f"the logits of a {type(model).__name__} cannot be made here: {why}{hint}")
