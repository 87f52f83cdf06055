"""New delta models: random weights of a shape, the frozen model's first layers, an adapter."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from cmc_runtime.errors import ModelError
from cmc_runtime.models.difference import DifferenceModel
from cmc_runtime.models.ends import ending_tokens
from cmc_runtime.models.load import LoadedModel
from cmc_runtime.models.lora import fresh_adapter
from cmc_runtime.models.placement import all_weights, fetched, is_spread
from cmc_runtime.models.torch_errors import is_out_of_memory, quiet
from pm_mined import OptionError, load_vocabulary

from .square_head import SquareHead

SHAPES: dict[str, dict[str, Any]] = {
    # Trained on TinyStories (https://github.com/karpathy/llama2.c); used in Cross-model Control.
    "15m": {
        "hidden_size": 288,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "intermediate_size": 768,
        "max_position_embeddings": 1024,
    },
    "42m": {
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "intermediate_size": 1376,
        "max_position_embeddings": 1024,
    },
    "110m": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 2048,
        "max_position_embeddings": 1024,
    },
}
"""Llama shapes by the number of parameters that they have with Llama 2's 32,000 tokens."""


class NewDelta(LoadedModel):
    """A delta model as it is before any training: it has not learned to write anything yet."""


def new_delta(
    frozen: LoadedModel,
    *,
    shape: str | None = None,
    layers: int | None = None,
    tokenizer: Any = None,
    seed: int = 0,
) -> LoadedModel:
    """Make a delta model on the frozen model's device: of a shape, or else of its first layers.

    Args:
        frozen: The model beside which it is to be trained.
        shape: See `delta_of_shape`.
        layers: See `delta_of_layers`; 1 if neither is given.
        tokenizer: Of a shape's model, any of transformers'; the frozen model's by default.
        seed: Of a shape's random weights.

    Raises:
        OptionError: shape and layers are given both, or a tokenizer without a shape; no model can
            be made of the shape; there are fewer layers.

    >>> new_delta(frozen, shape="15m").spec  # doctest: +SKIP
    'new, of shape 15m'
    """
    if shape is not None and layers is not None:
        raise OptionError("a delta has a shape or layers of the frozen model: give one of them")
    if tokenizer is not None and shape is None:
        raise OptionError("layers of the frozen model keep its tokenizer: give a shape for another")
    ends = frozen.ends if tokenizer is None else ending_tokens(None, tokenizer)
    if shape is not None:
        tokenizer = tokenizer or frozen.tokenizer
        model = delta_of_shape(shape, len(load_vocabulary(tokenizer)), seed=seed)
        name = f"new, of shape {shape}"
    else:
        tokenizer = frozen.tokenizer
        layers = 1 if layers is None else layers
        model = delta_of_layers(frozen.model, layers)
        name = f"the first {layers} layers of {frozen.spec}"
    model.config.eos_token_id = model.generation_config.eos_token_id = ends or None
    return NewDelta(model.to(frozen.device), tokenizer, name)


def new_adapter(base: LoadedModel, *, rank: int = 16, seed: int = 0) -> LoadedModel:
    """Make a delta model of a LoRA adapter: the difference that it makes to a small model.

    It is of all linear layers but the output layer, and changes nothing yet. What its two matrices
    make counts twice (`lora_alpha` is `2 * rank`), as in TRL.

    Args:
        base: The small model, on the device of the model beside which the adapter is to be
            trained; or that model itself. It is not changed.
        rank: Of the matrices.
        seed: Of the weights.

    Raises:
        OptionError: the rank is less than 1.
        ModelError: the base model's logits are not a matrix product of its final hidden states, or
            it is spread over several places.

    >>> new_adapter(load_model("smollm2-135m"), rank=8).spec  # doctest: +SKIP
    'new, an adapter of rank 8 of smollm2-135m'
    """
    if not 1 <= rank < 2**15:
        raise OptionError(f"the rank of an adapter is {rank}; expected 1 or more")
    name = _name_of(base)
    if is_spread(base.model):
        raise ModelError(
            f"{name} is spread over several places, and the base of an adapter must be in one: "
            "give a small model by --adapter-base"
        )
    adapter = fresh_adapter(base.model, name, rank=rank, alpha=2 * rank, seed=seed)
    model: Any = DifferenceModel(base.model, adapter)
    return NewDelta(model, base.tokenizer, f"new, an adapter of rank {rank} of {name}")


def _name_of(model: LoadedModel) -> str:
    """The name by which a model is found again: a folder by its whole path."""
    # Of a packaged model, `spec` is a path of this machine; its tokenizer has the name.
    name = str(getattr(model.tokenizer, "name_or_path", None) or model.spec)
    return str(Path(name).resolve()) if Path(name).exists() else name


def delta_of_shape(shape: str, num_logits: int, *, seed: int = 0) -> Any:
    """A float32 model with random weights.

    Args:
        shape: A name in `SHAPES`, or the `config.json` of any causal language model; of that, the
            vocabulary's size is replaced, and special tokens beyond it are left out.
        num_logits: The size of the vocabulary.
        seed: Of the weights.

    Raises:
        OptionError: there is no such shape, or of the file no model can be made.
    """
    if shape not in SHAPES and not Path(shape).is_file():
        raise OptionError(f"{shape}: no such file, and none of the shapes {', '.join(SHAPES)}")
    with _one_line_errors(shape), quiet(), torch.random.fork_rng():
        config = _config(shape)
        config.vocab_size = num_logits
        _drop_special_tokens(config, num_logits)
        torch.manual_seed(seed)
        model = _trainable(config)
        model(torch.zeros(1, 2, dtype=torch.int64))  # some sizes do not fit only when it runs
        return model


def _config(shape: str) -> Any:
    if shape in SHAPES:
        return LlamaConfig(**SHAPES[shape], tie_word_embeddings=True)
    fields = json.loads(Path(shape).read_text("utf-8"))
    return AutoConfig.for_model(**fields).get_text_config(decoder=True)


def _drop_special_tokens(config: Any, num_logits: int) -> None:
    """Those of the config's own vocabulary that the new one is too small for."""
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        ids = getattr(config, name, None)
        each = ids if isinstance(ids, list) else [ids]
        if any(one is not None and one >= num_logits for one in each):
            setattr(config, name, None)


@contextmanager
def _one_line_errors(shape: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each architecture has its own
        if is_out_of_memory(error):
            raise OptionError(f"{shape}: there is not enough memory for such a model") from error
        reason = shorten(f"{type(error).__name__}: {error}", 200)
        raise OptionError(f"{shape}: not the config.json of a model: {reason}") from error


def delta_of_layers(
    frozen: PreTrainedModel, layers: int, head: Literal["square", "full"] = "square"
) -> Any:
    """The first layers of a model and its embeddings, in float32, with an output layer of zeros.

    As it is, it changes nothing: its logits are 0.

    Args:
        frozen: The model.
        layers: How many.
        head: `square`, the model's output embeddings times a square matrix: see `SquareHead`; or
            `full`, a layer of its own, which takes several times as long to train.

    Raises:
        OptionError: the frozen model has fewer layers.
    """
    config = copy.deepcopy(frozen.config.get_text_config(decoder=True))
    if not 1 <= layers <= config.num_hidden_layers:
        raise OptionError(
            f"the delta cannot have {layers} layers of a model that has {config.num_hidden_layers}"
        )
    config.num_hidden_layers = layers
    config.tie_word_embeddings = False
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    model = _trainable(config)
    own = model.state_dict()
    weights = {name: value for name, value in all_weights(frozen).items() if name in own}
    missing = model.load_state_dict(weights, strict=False).missing_keys
    if set(missing) - {"lm_head.weight"}:
        raise OptionError(f"a {type(frozen).__name__} keeps layers in an unknown way: {missing[0]}")
    if head == "square":
        model.set_output_embeddings(SquareHead(_output_embeddings(frozen, model)))
    else:
        nn.init.zeros_(model.get_output_embeddings().weight)
    return model


def _output_embeddings(frozen: Any, model: Any) -> nn.Parameter:
    """Those of the frozen model, in float32; where it has tied them, they are the input's."""
    weight, tied = (
        layer.weight for layer in (frozen.get_output_embeddings(), frozen.get_input_embeddings())
    )
    if weight is tied:
        shared: nn.Parameter = model.get_input_embeddings().weight
        return shared
    own = fetched(frozen, weight)
    return nn.Parameter(own.detach().float(), requires_grad=False)


def _trainable(config: Any) -> Any:  # transformers is typed in part only
    model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config, dtype=torch.float32, trust_remote_code=False
    )
    return model.train()
