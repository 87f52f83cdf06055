"""Steered decoding as a whole, on tiny models and tokenizers: the stream, `generate`, the beams."""

import numpy as np
import pytest
import tiny_tokenizers as tiny
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cmc_runtime.contexts.reencoded import ContextTables
from cmc_runtime.engines.transformers import SteeringProcessor
from cmc_runtime.maps.tensors import load_map_tensors
from cmc_runtime.steering.cached_model import CachedModel
from cmc_runtime.steering.requests import DeltaStream, Row
from cmc_runtime.steering.ways import AdaptiveSteering, Contrast, FixedSteering
from pm_mined import Kind, OptionError, build_map, load_vocabulary
from pm_mined.tokenizer.encoders.load import load_encoder


def tiny_llama(size, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=None,
        bos_token_id=1,
    )
    return LlamaForCausalLM(config).eval().double()


class Setup:
    """A user model of byte-level BPE, a delta model of metaspace BPE, and the map between them."""

    def __init__(self, folder):
        tiny.byte_level_bpe().save(str(folder / "src.json"))
        tiny.metaspace_bpe().save(str(folder / "dst.json"))
        self.src, self.dst = (load_vocabulary(folder / f"{side}.json") for side in ("src", "dst"))
        self.user = tiny_llama(len(self.src) + 3, 0)
        self.delta, self.other = (tiny_llama(len(self.dst) + 5, seed) for seed in (1, 2))
        made = build_map(self.src, self.dst)
        self.tensors = load_map_tensors(
            made, num_src_logits=len(self.src) + 3, num_dst_logits=len(self.dst) + 5
        )
        self.encode = load_encoder(folder / "dst.json", inside=True)
        self.tables = ContextTables.of(self.src, self.dst, made.dst_id, self.encode)

    def stream(self, prompts, model=None):
        return DeltaStream(CachedModel(model or self.delta), self.tables.begin, prompts)

    def slow_context(self, prompt, generated):
        """From scratch: text between what is none; the beginning of a character is held back."""
        ids, data = list(prompt), b""
        for i in generated:
            if i < len(self.src) and self.src.kind(i) == Kind.SPECIAL:
                ids += self.slow_text(data, ended=True)
                data = b""
                ids += [int(self.tensors.index[i])] if self.tensors.index[i] >= 0 else []
            elif i < len(self.src) and self.src.kind(i) != Kind.UNUSED:
                data += self.src[i]
        return ids + self.slow_text(data, ended=False)

    def slow_text(self, data, *, ended):
        try:
            (ids,) = self.encode([data.decode()])
            return ids.tolist()
        except UnicodeDecodeError as error:
            (ids,) = self.encode([data[: error.start].decode()])
            if error.reason == "unexpected end of data" and not ended:
                return ids.tolist()
            (stray,) = (
                i
                for i in self.dst.find(data[error.start : error.start + 1])
                if self.dst.kind(i) == Kind.BYTE
            )
            return [*ids.tolist(), stray, *self.slow_text(data[error.start + 1 :], ended=ended)]

    def slow_fused(self, base, prompt, generated, alpha):
        context = self.slow_context(prompt, generated)
        delta = self.delta(torch.tensor([context])).logits[0, -1]
        index = self.tensors.index.long()
        shift = torch.where(index >= 0, delta[index.clamp(min=0)], 0.0)
        return base + alpha * shift


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return Setup(tmp_path_factory.mktemp("tokenizers"))


PROMPTS = [[1, 270, 280], [1, 300]]
INPUTS = torch.tensor([[0, 0, 20, 30], [5, 6, 7, 8]])
MASK = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])


def test_the_stream_is_a_function_of_the_rows(setup):
    random, ids = np.random.default_rng(0), range(len(setup.src) + 3)
    stream = setup.stream(PROMPTS)
    rows = [Row(i, ()) for i in (0, 1, 1)]
    for step in range(30):
        found = stream.logits(rows)
        for row, logits in zip(rows, found, strict=True):
            context = setup.slow_context(PROMPTS[row.prompt], row.generated)
            expected = setup.delta(torch.tensor([context])).logits[0, -1]
            assert torch.allclose(logits, expected, atol=1e-9)
        rows = [row._replace(generated=(*row.generated, int(random.choice(ids)))) for row in rows]
        if step % 7 == 6:  # as beams do: another order, one row twice
            rows = [rows[0], rows[2], rows[2]]


@pytest.mark.parametrize("alpha", [0.7, -0.5])
def test_greedy_generate_is_fusing_by_hand(setup, alpha):
    steering = FixedSteering(setup.stream(PROMPTS), setup.tensors, alpha)
    processor = SteeringProcessor([steering], prompt_length=4, prompts=2)
    made = setup.user.generate(
        INPUTS,
        attention_mask=MASK,
        max_new_tokens=12,
        do_sample=False,
        logits_processor=[processor],
    )
    for i in range(2):
        prompt = INPUTS[i][MASK[i] == 1].tolist()
        generated = []
        for _ in range(12):
            base = setup.user(torch.tensor([[*prompt, *generated]])).logits[0, -1]
            fused = setup.slow_fused(base, PROMPTS[i], generated, alpha)
            generated.append(int(fused.argmax()))
        assert made[i, 4:].tolist() == generated


MODES = [
    {"do_sample": False},
    {"do_sample": True, "temperature": 0.8, "top_p": 0.9},
    {"do_sample": True, "top_k": 5},
    {"num_beams": 3, "do_sample": False},
    {"num_beams": 2, "do_sample": True},
]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_alpha_zero_is_the_user_model_alone(setup, mode):
    outputs = []
    for processors in ([], [FixedSteering(setup.stream(PROMPTS), setup.tensors, 0.0)]):
        torch.manual_seed(3)
        processor = SteeringProcessor(processors, prompt_length=4, prompts=2)
        outputs.append(
            setup.user.generate(
                INPUTS,
                attention_mask=MASK,
                max_new_tokens=10,
                logits_processor=[processor] if processors else [],
                **mode,
            )
        )
    assert torch.equal(*outputs)


def test_beams_are_those_of_the_fused_model(setup):
    """The same beams as with a user model that has the delta inside."""
    steering = FixedSteering(setup.stream(PROMPTS), setup.tensors, 1.0)
    processor = SteeringProcessor([steering], prompt_length=4, prompts=2)
    made = setup.user.generate(
        INPUTS,
        attention_mask=MASK,
        max_new_tokens=6,
        num_beams=3,
        do_sample=False,
        logits_processor=[processor],
    )
    for i in range(2):
        prompt = INPUTS[i][MASK[i] == 1].tolist()
        beams = [((), 0.0)]
        for _ in range(6):
            grown = []
            for generated, score in beams:
                base = setup.user(torch.tensor([[*prompt, *generated]])).logits[0, -1]
                fused = setup.slow_fused(base, PROMPTS[i], generated, 1.0).log_softmax(-1)
                best = fused.topk(3)
                for value, token in zip(*(column.tolist() for column in best), strict=True):
                    grown.append(((*generated, token), score + value))
            beams = sorted(grown, key=lambda beam: -beam[1])[:3]
        assert made[i, 4:].tolist() == list(beams[0][0])


def test_proxy_tuning_is_two_deltas(setup):
    base, rows = torch.randn(2, len(setup.src) + 3).double(), [Row(0, (40,)), Row(1, ())]
    expert, anti = setup.stream(PROMPTS), setup.stream(PROMPTS, setup.other)
    found = FixedSteering(Contrast(expert, anti), setup.tensors, 0.5).fuse(base, rows)
    one = FixedSteering(setup.stream(PROMPTS), setup.tensors, 0.5).fuse(base, rows)
    both = FixedSteering(setup.stream(PROMPTS, setup.other), setup.tensors, -0.5).fuse(one, rows)
    assert torch.allclose(found, both, atol=1e-9)


def test_an_expert_that_is_its_anti_expert_changes_nothing(setup):
    base, rows = torch.randn(2, len(setup.src) + 3), [Row(0, (40,)), Row(1, ())]
    steering = AdaptiveSteering(setup.stream(PROMPTS), setup.stream(PROMPTS), setup.tensors)
    assert torch.allclose(steering.fuse(base, rows), base, atol=1e-5)


def test_rows_that_do_not_fit_the_prompts(setup):
    processor = SteeringProcessor([], prompt_length=4, prompts=3)
    with pytest.raises(OptionError, match="2 rows cannot be those of 3 prompts"):
        processor(INPUTS, torch.zeros(2, 3))
