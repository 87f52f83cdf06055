"""Steered decoding as a whole, on tiny models and tokenizers: requests, `generate`, the beams."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny_tokenizers as tiny
import torch
from conftest import quick_first
from tiny_models import tiny_llama

from cmc_runtime.contexts.reencoded import ContextTables
from cmc_runtime.delta import Delta
from cmc_runtime.engines.transformers import SteeringProcessor
from cmc_runtime.fusion.limits import Limits
from cmc_runtime.maps.tensors import load_map_tensors
from cmc_runtime.models.load import LoadedModel
from cmc_runtime.steering.ways import AdaptiveSteering, Contrast
from pm_mined import Kind, OptionError, build_map, load_vocabulary
from pm_mined.tokenizer.encoders.load import load_encoder


def random_llama(size, seed):
    ends = {"pad_token_id": 0, "eos_token_id": None, "bos_token_id": 1}
    return tiny_llama(size, seed, **ends).double()


class Setup:
    """A user model of byte-level BPE, a delta model of metaspace BPE, and the map between them."""

    def __init__(self, folder):
        tiny.byte_level_bpe().save(str(folder / "src.json"))
        tiny.metaspace_bpe().save(str(folder / "dst.json"))
        self.src, self.dst = (load_vocabulary(folder / f"{side}.json") for side in ("src", "dst"))
        self.user = random_llama(len(self.src) + 3, 0)
        self.delta, self.other = (random_llama(len(self.dst) + 5, seed) for seed in (1, 2))
        made = build_map(self.src, self.dst)
        self.tensors = load_map_tensors(
            made, num_src_logits=len(self.src) + 3, num_dst_logits=len(self.dst) + 5
        )
        self.encode = load_encoder(folder / "dst.json", inside=True)
        self.tables = ContextTables.of(self.src, self.dst, made.dst_id, self.encode)

    def steering(self, model=None, alpha=1.0):
        """A delta whose prompts are ids of its own: `PROMPTS` by their number, as a text."""
        loaded = LoadedModel(model or self.delta, NumbersOfPrompts(), "tiny")
        tensors, begin = self.tensors, self.tables.begin
        return Delta(loaded, tensors, None, begin, "{prompt}", alpha, "zero", None)

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


class NumbersOfPrompts:
    """Stands for a tokenizer, to have prompts of any ids."""

    bos_token_id = 1

    def __call__(self, text):
        return {"input_ids": PROMPTS[int(text)] if text else [self.bos_token_id]}


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return Setup(tmp_path_factory.mktemp("tokenizers"))


PROMPTS = [[1, 270, 280], [1, 300]]
TEXTS = ["0", "1"]
INPUTS = torch.tensor([[0, 0, 20, 30], [5, 6, 7, 8]])
MASK = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])


class Written:
    """A request beside what has been written for it."""

    def __init__(self, request, prompt, generated=()):
        self.request, self.prompt, self.generated = request, prompt, list(generated)

    def append(self, token_id):
        self.request.append(token_id)
        self.generated.append(token_id)

    def copy(self):
        return Written(self.request.copy(), self.prompt, self.generated)


def check_logits(setup, steering, written):
    found = steering.logits([one.request.texts[0] for one in written])
    for one, logits in zip(written, found, strict=True):
        context = setup.slow_context(PROMPTS[one.prompt], one.generated)
        expected = setup.delta(torch.tensor([context])).logits[0, -1]
        assert torch.allclose(logits, expected, atol=1e-9)


@pytest.mark.parametrize("seed", quick_first(range(4), 2))
def test_requests_come_and_go(seed, setup):
    """Whatever is begun, copied, removed and due: each request is as if it were alone."""
    random, steering = np.random.default_rng(seed), setup.steering()
    written = [Written(steering.begin(TEXTS[i]), i) for i in (0, 1, 1)]
    for _ in range(60):
        action = random.integers(10)
        if action == 0:
            prompt = int(random.integers(2))
            written.append(Written(steering.begin(TEXTS[prompt]), prompt))
        elif action == 1:
            written.append(written[random.integers(len(written))].copy())
        elif action == 2 and len(written) > 1:
            written.pop(random.integers(len(written))).request.remove()
        due = [one for one in written if random.random() < 0.8] or written[:1]
        random.shuffle(due)
        for one in due:
            for token_id in random.integers(len(setup.src) + 3, size=random.integers(3)):
                one.append(int(token_id))
        check_logits(setup, steering, due)


def test_a_request_of_ids_is_as_if_they_had_been_written(setup):
    steering = setup.steering()
    given, written = steering.begin([20, 30, 40]), steering.begin([20])
    for token_id in (30, 40):
        written.append(token_id)
    assert given.texts[0].context.ids == written.texts[0].context.ids
    assert given.texts[0].context.ids == setup.slow_context([1], [20, 30, 40])


def test_each_request_has_its_own_strength(setup):
    steering = setup.steering(alpha=0.5)
    base = torch.randn(3, len(setup.src) + 3).double()
    requests = [steering.begin("0"), steering.begin("0", 0.0), steering.begin("1", -2.0)]
    fused = steering.fuse(base, requests)
    for row, (prompt, alpha) in enumerate([(0, 0.5), (0, 0.0), (1, -2.0)]):
        expected = setup.slow_fused(base[row], PROMPTS[prompt], [], alpha)
        assert torch.allclose(fused[row], expected, atol=1e-9)
    assert torch.equal(fused[1], base[1])
    ran = steering.model.ids_run
    assert steering.fuse(base[:1], [steering.begin("0", 0.0)]).data_ptr() == base.data_ptr()
    assert steering.model.ids_run == ran


def limited(setup, limits):
    """A delta with limits, requests of it to which tokens were appended, and three rows."""
    steering = replace(setup.steering(), limits=limits)
    requests = [Written(steering.begin(TEXTS[i]), i) for i in (0, 1, 1)]
    for request, tokens in zip(requests, [[40, 41], [50], []], strict=True):
        for token in tokens:
            request.append(token)
    torch.manual_seed(0)
    base = 6 * torch.rand(3, 1).double() * torch.randn(3, len(setup.src) + 3).double()
    return steering, requests, base


@pytest.mark.parametrize("limits", [Limits(0.05), Limits(0.05, 0.5), Limits(0, 0.5), Limits(1, 0)])
def test_only_what_is_plausible_and_unsure_is_steered(setup, limits):
    steering, requests, base = limited(setup, limits)
    found = steering.fuse(base, [one.request for one in requests])
    for row, one in enumerate(requests):
        chances = base[row].softmax(-1)
        fused = setup.slow_fused(base[row], PROMPTS[one.prompt], one.generated, 1.0)
        steered = chances >= limits.plausible * chances.max()
        if limits.gate < 1:
            steered &= chances.max() < limits.gate
        torch.testing.assert_close(found[row], torch.where(steered, fused, base[row]))
    anti = setup.steering(setup.other)
    for other in (Contrast(steering, anti), AdaptiveSteering(steering, anti)):
        kept = other.fuse(base, [other.begin(TEXTS[one.prompt]) for one in requests]) == base
        assert kept.all(-1).tolist() == (found == base).all(-1).tolist()


def test_a_row_behind_the_gate_costs_no_forward(setup):
    """The delta is told the tokens; when the gate opens, it reads all of them at once."""
    steering, (one, *_), base = limited(setup, Limits(gate=0.5))
    sure, unsure = base[:1].clone(), torch.zeros_like(base[:1])
    sure[0, 3] = 100
    steering.fuse(unsure, [one.request])
    ran = steering.model.ids_run
    for token in (60, 61, 62):
        one.append(token)
        assert steering.fuse(sure, [one.request]) is sure
    assert steering.model.ids_run == ran
    fused = steering.fuse(unsure, [one.request])
    expected = setup.slow_fused(unsure[0], PROMPTS[0], one.generated, 1.0)
    torch.testing.assert_close(fused[0], expected)
    assert steering.model.ids_run > ran


@pytest.mark.parametrize("alpha", [0.7, -0.5])
def test_greedy_generate_is_fusing_by_hand(setup, alpha):
    processor = SteeringProcessor(setup.steering(), INPUTS, TEXTS, alpha)
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
    for processors in ([], [SteeringProcessor(setup.steering(), INPUTS, TEXTS, 0.0)]):
        torch.manual_seed(3)
        outputs.append(
            setup.user.generate(
                INPUTS,
                attention_mask=MASK,
                max_new_tokens=10,
                logits_processor=processors,
                **mode,
            )
        )
    assert torch.equal(*outputs)


def test_beams_are_those_of_the_fused_model(setup):
    """The same beams as with a user model that has the delta inside."""
    processor = SteeringProcessor(setup.steering(), INPUTS, TEXTS)
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


def fused(steering, base, alpha=None):
    """The logits of two requests, to the first of which a token has been appended."""
    requests = [steering.begin(text, alpha) for text in TEXTS]
    requests[0].append(40)
    return steering.fuse(base, requests)


def test_proxy_tuning_is_two_deltas(setup):
    base = torch.randn(2, len(setup.src) + 3).double()
    expert, anti = setup.steering(), setup.steering(setup.other)
    both = fused(anti, fused(expert, base, 0.5), -0.5)
    assert torch.allclose(fused(Contrast(expert, anti), base, 0.5), both, atol=1e-9)
    assert torch.allclose(fused(Contrast(expert, anti, 0.5), base), both, atol=1e-9)


def test_an_expert_that_is_its_anti_expert_changes_nothing(setup):
    base = torch.randn(2, len(setup.src) + 3)
    steering = AdaptiveSteering(setup.steering(), setup.steering())
    assert torch.allclose(fused(steering, base), base, atol=1e-5)


def test_the_strength_of_a_request_bounds_the_adaptive_one(setup):
    base = torch.randn(2, len(setup.src) + 3)
    expert, anti = setup.steering(), setup.steering(setup.other)
    steering = AdaptiveSteering(expert, anti, most=1e-6)
    assert torch.allclose(fused(steering, base), base, atol=1e-4)
    bounded = fused(steering, base, 0.01)
    shift = fused(Contrast(expert, anti), base, 0.01)
    assert torch.allclose(bounded, shift, atol=1e-4)


def test_adaptive_steering_by_nothing_asks_no_model(setup, monkeypatch):
    base = torch.randn(2, len(setup.src) + 3)
    expert = setup.steering()
    monkeypatch.setattr(Delta, "logits", None)
    assert fused(AdaptiveSteering(expert, expert), base, 0.0) is base


@pytest.mark.parametrize("most", [-1.0, math.nan])
def test_adaptive_steering_begins_at_nothing(setup, most):
    with pytest.raises(OptionError, match=f"alpha is {most}; it is the most to choose"):
        AdaptiveSteering(setup.steering(), setup.steering()).begin("0", most)


def test_a_processor_that_is_used_again_begins_anew(setup):
    processor = SteeringProcessor(setup.steering(), INPUTS, TEXTS)
    base = torch.randn(2, len(setup.src) + 3).double()
    longer = torch.cat([INPUTS, torch.tensor([[40, 41], [50, 51]])], 1)
    for ids in (INPUTS, longer, INPUTS, longer, longer.flip(1), longer):
        found = processor(ids, base)
        for row in range(2):
            expected = setup.slow_fused(base[row], PROMPTS[row], ids[row, 4:].tolist(), 1.0)
            assert torch.allclose(found[row], expected, atol=1e-9)


def test_rows_that_do_not_fit_the_prompts(setup):
    with pytest.raises(OptionError, match="3 prompts, but input_ids has 2 rows"):
        SteeringProcessor(setup.steering(), INPUTS, ["0"] * 3)
    processor = SteeringProcessor([], INPUTS, TEXTS)
    with pytest.raises(OptionError, match="3 rows cannot be those of 2 prompts"):
        processor(INPUTS[[0, 0, 1]], torch.zeros(3, 3))
