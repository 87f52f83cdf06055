"""New delta models: of a given shape with random weights, or the first layers of the template."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from cmc_runtime.map_tensors import vocabulary_of_tokenizer
from cmc_runtime.models import LoadedModel
from pm_mined import OptionError

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


def new_delta(
    template: LoadedModel,
    *,
    shape: str | None,
    layers: int | None,
    tokenizer: Any = None,
    seed: int = 0,
) -> LoadedModel:
    """A delta model on the template's device: of a shape, or else the template's first layers.

    A shape's tokenizer may be any; it is the template's if none is given.
    """
    if shape is not None:
        tokenizer = tokenizer or template.tokenizer
        model = delta_of_shape(shape, len(vocabulary_of_tokenizer(tokenizer)), seed=seed)
        name = f"new, of shape {shape}"
    else:
        tokenizer = template.tokenizer
        model = delta_of_layers(template.model, layers or 1)
        name = f"the first {layers} layers of {template.spec}"
    return LoadedModel(model.to(template.model.device), tokenizer, name)


def delta_of_shape(shape: str, num_logits: int, *, seed: int = 0) -> Any:
    """A float32 model with random weights.

    Args:
        shape: A name in `SHAPES`, or the `config.json` of any causal language model; of that, the
            vocabulary's size is replaced.
        num_logits: The size of the vocabulary.
        seed: Of the weights.

    Raises:
        OptionError: there is no such shape, or the file is no config.
    """
    config = _config(shape)
    config.vocab_size = num_logits
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _trainable(config)


def _config(shape: str) -> Any:
    if shape in SHAPES:
        return LlamaConfig(**SHAPES[shape], tie_word_embeddings=True)
    path = Path(shape)
    if not path.is_file():
        raise OptionError(f"{shape}: no such file, and none of the shapes {', '.join(SHAPES)}")
    try:
        fields = json.loads(path.read_text("utf-8"))
        return AutoConfig.for_model(**fields)
    except (ValueError, TypeError, KeyError) as error:  # not JSON, no object, no such model
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OptionError(f"{shape}: not the config.json of a model: {reason}") from error


def delta_of_layers(template: PreTrainedModel, layers: int) -> Any:
    """The first layers of a model and its embeddings, in float32, with a head of zeros.

    As it is, it changes nothing: its logits are 0. The head is not tied to the embeddings.

    Raises:
        OptionError: the template has fewer layers.
    """
    config = copy.deepcopy(template.config.get_text_config(decoder=True))
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
    weights = {name: value for name, value in template.state_dict().items() if name in own}
    missing = model.load_state_dict(weights, strict=False).missing_keys
    if set(missing) - {"lm_head.weight"}:
        raise OptionError(
            f"a {type(template).__name__} keeps layers in an unknown way: {missing[0]}"
        )
    with torch.no_grad():
        model.lm_head.weight.zero_()
    return model


def _trainable(config: Any) -> Any:  # transformers is typed in part only
    model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config, dtype=torch.float32
    )
    return model.train()
