"""Fused losses against eager float64 autograd; output heads against transformers' models."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_weighted_maps import with_choices
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM
from transformers import models as hf

from cmc_runtime.errors import ModelError
from cmc_runtime.fusion import chunks
from cmc_runtime.fusion.losses import (
    fused_cross_entropy,
    fused_kl,
    fused_token_losses,
    token_losses,
)
from cmc_runtime.maps.tensors import identity_map_tensors, load_map_tensors
from cmc_runtime.models.output_head import OutputHead, hidden_states
from pm_mined import Kind, OptionError, Vocabulary

POLICIES = ["zero", "keep", "mean"]
IDENTITIES = ["identity", "padded identity", "wide identity"]
MOVED = [f"{one}, moved ends" for one in IDENTITIES]
FORMS = [*IDENTITIES, *MOVED, "one", "weighted", "grouped"]
IGNORED = -100
kl_from_uniform = partial(fused_kl, reference="uniform")
LOSSES = [fused_cross_entropy, fused_kl, kl_from_uniform]


def vocabulary(size):
    return Vocabulary.from_tokens([f"t{i}".encode() for i in range(size)], [Kind.TEXT] * size)


def some_map(form, num_src=41, num_dst=23, seed=0, device=None):
    """Tensors of a map of which some tokens are unmapped, and some are padding."""
    if "identity" in form:
        width = num_src + 3 * ("wide" in form) - 5 * ("padded" in form)
        ends = dict.fromkeys((0, 7, num_src - 1), width - 1) if "ends" in form else {}
        return identity_map_tensors(num_src, width, device=device, ends=ends)
    random = np.random.default_rng(seed)
    counts = random.integers(0, 2 if form == "one" else 5, num_src)
    rows = [random.permutation(num_dst)[:count].tolist() for count in counts]
    weights = None
    if form == "weighted":
        weights = [random.dirichlet([1.0] * len(row)).tolist() if row else [] for row in rows]
    made = with_choices(rows, weights, src=vocabulary(num_src), dst=vocabulary(num_dst), form=form)
    widths = {"num_src_logits": num_src + 3, "num_dst_logits": num_dst + 2}
    return load_map_tensors(made, device=device, **widths)


def weights_of(tensors):
    """Float64 [num_src, num_dst]: shares of what each source token reads, or 1 in a group."""
    matrix = torch.zeros(tensors.num_src_logits, tensors.num_dst_logits, dtype=torch.float64)
    for token, read in enumerate(tensors.index.tolist()):
        if read >= 0:
            matrix[token, read] = 1
    if tensors.choices is None:
        return matrix
    src_id, offsets, ids, weight, _ = tensors.choices
    for row, token in enumerate(src_id.tolist()):
        for place in range(int(offsets[row]), int(offsets[row + 1])):
            matrix[token, int(ids[place])] = 1 if weight is None else weight[place]
    return matrix


def ref_fused(base, delta, tensors, alpha, policy):
    """Fused logits by dense matrices and the definitions alone."""
    shares = weights_of(tensors)
    mapped = shares.any(-1)
    if tensors.choices is not None and tensors.choices.weight is None:
        read = delta[:, None].masked_fill(shares == 0, -torch.inf).amax(-1)
        read = alpha * torch.where(mapped, read, 0)
    else:
        read = alpha * delta @ shares.T
    if policy == "zero" or not mapped.any():
        return base + read
    if policy == "mean":
        return base + torch.where(mapped, read, read[:, mapped].mean(-1, keepdim=True))
    shift = (base + read)[:, mapped].logsumexp(-1) - base[:, mapped].logsumexp(-1)
    return base + torch.where(mapped, read, shift[:, None])


class Case:
    """Random heads and hidden states for a map; all that is trained requires gradients."""

    def __init__(self, tensors, tokens=13, seed=0, dtype=torch.float64, delta=None, base=None):
        self.tensors, self.dtype = tensors, dtype
        random = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype)

        self.base_hidden, self.delta_hidden = normal(tokens, 7), normal(tokens, 5)
        self.base_head = OutputHead(normal(tensors.num_src_logits, 7), **(base or {}))
        bias = {}
        if (delta or {}).get("bias"):
            bias["bias"] = normal(tensors.num_dst_logits)
        self.delta_head = OutputHead(normal(tensors.num_dst_logits, 5), **{**(delta or {}), **bias})
        self.targets = torch.randint(tensors.num_src_logits, (tokens,), generator=random)
        self.targets[1::4] = IGNORED
        self.trained = [self.delta_hidden, self.delta_head.weight, *bias.values()]
        for one in self.trained:
            one.requires_grad_()

    @property
    def parts(self):
        return self.base_hidden, self.base_head, self.delta_hidden, self.delta_head

    def of(self, loss, alpha=1.0, policy="zero"):
        """Loss and gradients of a fused loss; the loss is scaled, as in accumulation."""
        marked = self.targets if loss is fused_cross_entropy else self.targets != IGNORED
        found = loss(*self.parts, marked, self.tensors, alpha=alpha, unmapped=policy)
        return found.detach(), torch.autograd.grad(0.3 * found, self.trained)

    def fused(self, alpha, policy):
        """Base and fused logits in float64, whatever the dtype of the case."""
        base = ref_logits(self.base_head, self.base_hidden).detach()
        delta = ref_logits(self.delta_head, self.delta_hidden)
        return base, ref_fused(base, delta, self.tensors, alpha, policy)

    def ref(self, loss, alpha=1.0, policy="zero"):
        """The same, eagerly in float64."""
        base, fused = self.fused(alpha, policy)
        if loss is fused_cross_entropy:
            expected = functional.cross_entropy(fused, self.targets, ignore_index=IGNORED)
        else:
            rows = self.targets != IGNORED
            reference = base[rows] if loss is fused_kl else torch.zeros_like(base[rows])
            expected = functional.kl_div(
                fused[rows].log_softmax(-1),
                reference.log_softmax(-1),
                log_target=True,
                reduction="batchmean",
            )
        return expected.detach(), torch.autograd.grad(0.3 * expected, self.trained)


def ref_logits(head, hidden):
    logits = hidden.double() @ head.weight.double().T
    if head.bias is not None:
        logits = logits + head.bias.double()
    logits = logits * head.scale
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def in_chunks(monkeypatch, tokens):
    monkeypatch.setattr(chunks, "CHUNK_TOKENS", tokens)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", {"cpu": 0, "gpu": 0})
    three_rows = 3 * 4 * 44
    monkeypatch.setattr(chunks, "SLICE_BYTES", {"cpu": three_rows, "gpu": three_rows})


@pytest.fixture
def chunks_of_four(monkeypatch):
    in_chunks(monkeypatch, 4)


def check(case, loss, alpha=1.0, policy="zero", **tolerance):
    found, expected = case.of(loss, alpha, policy), case.ref(loss, alpha, policy)
    torch.testing.assert_close(found, expected, **tolerance)


@pytest.mark.usefixtures("chunks_of_four")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("form", FORMS)
def test_equal_eager_autograd(form, policy, loss):
    tensors = some_map(form)
    check(Case(tensors), loss, policy=policy)
    check(Case(tensors), loss, -0.7, policy)
    for head in ({"scale": 0.3}, {"bias": True}, {"bias": True, "scale": 0.3, "softcap": 2.0}):
        check(Case(tensors, delta=head), loss, 0.7, policy)


@pytest.mark.usefixtures("chunks_of_four")
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["one", "weighted", "grouped"]),
    st.integers(1, 30),
    st.integers(1, 12),
    st.integers(2, 9),
    st.sampled_from(POLICIES),
    st.integers(0, 999),
    st.sampled_from(LOSSES),
)
def test_equal_eager_autograd_on_ragged_sizes(form, num_src, num_dst, tokens, policy, seed, loss):
    case = Case(some_map(form, num_src, num_dst + 4, seed), tokens, seed)
    check(case, loss, 1.3, policy)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("form", FORMS)
def test_the_chunk_makes_no_difference(form, loss, monkeypatch):
    case = Case(some_map(form), tokens=17)
    whole = case.of(loss, policy="mean")
    for size in (1, 5, 12, 13):
        in_chunks(monkeypatch, size)
        torch.testing.assert_close(case.of(loss, policy="mean"), whole)


@pytest.mark.usefixtures("chunks_of_four")
@pytest.mark.parametrize("form", ["identity", *MOVED, "one", "grouped"])
def test_scaled_and_capped_base_logits(form):
    base = {"scale": 1.7, "softcap": 3.0}
    check(Case(some_map(form), base=base), fused_cross_entropy, policy="keep")
    check(Case(some_map(form), base=base), fused_kl, policy="keep")


@pytest.mark.usefixtures("chunks_of_four")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("form", ["identity", *MOVED, "one", "weighted"])
def test_float32(form, loss):
    case = Case(some_map(form), tokens=41, dtype=torch.float32)
    found, gradients = case.of(loss)
    expected, wanted = case.ref(loss)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients, wanted, rtol=1e-4, atol=1e-7)


def eager_in_dtype(case):
    """What one writes: all in the dtype of the case, but for the softmax."""
    base = functional.linear(case.base_hidden, case.base_head.weight)
    delta = functional.linear(case.delta_hidden, case.delta_head.weight)
    read = delta[:, case.tensors.index.long().clamp(min=0)]
    fused = base + torch.where(case.tensors.mapped, read, 0)
    loss = functional.cross_entropy(fused.float(), case.targets, ignore_index=IGNORED)
    return loss.detach(), torch.autograd.grad(0.3 * loss, case.trained)


@pytest.mark.usefixtures("chunks_of_four")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["identity", MOVED[0], "one"])
def test_half_precision_is_no_worse_than_eager(form, dtype):
    ours, theirs = [], []
    for seed in range(8):
        case = Case(some_map(form), tokens=53, dtype=dtype, seed=seed)
        expected, wanted = case.ref(fused_cross_entropy)
        for errors, (loss, gradients) in (
            (ours, case.of(fused_cross_entropy)),
            (theirs, eager_in_dtype(case)),
        ):
            assert [one.dtype for one in gradients] == [dtype, dtype]
            norms = [
                (a.double() - b.double()).norm() for a, b in zip(gradients, wanted, strict=True)
            ]
            errors.append(torch.stack([(loss.double() - expected).abs(), *norms]))
    assert fused_cross_entropy(*case.parts, case.targets, case.tensors).dtype == torch.float32
    assert (torch.stack(ours).mean(0) <= torch.stack(theirs).mean(0)).all()


@pytest.mark.parametrize("form", ["identity", "one"])
def test_a_head_in_another_dtype_than_its_states(form):
    case = Case(some_map(form), dtype=torch.float32)
    base_hidden, base_head, hidden, head = case.parts
    found, expected = (
        fused_token_losses(base_hidden, base_head, hidden, one, case.targets, case.tensors).loss
        for one in (head.to(torch.bfloat16), head)
    )
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("form", ["identity", "one"])
def test_autocast_makes_products_in_its_dtype(form):
    case = Case(some_map(form), dtype=torch.float32)
    half = Case(some_map(form), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, gradients = case.of(fused_cross_entropy)
    for name in ("base_head", "delta_head"):
        setattr(half, name, getattr(half, name).to(torch.bfloat16))
    parts = half.base_hidden.bfloat16(), half.base_head, half.delta_hidden.bfloat16()
    expected = fused_cross_entropy(*parts, half.delta_head, half.targets, half.tensors)
    assert found.dtype == torch.float32
    assert [one.dtype for one in gradients] == [torch.float32] * 2
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=0)


@pytest.mark.usefixtures("chunks_of_four")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("form", FORMS)
def test_losses_of_tokens(form, policy):
    case = Case(some_map(form), tokens=30)
    case.targets[::3] = case.fused(0.7, policy)[1].argmax(-1)[::3]
    found = fused_token_losses(*case.parts, case.targets, case.tensors, alpha=0.7, unmapped=policy)
    _, fused = case.fused(0.7, policy)
    expected = functional.cross_entropy(fused, case.targets, ignore_index=IGNORED, reduction="none")
    assert not found.loss.requires_grad
    torch.testing.assert_close(found.loss, expected.detach().float())
    assert found.correct.tolist() == (fused.argmax(-1) == case.targets).tolist()
    assert 10 <= found.correct.sum() < 20


@pytest.mark.usefixtures("chunks_of_four")
def test_losses_of_tokens_of_one_model():
    case = Case(some_map("one"), tokens=30, base={"scale": 0.4, "softcap": 5.0})
    case.targets[::3] = case.fused(0, "zero")[0].argmax(-1)[::3]
    found = token_losses(case.base_hidden, case.base_head, case.targets)
    base, _ = case.fused(0, "zero")
    expected = functional.cross_entropy(base, case.targets, reduction="none")
    torch.testing.assert_close(found.loss, expected.float())
    assert found.correct.tolist() == (base.argmax(-1) == case.targets).tolist()
    assert 10 <= found.correct.sum() < 20


def test_no_token_counts():
    case = Case(some_map("one"))
    case.targets[:] = IGNORED
    for loss in LOSSES:
        found, gradients = case.of(loss)
        assert float(found) == 0
        assert not any(one.any() for one in gradients)
    found = token_losses(case.base_hidden, case.base_head, case.targets)
    assert not found.loss.any()
    assert not found.correct.any()


def test_a_delta_of_zeros_changes_nothing():
    for form in FORMS:
        case = Case(some_map(form), dtype=torch.float32)
        with torch.no_grad():
            case.delta_head.weight.zero_()
        found, (of_hidden, of_weight) = case.of(fused_kl)
        assert float(found) == 0
        assert not of_hidden.any()
        assert of_weight.abs().max() < 1e-7
        alone = token_losses(case.base_hidden, case.base_head, case.targets)
        fused = fused_token_losses(*case.parts, case.targets, case.tensors)
        assert torch.equal(alone.loss, fused.loss)


def test_extreme_logits():
    case = Case(identity_map_tensors(41), dtype=torch.float32)
    with torch.no_grad():
        case.base_head.weight.mul_(1e4)
        case.delta_head.weight.mul_(1e3)
    check(case, fused_cross_entropy, check_dtype=False, rtol=1e-4, atol=1e-4)


def test_a_nan_is_not_hidden():
    case = Case(some_map("one"))
    with torch.no_grad():
        case.delta_hidden[0, 0] = torch.nan
    assert case.of(fused_cross_entropy)[0].isnan()
    assert fused_token_losses(*case.parts, case.targets, case.tensors).loss[0].isnan()


def test_only_what_is_trained_gets_gradients():
    case = Case(some_map("one"))
    _, (_, expected) = case.ref(fused_cross_entropy)
    case.base_hidden.requires_grad_()
    case.base_head.weight.requires_grad_()
    case.delta_hidden.requires_grad_(False)
    loss = fused_cross_entropy(*case.parts, case.targets, case.tensors)
    (0.3 * loss).backward()
    torch.testing.assert_close(case.delta_head.weight.grad, expected)
    frozen = case.delta_hidden, case.base_hidden, case.base_head.weight
    assert [one.grad for one in frozen] == [None] * 3


def test_without_gradients_it_is_the_same_loss_and_costs_less():
    case = Case(some_map("one"))
    loss = fused_cross_entropy(*case.parts, case.targets, case.tensors)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        alone = fused_cross_entropy(*case.parts, case.targets, case.tensors)
    two_products = 2 * 10 * (7 * 44 + 5 * 25)  # for 10 counted tokens, the logits of both models
    assert counter.get_total_flops() == two_products
    assert loss.requires_grad
    assert not alone.requires_grad
    assert torch.equal(alone, loss)


def test_one_backward_only():
    case = Case(some_map("one"))
    loss = fused_cross_entropy(*case.parts, case.targets, case.tensors)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="supports one backward pass"):
        loss.backward()


def test_tied_weights_get_both_gradients():
    case = Case(some_map("one"))
    weight = case.delta_head.weight
    case.trained = [weight]
    case.delta_hidden = weight[: len(case.base_hidden)].tanh()
    found = case.of(fused_cross_entropy)
    case.delta_hidden = weight[: len(case.base_hidden)].tanh()
    torch.testing.assert_close(found, case.ref(fused_cross_entropy))


@pytest.mark.parametrize("form", ["identity", "padded identity", "one"])
def test_a_model_without_states_adds_nothing(form):
    """The losses of a delta alone: those beside a base whose logits are all 0."""
    case, zeros = Case(some_map(form)), Case(some_map(form))
    width = case.tensors.num_src_logits
    case.base_hidden, case.base_head = case.base_hidden[:, :0], OutputHead(torch.zeros(width, 0))
    zeros.base_head.weight.zero_()
    for loss in LOSSES:
        torch.testing.assert_close(case.of(loss), zeros.ref(loss))


def test_the_same_in_every_run():
    case = Case(some_map("one", 400, 7), tokens=90, dtype=torch.float32)
    first, *others = [case.of(fused_cross_entropy) for _ in range(4)]
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first[1], other[1], strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.zeros(13, dtype=torch.int32)}, r"torch.int32 \[13\]; expected int64"),
        ({"targets": torch.zeros(12, dtype=torch.int64)}, r"int64 \[12\]; expected int64 \[13\]"),
        ({"targets": torch.full((13,), 44)}, "a target is 44, but there are 44 logits"),
        ({"targets": torch.full((13,), -1)}, "a target is -1, but"),
        ({"delta_hidden": torch.zeros(12, 5)}, "with the same tokens"),
        ({"delta_hidden": torch.zeros(1, 13, 5)}, "expected \\[tokens, size\\]"),
        ({"delta_hidden": torch.zeros(13, 7)}, "reads vectors of 5"),
        ({"base_hidden": torch.zeros(13, 5)}, "reads vectors of 7"),
        ({"delta_head": OutputHead(torch.zeros(9, 5))}, "the map is for 25 logits"),
        ({"base_head": OutputHead(torch.zeros(9, 7))}, "9"),
        ({"tensors": identity_map_tensors(9)}, "the map is for 9 logits"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"unmapped": "none"}, "unmapped is 'none'"),
    ],
)
def test_refusals(change, message):
    case = Case(some_map("one"), dtype=torch.float32)
    names = "base_hidden", "base_head", "delta_hidden", "delta_head"
    given_ = {**dict(zip(names, case.parts, strict=True)), "tensors": case.tensors} | change
    targets = given_.pop("targets", torch.zeros(13, dtype=torch.int64))
    for loss in (fused_cross_entropy, fused_token_losses):
        with pytest.raises(OptionError, match=message):
            loss(targets=targets, **given_)
    mask = targets if "targets" in change else targets == 0
    with pytest.raises(OptionError, match="the mask is" if "targets" in change else message):
        fused_kl(mask=mask, **given_)


SIZES = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": hf.llama.LlamaConfig(**SIZES),
    "qwen2": hf.qwen2.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": hf.qwen3.Qwen3Config(**SIZES),
    "gemma2": hf.gemma2.Gemma2Config(**SIZES, final_logit_softcapping=5.0),
    "gemma3": hf.gemma3.Gemma3TextConfig(**SIZES),
    "gpt2": hf.gpt2.GPT2Config(vocab_size=90, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "phi": hf.phi.PhiConfig(**SIZES),
    "cohere": hf.cohere.CohereConfig(**SIZES, logit_scale=0.25),
    "granite": hf.granite.GraniteConfig(**SIZES, logits_scaling=4.0),
    "opt": hf.opt.OPTConfig(
        vocab_size=90, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=24,
    ),
}  # fmt: skip


def tiny_model(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_heads_of_models(name):
    model = tiny_model(CONFIGS[name])
    ids = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, -4:] = 0
    positions = torch.arange(9).expand_as(ids)
    inputs = {"attention_mask": mask, "position_ids": positions}
    head = OutputHead.of(model)
    with torch.no_grad():
        expected = model(ids, **inputs).logits
        found = head(hidden_states(model, ids, **inputs))
        torch.testing.assert_close(found[mask.bool()], expected[mask.bool()])
        torch.testing.assert_close(head(hidden_states(model, ids)), model(ids).logits)
    assert head.weight is model.get_output_embeddings().weight
    assert head.width == 90


def test_settings_of_heads_are_read():
    assert OutputHead.of(tiny_model(CONFIGS["gemma2"])).softcap == 5
    assert OutputHead.of(tiny_model(CONFIGS["cohere"])).scale == 0.25
    assert OutputHead.of(tiny_model(CONFIGS["granite"])).scale == 0.25
    assert OutputHead.of(tiny_model(CONFIGS["phi"])).bias is not None


def test_the_check_of_a_head_leaves_the_model_as_it_was():
    model = tiny_model(CONFIGS["llama"]).train()
    ids = torch.arange(5)[None]
    before = model(ids).logits
    OutputHead.of(model)
    assert torch.equal(model(ids).logits, before)
    assert model.training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_heads_in_other_dtypes(dtype):
    model = tiny_model(CONFIGS["gemma2"]).to(dtype)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        found = OutputHead.of(model)(hidden_states(model, ids))
        torch.testing.assert_close(found, model(ids).logits.float(), rtol=0, atol=0.04)
    assert found.dtype == torch.float32


def test_unknown_heads_are_refused():
    model = tiny_model(CONFIGS["llama"])
    model.config.mup_of_logits = 2.0
    forward = model.forward

    def scaled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output

    model.forward = scaled
    with pytest.raises(ModelError, match=r"not known; of its settings.*mup_of_logits 2\.0"):
        OutputHead.of(model)


def test_a_layer_between_states_and_head_is_refused():
    model = tiny_model(CONFIGS["llama"])
    model.lm_head.register_forward_pre_hook(lambda _layer, inputs: (inputs[0] / 2,))
    with pytest.raises(ModelError, match="does not read its decoder's last hidden states"):
        OutputHead.of(model)


def test_a_model_without_logits_is_refused():
    with pytest.raises(ModelError, match="a LlamaModel has no output layer"):
        OutputHead.of(tiny_model(CONFIGS["llama"]).model)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("form", FORMS)
def test_on_a_gpu(form):
    case = Case(some_map(form), dtype=torch.float32)
    expected, wanted = case.ref(fused_cross_entropy)
    moved = [one.detach().cuda().requires_grad_() for one in case.trained]
    parts = (case.base_hidden.cuda(), OutputHead(case.base_head.weight.cuda()))
    found = fused_cross_entropy(
        *parts, moved[0], OutputHead(moved[1]), case.targets.cuda(), some_map(form, device="cuda")
    )
    gradients = torch.autograd.grad(0.3 * found, moved)
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-3, atol=1e-5)
