"""Of several tokens that one may map to, those are read that a delta has learned to write."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_ends import DST, SRC
from test_weighted_maps import ROWS, WEIGHTS, any_map, with_choices
from tiny_models import save_model
from training_runs import OPTIONS, run, save_rows

from cmc_runtime import identity_map_tensors, load_delta, load_model
from cmc_runtime.data.examples import read_examples
from cmc_runtime.delta_card import read_card
from cmc_runtime.errors import CardError
from cmc_runtime.evaluation.fit_alpha import fit_alpha
from cmc_runtime.fusion.fuse_logits import fuse_logits
from cmc_runtime.maps.tensors import load_map_tensors
from cmc_runtime.maps.written import read_written, written_text, written_tokens
from cmc_runtime.models import delta_model, locate
from cmc_runtime.training.new_delta import new_adapter, new_delta
from pm_mined import build_map


@given(any_map(), st.data())
def test_the_largest_logit_is_that_of_what_was_written(token_map, data):
    size = token_map.info.dst.size
    written = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), np.bool_)
    delta = torch.randn(size, dtype=torch.float64)
    tensors = load_map_tensors(token_map, written=written)
    fused = fuse_logits(torch.zeros(len(token_map), dtype=torch.float64), delta, tensors)
    if token_map.form == "weighted":
        whole = load_map_tensors(token_map)
        assert torch.equal(tensors.index, whole.index)
        assert torch.equal(fused, fuse_logits(torch.zeros_like(fused), delta, whole))
        return
    for src_id, choices in enumerate(row["dst_ids"] for row in token_map.to_arrow().to_pylist()):
        read = [i for i in choices if written[i]] or choices[:1]
        assert tensors.index[src_id] == (read or [-1])[0]
        assert fused[src_id] == (max(delta[i] for i in read) if read else 0)


def test_a_map_of_one_token_each_stays_as_it_is():
    made = build_map(SRC, DST)
    tensors = load_map_tensors(made, written=np.zeros(len(DST), np.bool_))
    assert torch.equal(tensors.index, load_map_tensors(made).index)


@given(st.lists(st.booleans(), max_size=70))
def test_the_card_has_a_bit_for_each(written):
    text = written_text(np.array(written, np.bool_))
    assert read_written(text, len(written)).tolist() == written


@pytest.mark.parametrize("text", ["BQ==", "BQUFBQ==", "BQ", "B?==", "\N{GREEK SMALL LETTER MU}"])
def test_bits_that_are_not_those_of_a_vocabulary(text):
    with pytest.raises(ValueError, match=r"base64|tokens|ASCII"):
        read_written(text, 20)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_all_that_is_read_for_a_target_is_written(weights):
    tensors = load_map_tensors(with_choices(ROWS, weights))
    assert written_tokens(tensors, [2, 4], 4).tolist() == [True, True, True, False]
    assert written_tokens(tensors, [], 4).tolist() == [False] * 4
    identity = identity_map_tensors(4, 3)
    assert written_tokens(identity, iter([1, 3, 1]), 3).tolist() == [False, True, False]


# --- Training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    save_rows(folder / "data.jsonl", 3)
    return load_model(save_model(folder / "user", "byte-level"), device="cpu", dtype=torch.float32)


def learned(frozen, rows):
    """The tokens of all responses, and the end, one by one."""
    encode = frozen.tokenizer.encode
    texts = [" " + row.response for row in rows]
    return {i for one in texts for i in encode(one, add_special_tokens=False)} | {frozen.ends[0]}


@pytest.mark.parametrize("make", [new_delta, new_adapter])
def test_a_card_says_what_was_written(tmp_path, frozen, make):
    save_rows(tmp_path / "data.jsonl", 3)
    delta = run(
        tmp_path, frozen, tmp_path / "delta", OPTIONS(num_train_epochs=1), start=make(frozen)
    )
    expected = learned(frozen, read_examples(tmp_path / "data.jsonl").rows)
    assert set(np.flatnonzero(delta.written)) == expected
    again = load_delta(
        tmp_path / "delta", frozen.tokenizer, num_logits=frozen.num_logits, device="cpu"
    )
    np.testing.assert_array_equal(again.written, delta.written)


def test_a_carried_delta_reads_what_it_has_written(tmp_path, frozen):
    save_rows(tmp_path / "data.jsonl", 3)
    run(tmp_path, frozen, tmp_path / "delta", OPTIONS(num_train_epochs=1))
    user = load_model(save_model(tmp_path / "user", "metaspace"), device="cpu")
    options = {"num_logits": user.num_logits, "device": "cpu"}
    notes = []
    delta = load_delta(tmp_path / "delta", user.tokenizer, **options, note=notes.append)
    assert delta.token_map.info.strategy["name"] == "both-ways"
    assert any("built here by both-ways" in one for one in notes)
    said = f"only the {np.count_nonzero(delta.written):,} count that the delta has learned to write"
    assert any(said in one for one in notes)
    choices = delta.token_map.choices
    for src_id, (start, stop) in enumerate(zip(choices.offsets, choices.offsets[1:], strict=False)):
        written = [i for i in choices.dst_id[start:stop] if delta.written[i]]
        assert delta.tensors.index[src_id] == [*written, *choices.dst_id[start:stop], -1][0]
    whole = load_delta(
        tmp_path / "delta", user.tokenizer, **options, token_map=delta.token_map, written_only=False
    )
    assert torch.equal(
        whole.tensors.index,
        load_map_tensors(
            delta.token_map, num_src_logits=user.num_logits, num_dst_logits=delta.loaded.num_logits
        ).index,
    )


def test_what_is_learned_later_is_added(tmp_path, frozen):
    """And in that training all tokens are read, those never written too."""
    save_rows(tmp_path / "data.jsonl", 2)
    first = run(tmp_path, frozen, tmp_path / "delta", OPTIONS(num_train_epochs=1))
    save_rows(tmp_path / "data.jsonl", 3, shift=1)
    start = load_model(tmp_path / "delta", device="cpu", dtype=torch.float32)
    both = run(tmp_path, frozen, tmp_path / "again", OPTIONS(num_train_epochs=1), start=start)
    later = learned(frozen, read_examples(tmp_path / "data.jsonl").rows)
    assert later - set(np.flatnonzero(first.written))
    assert set(np.flatnonzero(both.written)) == later | set(np.flatnonzero(first.written))


def test_of_a_model_that_was_trained_elsewhere_it_is_not_known(tmp_path, frozen):
    save_rows(tmp_path / "data.jsonl", 2)
    start = load_model(save_model(tmp_path / "start", "byte-level", seed=1), device="cpu")
    delta = run(tmp_path, frozen, tmp_path / "delta", OPTIONS(num_train_epochs=1), start=start)
    assert delta.written is None
    assert read_card(tmp_path / "delta").written is None


def test_rows_to_validate_on_teach_nothing(tmp_path, frozen):
    save_rows(tmp_path / "data.jsonl", 2)
    save_rows(tmp_path / "more.jsonl", 5, shift=1)
    delta = run(
        *(tmp_path, frozen, tmp_path / "delta", OPTIONS(num_train_epochs=1)),
        eval_data=read_examples(tmp_path / "more.jsonl"),
    )
    expected = learned(frozen, read_examples(tmp_path / "data.jsonl").rows)
    assert set(np.flatnonzero(delta.written)) == expected


@pytest.mark.parametrize("text", ["AAAA", "no bits", "a" * 10_001])
def test_a_card_with_other_bits_is_refused(tmp_path, frozen, text):
    save_rows(tmp_path / "data.jsonl", 2)
    run(tmp_path, frozen, tmp_path / "made", OPTIONS(num_train_epochs=1))
    replace(read_card(tmp_path / "made"), written=text).save(tmp_path / "made")
    with pytest.raises(CardError, match=r"the tokens in its delta\.json: ") as refused:
        load_delta(tmp_path / "made", frozen.tokenizer, num_logits=frozen.num_logits, device="cpu")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("make", [new_delta, new_adapter])
def test_a_delta_on_the_hub_has_its_card_and_rows(tmp_path, frozen, monkeypatch, make):
    """What its folder has beside the weights is asked for, and read."""
    save_rows(tmp_path / "data.jsonl", 3)
    options = OPTIONS(num_train_epochs=1)
    run(tmp_path, frozen, tmp_path / "delta", options, start=make(frozen))
    place = tmp_path / "fetched"
    place.mkdir()

    def download(_, files, ignored=()):
        assert list(ignored) in ([], ["*/*"], ["consolidated*", "*/*"])
        for pattern in files:
            for path in (tmp_path / "delta").glob(pattern):
                shutil.copy(path, place)
        return place

    monkeypatch.setattr(locate, "download", download)
    monkeypatch.setattr(locate, "download_tokenizer", lambda repo: download(repo, ["token*"]))
    monkeypatch.setattr(delta_model, "download", download)
    base = frozen if make is new_adapter else None
    small = delta_model.load_delta_model("acme/polite", base=base, device="cpu")
    found = load_delta(small, frozen.tokenizer, num_logits=frozen.num_logits)
    assert found.prompt_template == read_card(tmp_path / "delta").prompt_form
    assert found.written.any()
    assert fit_alpha(frozen, found, keep=False).rows == 3
