"""Linear layers of a few rows, computed the other way round, against the layers themselves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_llama
from torch import nn

from cmc_runtime.steering.small_products import plain_layers, product, small_products


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=0, max_size=2),
    st.integers(1, 9),
    st.integers(1, 9),
    st.booleans(),
)
def test_a_product_is_that_of_the_layer(shape, inputs, outputs, has_bias):
    layer = nn.Linear(inputs, outputs, bias=has_bias)
    rows = torch.randn(*shape, inputs)
    found = product(layer, rows)
    assert found.is_contiguous()
    torch.testing.assert_close(found, layer(rows))


@pytest.mark.parametrize("count", [1, 2, 64, 65])
def test_any_number_of_rows(count):
    layer = nn.Linear(48, 80)
    rows = torch.randn(count, 48)
    torch.testing.assert_close(product(layer, rows), layer(rows))


def test_the_layers_are_as_before():
    model = tiny_llama(40, seed=0)
    ids = torch.randint(40, (3, 2))
    before = model(ids).logits
    layers = plain_layers(model)
    assert len(layers) == 2 * 7 + 1
    with small_products(layers):
        torch.testing.assert_close(model(ids).logits, before, atol=1e-4, rtol=1e-4)
        assert not plain_layers(model)  # each is changed once
    with pytest.raises(RuntimeError, match="within"), small_products(layers):
        raise RuntimeError("within")
    assert torch.equal(model(ids).logits, before)


def test_other_layers_are_left_alone():
    layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.forward = lambda rows: rows
    modules = [layer, other, nn.Linear(2, 2, dtype=torch.float64), nn.Identity()]
    assert plain_layers(nn.Sequential(*modules)) == [layer]
