"""What ends a text for a user model maps to what ends it for the delta, by every map."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CHAT, save_model

from cmc_runtime import Sampling, generate, load_delta, load_model
from cmc_runtime.models.ends import ending_tokens, response_end
from pm_mined import Kind, Vocabulary, build_map
from pm_mined.kernels.tokens import Rule
from pm_mined.maps.ends import map_ends
from pm_mined.maps.verify import check_map
from pm_mined.reports.explain import Explainer

SRC = Vocabulary.from_tokens(
    [b"<eos>", b"<end_of_turn>", b" cats", b" dog", b"a", b"<pad>"],
    [Kind.SPECIAL] * 2 + [Kind.TEXT] * 3 + [Kind.SPECIAL],
)
DST = Vocabulary.from_tokens(
    [b"<|endoftext|>", b"<|im_end|>", b" cat", b" ca", b" do", b"a"],
    [Kind.SPECIAL] * 2 + [Kind.TEXT] * 4,
)
FORMS = ["pm-mined", "exact", "mined", "prefixes"]


@settings(deadline=None)  # the first call compiles
@given(st.sampled_from(FORMS), st.sets(st.integers(0, 5)), st.integers(0, 5))
def test_ends_and_nothing_else_map_to_the_end(strategy, ends, end):
    before = build_map(SRC, DST, strategy=strategy)
    after = map_ends(before, SRC, DST, sorted(ends), end)
    check_map(after)
    others = [i for i in range(len(SRC)) if i not in ends]
    assert (after.dst_id[sorted(ends)] == end).all()
    for name in ("dst_id", "rule", "distance", "choice_counts"):
        np.testing.assert_array_equal(getattr(after, name)[others], getattr(before, name)[others])
    assert (after.choice_counts[sorted(ends)] == 1).all()


def test_an_override_wins(tmp_path):
    table = tmp_path / "overrides.toml"
    table.write_text('[[override]]\nsrc = "<eos>"\ndst = "<|endoftext|>"\n', "utf-8")
    made = map_ends(build_map(SRC, DST, overrides=table), SRC, DST, [0, 5], 1)
    assert made.dst_id[[0, 5]].tolist() == [0, 1]
    assert made.rule[[0, 5]].tolist() == [Rule.OVERRIDE, Rule.SPECIAL]


def test_a_map_says_why(tmp_path):
    made = map_ends(build_map(SRC, DST), SRC, DST, [0], 1)
    assert made.info.strategy["end"] == "<|im_end|>"
    assert "it ends a text" in Explainer(made, DST).explain(0).why


class Tokenizer:
    eos_token_id = 7


def test_the_generation_configuration_goes_first():
    assert ending_tokens(3, Tokenizer()) == [3]
    assert ending_tokens([3, 4], Tokenizer()) == [3, 4]
    assert ending_tokens(None, Tokenizer()) == [7]
    assert ending_tokens(None, None) == []


def test_a_response_ends_with_the_tokenizers_own():
    assert response_end(Tokenizer(), [3, 7], "{prompt}") == 7
    assert response_end(Tokenizer(), [3, 4], "{prompt}") == 3
    assert response_end(Tokenizer(), [], "{prompt}") is None


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("ends") / "user", "byte-level", chat_template=CHAT)
    return load_model(folder, device="cpu", dtype=torch.float64)


@pytest.mark.parametrize("tokenizer", ["byte-level", "metaspace"])
def test_a_delta_that_ends_its_texts_ends_the_users(tmp_path, user, tokenizer):
    loaded = load_model(save_model(tmp_path / "delta", tokenizer, seed=1), device="cpu")
    loaded.model.generation_config.eos_token_id = 1
    notes = []
    options = {"num_logits": user.num_logits, "ends": [0, 5], "note": notes.append}
    delta = load_delta(loaded, user.tokenizer, **options)
    assert delta.end == 1
    assert delta.tensors.index[[0, 5]].tolist() == [1, 1]
    context = delta.context("the quick")
    context.append(5)
    assert context.ids[-1] == 1
    assert sum("ends a text: it maps to" in one for one in notes) == 2
    steering = replace(delta, alpha=0.0)
    (made,) = generate(user, ["the quick"], steering, sampling=Sampling(4))
    assert made.ended == (made.token_ids[-1] in user.ends)
