"""Adapters of small models as deltas, against peft: adapted less plain, cached and steered."""

import json
from types import SimpleNamespace

import pytest
import torch
from command_line import run
from conftest import quick_first
from eval_by_hand import fused_by_hand
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_adapters import (
    EVERY_SETTING,
    peft_difference,
    peft_may_warn,
    peft_model,
    read_by_peft,
    save_adapter,
)
from tiny_models import save_model, tiny_llama
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from cmc_runtime import ModelError, load_delta, load_model
from cmc_runtime.models import delta_model
from cmc_runtime.models.delta_model import load_delta_model
from cmc_runtime.models.difference import DifferenceModel
from cmc_runtime.models.lora import read_adapter
from cmc_runtime.models.output_head import OutputHead
from cmc_runtime.steering.cached_model import CachedModel

SMALL = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
SLIDING = {
    "head_dim": 8,
    "sliding_window": 3,
    "layer_types": ["sliding_attention", "full_attention"],
}
MODELS = {
    "gemma3, window 3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, **SLIDING)),
    "granite, scaled": lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=3.0)),
    "qwen2, biases": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    "gpt2, transposed": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=31, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    ),
}


def pair(model, folder, **settings):
    """Ours and peft's of one random adapter."""
    made = peft_model(model, **settings)
    made.save_pretrained(folder)
    return DifferenceModel(model, read_adapter(folder, model)), made


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    model = tiny_llama(31, 0, max_length=64).double()
    ours, made = pair(model, tmp_path_factory.mktemp("llama"), **EVERY_SETTING)
    return SimpleNamespace(plain=model, ours=ours, peft=made)


IDS = st.lists(st.integers(0, 30), min_size=1, max_size=6)
STEPS = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), IDS), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=30)
@given(st.lists(IDS, min_size=4, max_size=4), STEPS)
def test_cached_logits_are_pefts_adapted_less_plain(llama, prompts, steps):
    model = CachedModel(llama.ours)
    sequences = [model.begin(list(ids)) for ids in prompts]
    for changes in steps:
        due = {number: sequences[number] for number, _, _ in changes}
        for number, back, ids in changes:
            sequence = sequences[number]
            del sequence.ids[len(sequence.ids) - back :]
            sequence.keep(len(sequence.ids))
            sequence.ids += ids
        found = model.logits(list(due.values()))
        for sequence, logits in zip(due.values(), found, strict=True):
            expected = peft_difference(llama.peft, torch.tensor([sequence.ids]))[0, -1]
            torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("name", quick_first(list(MODELS), 2))
def test_other_architectures(name, tmp_path):
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    ours, made = pair(model, tmp_path)
    cached, ids = CachedModel(ours), torch.randint(31, (3, 9))
    expected = peft_difference(made, ids)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(OutputHead.of(ours)(ours.decoder(input_ids=ids)[0]), expected)
    sequences = [cached.begin(row[:4].tolist()) for row in ids]
    for place in range(4, 9):
        torch.testing.assert_close(cached.logits(sequences), expected[:, place - 1])
        for sequence, row in zip(sequences, ids, strict=True):
            sequence.ids.append(int(row[place]))


def test_one_forward_of_pairs_is_pefts_mixed_batch(llama):
    ids = torch.randint(31, (3, 7)).repeat_interleave(2, 0)
    names = ["default", "__base__"] * 3
    with torch.no_grad(), peft_may_warn():
        expected = llama.peft(ids, adapter_names=names).logits
        found = llama.ours.decoder.pairs(ids).logits
    torch.testing.assert_close(found, expected)


def test_the_base_model_is_shared_and_unchanged(llama):
    ids = torch.randint(31, (1, 5))
    with torch.no_grad():
        before = llama.plain(ids).logits
        llama.ours(input_ids=ids)
        torch.testing.assert_close(llama.plain(ids).logits, before, rtol=0, atol=0)
    own = {one.data_ptr() for one in llama.plain.parameters()}
    for copy in (llama.ours.decoder.adapted, llama.ours.decoder.pairs):
        assert {one.data_ptr() for one in copy.parameters()} == own
    assert sum(one.numel() for one in llama.ours.parameters()) == sum(
        one.numel() for name, one in llama.peft.named_parameters() if "lora_" in name
    )


def test_capped_logits_are_no_product(tmp_path):
    model = Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8)).eval()
    with pytest.raises(ModelError, match="caps its logits"):
        pair(model, tmp_path)


def test_experts_that_see_no_rows(tmp_path):
    torch.manual_seed(0)
    sizes = {"moe_intermediate_size": 8, "shared_expert_intermediate_size": 8, "num_experts": 2}
    config = Qwen2MoeConfig(**SMALL, **sizes, num_experts_per_tok=1)
    ours, _ = pair(Qwen2MoeForCausalLM(config).eval(), tmp_path)
    cached = CachedModel(ours)
    with pytest.raises(ModelError, match="joins its rows before a layer of the adapter"):
        cached.logits([cached.begin([1, 2, 3])])


# --- Folders -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("adapters")
    save_model(made / "user", "byte-level", seed=0)
    save_model(made / "small", "metaspace", seed=1)
    small = load_model(made / "small", device="cpu")
    save_adapter(made / "adapter", small.model, made / "small", **EVERY_SETTING)
    return made


def test_the_base_is_the_one_that_the_adapter_names_or_another(folder, tmp_path):
    notes = []
    loaded = load_delta_model(folder / "adapter", device="cpu", note=notes.append)
    assert notes == [f"{folder / 'adapter'}: an adapter of {folder / 'small'}"]
    save_model(tmp_path / "other", "metaspace", seed=2)
    other = load_delta_model(folder / "adapter", base=tmp_path / "other", device="cpu")
    ids = torch.tensor([[5, 6, 7]])
    assert not torch.equal(loaded.model(input_ids=ids)[0], other.model(input_ids=ids)[0])
    with pytest.raises(ModelError, match="not an adapter"):
        load_delta_model(folder / "small", base=folder / "small")


def test_a_missing_base_is_named(folder, tmp_path):
    model = load_model(folder / "small", device="cpu").model
    save_adapter(tmp_path / "lost", model, tmp_path / "gone")
    said = r"lost: its base model cannot be loaded; give another by --adapter-base: .*gone"
    with pytest.raises(ModelError, match=said):
        load_delta_model(tmp_path / "lost")
    save_adapter(tmp_path / "nameless", model, "")
    with pytest.raises(ModelError, match="does not name its base model"):
        load_delta_model(tmp_path / "nameless")


def test_adapter_and_base_on_the_hub(folder, tmp_path, monkeypatch):
    adapter = copied(folder, tmp_path / "a", base_model_name_or_path="acme/base", revision="v2")
    fetched, loaded = [], []

    def download(repo, files, ignored=()):
        fetched.append((repo.repo_id, repo.revision, "adapter_model.safetensors" in files))
        return adapter

    def load(spec, **options):
        loaded.append(spec)
        return load_model(folder / "small", **options)

    monkeypatch.setattr(delta_model, "download", download)
    monkeypatch.setattr(delta_model, "load_model", load)
    load_delta_model("acme/adapter@v1", device="cpu")
    assert fetched == [("acme/adapter", "v1", False), ("acme/adapter", "v1", True)]
    assert loaded == ["acme/base@v2"]


def test_peft_reads_what_is_saved(folder, tmp_path):
    loaded = load_delta_model(folder / "adapter", device="cpu")
    loaded.model.save_pretrained(tmp_path)
    small = load_model(folder / "small", device="cpu").model
    made = read_by_peft(tmp_path, small)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(input_ids=ids)[0], peft_difference(made, ids))


def test_an_adapter_steers(folder):
    """The command line, against the sum of the user's logits and peft's difference by hand."""
    done = run(
        *("generate", "--model", folder / "user", "--delta", folder / "adapter", "--alpha", "0.7"),
        *("--prompt", "the fox", "--max-new-tokens", "8", "--device", "cpu", "--json"),
        program="cmc-runtime",
    )
    assert done.status == 0, done.stderr
    assert f"an adapter of {folder / 'small'}" in done.stderr
    user = load_model(folder / "user", device="cpu")
    small = load_model(folder / "small", device="cpu")
    made = read_by_peft(folder / "adapter", small.model)
    assert "built here by first-token" in done.stderr
    delta = load_delta(small, user.tokenizer, num_logits=user.num_logits, token_map="first-token")
    context, ids = delta.context("the fox"), user.tokenizer("the fox")["input_ids"]
    index, written = delta.tensors.index.tolist(), json.loads(done.stdout)["token_ids"]
    for token_id in written:
        shift = peft_difference(made, torch.tensor([context.ids]))[0, -1].tolist()
        with torch.no_grad():
            base = user.model(torch.tensor([ids])).logits[0, -1].tolist()
        assert fused_by_hand(base, shift, index, 0.7, delta.unmapped).argmax() == token_id
        context.append(token_id)
        ids.append(token_id)


# --- What is refused -----------------------------------------------------------------------------


REFUSED = {
    "prompt tuning": ({"peft_type": "PROMPT_TUNING"}, "peft_type 'PROMPT_TUNING'"),
    "classifier": ({"task_type": "SEQ_CLS"}, "task_type 'SEQ_CLS'"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, r"modules_to_save \['lm_head'\]"),
    "dora": ({"use_dora": True}, "use_dora True"),
    "biases": ({"bias": "all"}, "bias 'all'"),
    "a changed base": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
    "doubled layers": ({"layer_replication": [[0, 2], [0, 2]]}, "layer_replication"),
    "what is not known yet": ({"use_magic": 1}, "use_magic 1"),
}


def copied(folder, to, **changes):
    """The adapter again, with another configuration."""
    to.mkdir()
    for path in (folder / "adapter").iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    config = json.loads((to / "adapter_config.json").read_text())
    (to / "adapter_config.json").write_text(json.dumps(config | changes))
    return to


@pytest.mark.parametrize("name", REFUSED)
def test_other_kinds_are_refused_by_name(name, folder, tmp_path):
    changes, said = REFUSED[name]
    with pytest.raises(ModelError, match=f"an adapter with {said}.*merge it"):
        load_delta_model(copied(folder, tmp_path / "other", **changes))


WEIGHTS = {
    "none": ({}, "there is nothing in it"),
    "embeddings": (
        {"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(2, 420)},
        "lora_embedding_A, which is no LoRA of a linear layer",
    ),
    "the output layer": (
        {
            "base_model.model.lm_head.lora_A.weight": torch.zeros(2, 32),
            "base_model.model.lm_head.lora_B.weight": torch.zeros(420, 2),
        },
        "a change of the output layer, lm_head",
    ),
    "one half": (
        {"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": torch.zeros(2, 32)},
        "it is of another model",
    ),
    "another width": (
        {
            "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": torch.zeros(2, 33),
            "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight": torch.zeros(48, 2),
        },
        r"32 inputs and 48 outputs, but the adapter lora_A \[2, 33\]",
    ),
    "another layer": (
        {
            "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": torch.zeros(2, 32),
            "base_model.model.model.layers.7.mlp.up_proj.lora_B.weight": torch.zeros(48, 2),
        },
        "model.layers.7.mlp.up_proj, which is no linear layer of its base",
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_do_not_fit_are_refused(name, folder, tmp_path):
    weights, said = WEIGHTS[name]
    other = copied(folder, tmp_path / "other")
    save_file(weights, other / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=said):
        load_delta_model(other, device="cpu")


def test_damaged_files_are_refused(folder, tmp_path):
    other = copied(folder, tmp_path / "other")
    weights = other / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot read"):
        load_delta_model(other, device="cpu")
    weights.rename(other / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"must be in adapter_model\.safetensors"):
        load_delta_model(other, device="cpu")
    for text in ("{", "[]", "[" * 100_000):
        (other / "adapter_config.json").write_text(text)
        with pytest.raises(ModelError, match="not the configuration of an adapter"):
            load_delta_model(other, device="cpu")
    for number, (pattern, said) in enumerate(
        [({"((m|o)*.*)*x": 1}, "an adapter with alpha_pattern"), ({"q_proj": None}, "has no alpha")]
    ):
        hostile = copied(folder, tmp_path / str(number), alpha_pattern=pattern)
        with pytest.raises(ModelError, match=said):
            load_delta_model(hostile, device="cpu")
