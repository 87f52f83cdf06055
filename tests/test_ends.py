"""What ends a text for a user model maps to what ends it for the delta, by every map."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_weighted_maps import rows_of, with_choices
from tiny_models import CHAT, save_model
from training_runs import OPTIONS, PROMPT_TEMPLATE, save_rows

from cmc_runtime import Sampling, generate, load_delta, load_model
from cmc_runtime.data.examples import read_examples
from cmc_runtime.fusion.fuse_logits import fuse_logits
from cmc_runtime.maps.tensors import load_map_tensors
from cmc_runtime.models.ends import ending_tokens, response_end
from cmc_runtime.training.train import train
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


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 5), max_size=4, unique=True), min_size=6, max_size=6),
    st.sets(st.integers(0, 5)),
    st.integers(0, 5),
)
def test_an_end_has_one_token_where_others_have_a_group(rows, ends, end):
    after = map_ends(with_choices(rows, src=SRC, dst=DST), SRC, DST, sorted(ends), end)
    check_map(after)
    expected = [[end] if i in ends else row for i, row in enumerate(rows)]
    assert rows_of(after) == (expected, None)
    delta = torch.tensor([3.0, -1.0, 4.0, 1.0, -5.0, 9.0])
    fused = fuse_logits(torch.zeros(6), delta, load_map_tensors(after))
    assert fused.tolist() == [float(delta[row].max()) if row else 0 for row in expected]


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


def model_that_ends(folder, tokenizer, ends, *, loud=0.01):
    """A random model whose texts end with each of these tokens; it says next to nothing."""
    loaded = load_model(save_model(folder, tokenizer), device="cpu", dtype=torch.float32)
    loaded.model.lm_head.weight.data.mul_(loud)
    loaded.model.generation_config.eos_token_id = ends
    return loaded


def test_what_was_learned_beside_two_ends_ends_for_a_user_with_others(tmp_path):
    """Where a user's ends are not known, the text does not end: so they are what ends it."""
    template = model_that_ends(tmp_path / "template", "byte-level", [7, 0])
    start = model_that_ends(tmp_path / "start", "byte-level", [7, 0], loud=1)
    rows = read_examples(save_rows(tmp_path / "data.jsonl", 1))
    beside = train(template, start, rows, tmp_path / "delta", OPTIONS(num_train_epochs=60))
    assert (beside.end, beside.tensors.index[[7, 0]].tolist()) == (7, [7, 7])
    assert beside.tensors.is_identity

    user = model_that_ends(tmp_path / "user", "metaspace", [1, 300])

    def written(model, ends):
        options = {"num_logits": model.num_logits, "ends": ends, "device": "cpu"}
        delta = load_delta(tmp_path / "delta", model.tokenizer, **options)
        prompts = [rows.rows[0].prompt]
        options = {"prompt_template": PROMPT_TEMPLATE, "sampling": Sampling(40)}
        (made,) = generate(model, prompts, delta, **options)
        return made.text.strip(), made.ended

    text, is_ended = written(template, [7, 0])
    assert text.startswith(rows.rows[0].response[:15])
    assert is_ended
    assert written(user, [1, 300])[1]
    assert not written(user, [])[1]
