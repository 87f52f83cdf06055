"""The arithmetic of steering large models: parameters and caches of real ones, and monotone."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from steering_costs import DELTAS, MODELS, Shape, arguments, tables

TINY = Shape(2, 32, 48, 4, 2, 8, 100)


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_and_caches_are_those_of_a_model(tied):
    shape = replace(TINY, tied=tied)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=100,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
        )
    )
    assert shape.parameters == sum(one.numel() for one in model.parameters())
    cache = model(torch.zeros(3, 7, dtype=torch.int64)).past_key_values
    bytes_ = sum(one.keys.nbytes + one.values.nbytes for one in cache.layers)
    assert shape.cache_bytes(3, 7, 4) == bytes_


def test_the_known_sizes():
    assert round(MODELS["70B"].parameters / 1e9, 1) == 70.6
    assert round(MODELS["405B"].parameters / 1e9, 1) == 405.9
    assert DELTAS["135M"].parameters == 134_515_008


@pytest.mark.parametrize("name", ["layers", "hidden", "intermediate", "kv_heads", "vocabulary"])
def test_more_of_anything_costs_more(name):
    larger = replace(TINY, **{name: 2 * getattr(TINY, name)})
    assert larger.step_bytes(2, 9, 2) > TINY.step_bytes(2, 9, 2)
    assert larger.step_operations(2, 9) > TINY.step_operations(2, 9)


def test_the_document_has_the_tables_of_the_defaults():
    text = Path(__file__).parents[1].joinpath("docs/scaling.md").read_text("utf-8")
    assert tables(arguments([])) in text
