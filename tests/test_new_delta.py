"""Delta models to start from: the first layers of a template, and shapes."""

import json

import pytest
import torch
from tiny_models import save_model

from cmc_runtime import load_model
from cmc_runtime.training.new_delta import SHAPES, delta_of_layers, delta_of_shape, new_delta
from pm_mined import OptionError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("new-delta")
    save_model(made / "template", "byte-level", seed=0)
    save_model(made / "small", "metaspace", seed=1)
    return made


@pytest.fixture(scope="module")
def template(folder):
    return load_model(folder / "template", device="cpu")


def test_the_first_layers_change_nothing_and_read_the_same(template):
    start = delta_of_layers(template.model, 1)
    ids = torch.arange(1, 9)[None]
    assert start(ids).logits.abs().max() == 0
    states = template.model(ids, output_hidden_states=True).hidden_states[1]
    assert torch.equal(
        start.get_decoder()(ids, output_hidden_states=True).hidden_states[0],
        template.model.get_input_embeddings()(ids),
    )
    norm = template.model.get_decoder().norm
    torch.testing.assert_close(start.get_decoder()(ids).last_hidden_state, norm(states))
    assert start.config.num_hidden_layers == 1


@pytest.mark.parametrize("layers", [0, 3])
def test_layers_that_there_are_not(template, layers):
    with pytest.raises(OptionError, match=f"cannot have {layers} layers of a model that has 2"):
        new_delta(template, shape=None, layers=layers)


def test_the_shapes_have_the_parameters_of_their_names():
    millions = {
        name: sum(one.numel() for one in delta_of_shape(name, 32_000).parameters()) / 1e6
        for name in ("15m", "42m")
    }
    assert {name: round(count) for name, count in millions.items()} == {"15m": 15, "42m": 42}
    assert "110m" in SHAPES


def test_a_shape_from_a_file(folder, tmp_path):
    one, other = (delta_of_shape(str(folder / "small/config.json"), 50, seed=s) for s in (1, 2))
    assert one.config.vocab_size == 50
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    with pytest.raises(OptionError, match=r"none\.json: no such file"):
        delta_of_shape("none.json", 50)


SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", **SIZES, "pad_token_id": 32_000, "eos_token_id": [3, 50]},
        {"model_type": "gemma3", "text_config": {**SIZES, "head_dim": 8, "vocab_size": 1000}},
    ],
    ids=["special tokens beyond the vocabulary", "a model of text and pictures"],
)
def test_shapes_for_another_vocabulary(tmp_path, config):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    made = delta_of_shape(str(path), 50)
    assert (made.get_input_embeddings().num_embeddings, made.lm_head.out_features) == (50, 50)
    assert made.config.hidden_size == 32
    assert {made.config.pad_token_id, made.config.eos_token_id} <= {None, *range(50)}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "nothing"}, "not the config"),
        ({"model_type": "t5"}, "Unrecognized configuration"),
        ({"model_type": "llama", "hidden_size": 33, "num_attention_heads": 4}, "multiple of the"),
        ({"model_type": "llama", "hidden_size": "x"}, "expected int, got str"),
        ({"model_type": "llama", "torch_dtype": "bogus"}, "bogus"),
        ({"model_type": "llama", **SIZES, "num_key_value_heads": 3}, "must match the size"),
        ({"model_type": "llama", **SIZES, "hidden_size": 10**13}, "not enough memory"),
        (["model_type"], "must be a mapping"),
    ],
)
def test_files_that_no_model_can_be_made_of(tmp_path, config, reason):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(OptionError, match=reason) as refused:
        delta_of_shape(str(path), 50)
    said = str(refused.value).removeprefix(f"{path}: ")
    assert len(said) < 250
    assert "\n" not in said
