"""Shifts of models on the same texts: by delta models and by tuned weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from eval_by_hand import fused_by_hand, last_logits, log_softmax
from tiny_models import CHAT, save_model
from tiny_tokenizers import byte_level_bpe
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from cmc_runtime import load_delta, load_model
from cmc_runtime.data.examples import Example
from cmc_runtime.data.samples import SampleMaker
from cmc_runtime.errors import DataError
from cmc_runtime.evaluation.scores import Fusion
from cmc_runtime.evaluation.shifts import ShiftedModel, compare_shifts
from cmc_runtime.evaluation.similarity import shift_similarity
from cmc_runtime.maps.tensors import identity_map_tensors, load_map_tensors
from pm_mined import OptionError, build_map, load_vocabulary

pytest.importorskip("geomloss")

PROMPT_TEMPLATE = "Q: {prompt}\nA: {response}"
ROWS = [
    Example("the lazy dog", "the quick brown fox, don't jump", 1),
    Example("12 euros", "The naïve café's menu: 日本語", 2),
]
NAMES = {"user": "byte-level", "tuned": "byte-level", "other": "metaspace", "delta": "metaspace"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("shifts")
    for seed, (name, tokenizer) in enumerate(NAMES.items()):
        save_model(made / name, tokenizer, seed=seed, chat_template=CHAT)
    return made


@pytest.fixture(scope="module")
def models(folder):
    return {name: load_model(folder / name, device="cpu", dtype=torch.float64) for name in NAMES}


@pytest.fixture(scope="module")
def tensors(folder):
    sides = load_vocabulary(folder / "user"), load_vocabulary(folder / "other")
    return load_map_tensors(build_map(*sides), num_src_logits=420, num_dst_logits=420)


def shifted(models, base, by, prompt_template=PROMPT_TEMPLATE, *fusion):
    user = models[base]
    if by != "delta":
        return ShiftedModel(user, models[by], prompt_template)
    delta = load_delta(
        models[by],
        user.tokenizer,
        num_logits=user.num_logits,
        token_map="pm-mined",
        prompt_template=PROMPT_TEMPLATE,
    )
    return ShiftedModel(user, delta, prompt_template, Fusion.of(delta, *fusion) if fusion else None)


def by_hand(model, row, alpha=1.0, unmapped="zero"):
    """At each byte of a response that a token begins at: the shift, and the shifted logits."""
    sample = SampleMaker(model.base, model.prompt_template).make(row.prompt, row.response, 1)
    delta = None if hasattr(model.by, "tokenizer") else model.by
    context = None if delta is None else delta.context(row.prompt)
    found, place = (
        {},
        -1 if model.prompt_template == PROMPT_TEMPLATE else 0,
    )  # a chat has no space there
    pieces = load_vocabulary(model.base.spec).packed.tolist()
    for i in range(sample.num_prompt, len(sample.ids)):
        base = last_logits(model.base, sample.ids[:i])
        if delta is None:
            tuned = last_logits(model.by, sample.ids[:i])
        else:
            read, index = last_logits(delta.loaded, context.ids), delta.tensors.index.tolist()
            tuned = fused_by_hand(base, read, index, alpha, unmapped)
            context.append(sample.ids[i])
        found[place] = log_softmax(tuned) - log_softmax(base), tuned
        place += len(pieces[sample.ids[i]])
    return found


@pytest.mark.parametrize(
    ("by", "prompt_template", "fusion"),
    [("tuned", PROMPT_TEMPLATE, ()), ("delta", "chat", (0.5, "keep"))],
)
def test_steps_are_those_at_which_both_models_predict(models, tensors, by, prompt_template, fusion):
    reference = shifted(models, "user", by, PROMPT_TEMPLATE, *fusion)
    other = shifted(models, "other", "delta", prompt_template, *fusion)
    steps = []
    for row in ROWS:
        ours, theirs = by_hand(reference, row, *fusion), by_hand(other, row, *fusion)
        common = sorted(ours.keys() & theirs.keys())
        assert len(row.response.encode()) in common  # the end
        assert len(common) < max(len(ours), len(theirs))
        steps += [(*ours[place], theirs[place][0]) for place in common]
    shift, ranking, read = (torch.from_numpy(np.stack(one)) for one in zip(*steps, strict=True))
    expected = shift_similarity(shift, read, ranking, tensors, top=20)
    found, skipped = compare_shifts(reference, other, ROWS, tensors, top=20)
    assert found == pytest.approx(expected, rel=1e-6)
    assert not skipped


def test_a_model_is_shifted_like_itself(models):
    one = shifted(models, "user", "tuned")
    found, _ = compare_shifts(one, one, ROWS, identity_map_tensors(420))
    assert found.sinkhorn == pytest.approx(0, abs=1e-6)
    assert found.correlation == pytest.approx(1)
    assert found.unmapped == 0


def test_what_cannot_be_compared(folder, models, tensors):
    one = shifted(models, "user", "tuned")
    with pytest.raises(DataError, match="no row to compare shifts on: there are none"):
        compare_shifts(one, one, [], tensors)
    save_model(folder / "narrow", "byte-level", logits=410)
    narrow = load_model(folder / "narrow", device="cpu", dtype=torch.float64)
    with pytest.raises(OptionError, match=r"narrow has other logits than .*user"):
        ShiftedModel(models["user"], narrow, PROMPT_TEMPLATE)
    with pytest.raises(OptionError, match=r"other has another tokenizer than .*user"):
        ShiftedModel(models["user"], models["other"], PROMPT_TEMPLATE)


def test_rows_that_cannot_be_compared_are_skipped(models, tensors):
    one, other = shifted(models, "user", "tuned"), shifted(models, "other", "delta")
    long = Example("a", "the " * 300, 7)
    found, skipped = compare_shifts(one, other, [long, ROWS[0]], tensors)
    assert found == compare_shifts(one, other, ROWS[:1], tensors)[0]
    assert skipped.counts == {"of more than 256 tokens": 1}
    with pytest.raises(DataError, match=r"no row to compare .*: 1 of more than 9 tokens \(row 1\)"):
        compare_shifts(one, other, ROWS[:1], tensors, max_length=9)


def test_a_tokenizer_that_changes_the_text(models):
    lowercase = byte_level_bpe()
    lowercase.normalizer = normalizers.Lowercase()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=lowercase, chat_template=CHAT)
    user = replace(models["user"], tokenizer=tokenizer)
    one, other = (
        ShiftedModel(user, models["tuned"], PROMPT_TEMPLATE),
        shifted(models, "user", "delta"),
    )
    for pair in ((one, other), (other, one)):
        found, skipped = compare_shifts(*pair, ROWS, identity_map_tensors(420))
        assert found == compare_shifts(*pair, ROWS[:1], identity_map_tensors(420))[0]
        assert str(skipped) == "1 row skipped: 1 whose response a tokenizer changes (row 2)"
