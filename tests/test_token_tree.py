"""Token trees: every place reads what a forward of its own context, from scratch, would read."""

import random
from functools import cache

import numpy as np
import pytest
import tiny_tokenizers as tiny
import torch
from conftest import quick_first, real_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import ARTICLE_1, ODDITIES
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from cmc_runtime.contexts.reencoded import ContextTables, ReencodedContext
from cmc_runtime.contexts.same_vocabulary import SameVocabularyContext, is_same_vocabulary
from cmc_runtime.contexts.token_tree import token_tree
from cmc_runtime.contexts.tree_attention import tree_batch, tree_inputs
from cmc_runtime.errors import ContextError
from pm_mined import Kind, OptionError, Vocabulary, build_map, load_encoder, load_vocabulary

PROMPT = [1, 270, 280]


def from_scratch(tables, prompt, generated):
    """The context before each generated token, each made on its own."""
    contexts = []
    for count in range(len(generated)):
        row = ReencodedContext(tables, prompt)
        for token_id in generated[:count]:
            row.append(token_id)
        contexts.append(row.ids)
    return contexts


def context_at(tree, node):
    ids = []
    while node != -1:
        ids.append(int(tree.ids[node]))
        node = tree.parents[node]
    return ids[::-1]


def check_tree(tree, contexts):
    """The contexts; no node twice, none that is not read; and what the tree counts."""
    assert [context_at(tree, node) for node in tree.places] == contexts
    beginnings = {
        tuple(context[:end]) for context in contexts for end in range(1, len(context) + 1)
    }
    found = [context_at(tree, node) for node in range(len(tree.ids))]
    assert sorted(map(tuple, found)) == sorted(beginnings)
    assert [len(context) - 1 for context in found] == tree.positions.tolist()
    assert tree.longest == max(map(len, contexts))
    kept = [context == contexts[-1][: len(context)] for context in contexts]
    assert tree.num_exact == sum(kept)
    assert (tree.num_reencoded, tree.num_masked) == (len(kept) - sum(kept), 0)
    assert tree.is_chain == (len(tree.ids) == len(contexts[-1]))


def check_chain(chain, contexts):
    """What is left without re-encoding."""
    last = contexts[-1]
    assert chain.is_chain
    assert chain.ids.tolist() == last
    for node, context in zip(chain.places, contexts, strict=True):
        assert node == (len(context) - 1 if context == last[: len(context)] else -1)
    assert chain.num_exact == (chain.places >= 0).sum()
    assert (chain.num_reencoded, chain.num_masked) == (0, (chain.places < 0).sum())


def check(tables, prompt, generated):
    contexts = from_scratch(tables, prompt, generated)
    check_tree(token_tree(ReencodedContext(tables, prompt), generated), contexts)
    check_chain(token_tree(ReencodedContext(tables, prompt), generated, reencode=False), contexts)


# Real tokenizers.


@cache
def real(name):
    return real_vocabulary(name), load_encoder(name, inside=True)


@pytest.mark.parametrize("dst", quick_first(["mistral-v1", "llama3", "qwen3", "deepseek"], 2))
@pytest.mark.parametrize("src", quick_first(["llama3", "mistral-v1", "qwen3", "deepseek"], 2))
def test_real_tokenizers_in_every_direction(src, dst):
    (vocabulary, encode), (other, other_encode) = real(src), real(dst)
    tables = ContextTables.of(vocabulary, other, build_map(vocabulary, other).dst_id, other_encode)
    rng = random.Random(src + dst)
    for text in [*rng.sample(list(ARTICLE_1.values()), 3), ODDITIES]:
        (ids,) = encode([text[:160]])
        check(tables, [1, 5], ids.tolist())


# Tiny tokenizers and models.


class Setup:
    """A user's vocabulary of byte-level BPE and a delta's of metaspace BPE."""

    def __init__(self, folder):
        tiny.byte_level_bpe().save(str(folder / "src.json"))
        tiny.metaspace_bpe().save(str(folder / "dst.json"))
        self.src, self.dst = (load_vocabulary(folder / f"{side}.json") for side in ("src", "dst"))
        self.encode_src, encode = (
            load_encoder(folder / f"{side}.json", inside=True) for side in ("src", "dst")
        )
        made = build_map(self.src, self.dst)
        self.tables = ContextTables.of(self.src, self.dst, made.dst_id, encode)
        self.models = {name: make(len(self.dst) + 5) for name, make in MODELS.items()}

    def trees(self, rows, **options):
        return [token_tree(ReencodedContext(self.tables, PROMPT), row, **options) for row in rows]

    def contexts(self, rows):
        return [ids for row in rows for ids in from_scratch(self.tables, PROMPT, row)]


def tiny_model(make, config, attention="sdpa", **options):
    def made(size):
        torch.manual_seed(0)
        shape = {
            "vocab_size": size,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "max_position_embeddings": 300,
            "initializer_range": 0.3,
            "pad_token_id": 0,
            "eos_token_id": None,
            "bos_token_id": 1,
        }
        shaped = config(**shape | options, attn_implementation=attention)
        # The softmax of eager attention is in float32, where float64's smallest number is -inf.
        return make(shaped).eval().to(torch.float32 if attention == "eager" else torch.float64)

    return made


SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
MODELS = {
    "llama": tiny_model(LlamaForCausalLM, LlamaConfig),
    "llama eager": tiny_model(LlamaForCausalLM, LlamaConfig, "eager"),
    "qwen3": tiny_model(Qwen3ForCausalLM, Qwen3Config),
    "gemma3": tiny_model(
        Gemma3ForCausalLM, Gemma3TextConfig, sliding_window=5, layer_types=SLIDING
    ),
    "gemma3 eager": tiny_model(
        Gemma3ForCausalLM, Gemma3TextConfig, "eager", sliding_window=5, layer_types=SLIDING
    ),
    "mistral": tiny_model(MistralForCausalLM, MistralConfig, sliding_window=5),
}


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return Setup(tmp_path_factory.mktemp("tokenizers"))


def one_by_one(model, contexts):
    """Float [contexts, logits]: an uncached forward for each."""
    logits = {ids: model(torch.tensor([ids])).logits[0, -1] for ids in set(map(tuple, contexts))}
    return torch.stack([logits[tuple(ids)] for ids in contexts])


def check_logits(model, trees, contexts):
    """The last logits of every context that is not masked."""
    batch = tree_batch(trees)
    with torch.inference_mode():
        found = batch.read(model(**tree_inputs(model, batch)).logits)
        expected = one_by_one(model, contexts)
    kept = ~batch.masked
    assert len(found) == len(contexts)
    assert torch.allclose(
        found[kept], expected[kept], rtol=0, atol=1e-9 if model.dtype == torch.float64 else 1e-4
    )
    return batch


def rows_of_any_tokens(num_tokens):
    """Tokens of all kinds, runs and padding among them."""
    token = st.integers(0, num_tokens + 1)
    row = st.lists(token, min_size=1, max_size=12)
    return st.lists(row | row.map(lambda ids: ids * 2), min_size=1, max_size=3)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), name=st.sampled_from(list(MODELS)), reencode=st.booleans())
def test_any_tokens(setup, data, name, reencode):
    rows = data.draw(rows_of_any_tokens(len(setup.src)))
    for row in rows:
        check(setup.tables, PROMPT, row)
    check_logits(setup.models[name], setup.trees(rows, reencode=reencode), setup.contexts(rows))


TEXTS = ["The naïve café's menu: won't 12 euros", "日本語 한국어 🙂🙃", "the quick brown fox jumps"]


@pytest.mark.parametrize("reencode", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_texts(setup, name, reencode):
    rows = [ids.tolist() for ids in setup.encode_src(TEXTS)]
    batch = check_logits(
        setup.models[name], setup.trees(rows, reencode=reencode), setup.contexts(rows)
    )
    assert batch.visible.ndim == (3 if reencode else 2)
    assert batch.masked.any() == (not reencode)


@pytest.mark.parametrize("reencode", [True, False])
@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen3"])
def test_gradients_are_those_of_separate_forwards(setup, name, reencode):
    """Of the places that are not masked; those that are give none."""
    model = setup.models[name]
    rows = [ids.tolist() for ids in setup.encode_src(TEXTS)]
    contexts = setup.contexts(rows)
    batch = tree_batch(setup.trees(rows, reencode=reencode))
    targets = (torch.arange(len(contexts)) % 400).masked_fill(batch.masked, -100)
    found = gradients(model, batch.read(model(**tree_inputs(model, batch)).logits), targets)
    expected = gradients(model, one_by_one(model, contexts), targets)
    for one, other in zip(found, expected, strict=True):
        # Normalisation has float32 inside.
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


def gradients(model, logits, targets):
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    return torch.autograd.grad(loss, list(model.parameters()))


def test_gradients_are_the_same_in_every_run(setup):
    """Bytes of characters that never end: hundreds of tokens are read off one node."""
    batch = tree_batch(
        setup.trees([setup.src.find("日".encode()[:1]) * 2 + [len(setup.src)] * 800])
    )
    states = torch.randn(*batch.input_ids.shape, 256, requires_grad=True)
    weight = torch.randn(len(batch.places), 256)
    first, *others = (torch.autograd.grad(batch.read(states), states, weight)[0] for _ in range(10))
    assert all(torch.equal(first, other) for other in others)
    assert torch.allclose(first.sum((0, 1)), weight.sum(0), rtol=1e-4, atol=1e-3)


def test_lower_precision_is_finite(setup):
    model = MODELS["llama eager"](len(setup.dst)).to(torch.bfloat16)
    batch = tree_batch(setup.trees([ids.tolist() for ids in setup.encode_src(TEXTS)]))
    assert model(**tree_inputs(model, batch)).logits.isfinite().all()


def test_a_batch_goes_to_a_device(setup):
    batch = tree_batch(setup.trees([[5, 6]]))
    moved = batch.to("meta")
    for name in ("input_ids", "position_ids", "visible", "places", "masked"):
        one, other = getattr(batch, name), getattr(moved, name)
        assert (other.device.type, other.shape, other.dtype) == ("meta", one.shape, one.dtype)
    assert moved.longest == batch.longest


def test_rows_without_generated_tokens(setup):
    model = setup.models["llama"]
    trees = setup.trees([[], [5, 6]])
    assert trees[0].ids.tolist() == PROMPT
    assert len(trees[0].places) == trees[0].num_exact == 0
    check_logits(model, trees, setup.contexts([[], [5, 6]]))


# What cannot be.


def test_an_empty_prompt(setup):
    with pytest.raises(ContextError, match="prompt is empty"):
        token_tree(ReencodedContext(setup.tables, []), [5])


def test_a_context_that_is_too_long(setup):
    model = setup.models["llama"]
    generated = (setup.src.find(b"a") + setup.src.find(b" ")) * 200
    tree = setup.trees([generated])[0]
    assert tree.longest > 300
    with pytest.raises(
        ContextError, match=f"has {tree.longest} ids, but the model reads at most 300"
    ):
        tree_inputs(model, tree_batch([tree]))
    fits = tree_batch([token_tree(SameVocabularyContext(400, [1]), [5] * 300)])
    assert fits.longest == 300
    tree_inputs(model, fits)


def branched(setup):
    (ids,) = setup.encode_src(TEXTS[1:2])
    return tree_batch(setup.trees([ids.tolist()]))


def test_an_attention_that_cannot_mask(setup):
    model = MODELS["llama"](len(setup.dst))
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(OptionError, match=r"flash_attention_2 cannot mask them.*'sdpa'"):
        tree_inputs(model, branched(setup))
    assert tree_inputs(model, tree_batch(setup.trees([[5]])))["attention_mask"].ndim == 2


def test_layers_that_cannot_read_branches(setup):
    model = MODELS["qwen3"](len(setup.dst))
    model.config.layer_types = ["full_attention", "chunked_attention", "full_attention"]
    with pytest.raises(OptionError, match=r"layers of the model \(chunked_attention\)"):
        tree_inputs(model, branched(setup))


def test_a_model_with_windows_of_its_own(setup):
    config = GPTNeoConfig(
        vocab_size=len(setup.dst),
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
        bos_token_id=1,
        eos_token_id=None,
    )
    model = GPTNeoForCausalLM(config).eval().double()
    with pytest.raises(OptionError, match=r"GPTNeoForCausalLM makes masks .*\(`reencode=False`\)"):
        tree_inputs(model, branched(setup))
    rows = [ids.tolist() for ids in setup.encode_src(TEXTS)]
    check_logits(model, setup.trees(rows, reencode=False), setup.contexts(rows))


# The user model's own vocabulary.


def test_the_same_tokens():
    row = SameVocabularyContext(10, [1, 2])
    assert [row.append(token_id) for token_id in (3, 10, 3)] == [(2, [3]), (3, []), (3, [3])]
    other = row.copy()
    other.append(9)
    assert (row.ids, other.ids) == ([1, 2, 3, 3], [1, 2, 3, 3, 9])
    with pytest.raises(IndexError, match="token id -1 is negative"):
        row.append(-1)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_the_tree_of_the_same_tokens_is_a_chain(generated):
    tree = token_tree(SameVocabularyContext(18, [1, 2]), generated)
    assert tree.is_chain
    known = [
        [token_id for token_id in generated[:count] if token_id < 18]
        for count in range(len(generated))
    ]
    check_tree(tree, [[1, 2, *ids] for ids in known])


def test_which_vocabularies_are_the_same():
    def made(*tokens):
        return Vocabulary.from_tokens(tokens, [Kind.SPECIAL, Kind.TEXT, Kind.TEXT])

    one, same, other = made(b"<s>", b"a", b"b"), made(b"<s>", b"a", b"b"), made(b"<s>", b"b", b"a")
    assert is_same_vocabulary(one, same, build_map(one, same).dst_id)
    assert is_same_vocabulary(one, same, np.array([0, -1, -1, -1]))
    assert not is_same_vocabulary(one, other, build_map(one, other).dst_id)
    assert not is_same_vocabulary(one, same, np.array([-1, 1, 2]))
    assert not is_same_vocabulary(one, same, np.array([2, 1, 2]))
