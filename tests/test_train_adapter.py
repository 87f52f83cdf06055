"""Training of adapters as deltas, against peft; and what their folders hold."""

import copy
import json
import shutil
from functools import partial

import command_line
import pytest
import torch
from conftest import quick_first
from tiny_adapters import peft_model, read_by_peft
from tiny_models import save_model, write_gguf
from torch.nn.functional import cross_entropy
from training_runs import OPTIONS, PROMPT_TEMPLATE, run, save_rows

from cmc_runtime import load_delta, load_model, new_adapter
from cmc_runtime.data.examples import read_examples
from cmc_runtime.data.samples import fitting_samples, sample_batch
from cmc_runtime.delta_card import read_card
from cmc_runtime.errors import CardError, ModelError
from cmc_runtime.models.base_weights import base_weights
from cmc_runtime.models.delta_model import load_delta_model
from cmc_runtime.models.difference import DifferenceModel
from cmc_runtime.models.load import LoadedModel
from cmc_runtime.models.lora import read_adapter
from cmc_runtime.training.objectives import FusedObjective
from cmc_runtime.training.record import read_metrics
from pm_mined import OptionError

command = partial(command_line.run, program="cmc-runtime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("train-adapter")
    save_model(made / "template", "byte-level", seed=0)
    save_model(made / "small", "metaspace", seed=1)
    save_rows(made / "data.jsonl", 12)
    save_rows(made / "retain.jsonl", 7, shift=1)
    return made


@pytest.fixture(scope="module")
def template(folder):
    return load_model(folder / "template", device="cpu")


@pytest.fixture(scope="module")
def small(folder):
    return load_model(folder / "small", device="cpu")


# --- What is minimised ---------------------------------------------------------------------------


def both(base, folder):
    """A random adapter of a model in float64: ours as a delta, and peft's model."""
    made = peft_model(base.model)
    made.save_pretrained(folder)
    model = DifferenceModel(base.model, read_adapter(folder, base.model))
    model.requires_grad_(True)
    return LoadedModel(model, base.tokenizer, folder), made


def in_order(made, model):
    """peft's trained weights, in the order of ours."""
    weights = dict(made.named_parameters())
    return [
        weights[f"base_model.model.{path}.{name}.default.weight"]
        for path in model.adapter.layers
        for name in ("lora_A", "lora_B")
    ]


def make_batch(folder, user, delta):
    rows = read_examples(folder / "data.jsonl", limit=4).rows
    samples = fitting_samples(user, rows, PROMPT_TEMPLATE, delta).samples
    return rows, samples, sample_batch(samples)


def assert_same_gradients(loss, model, expected, made):
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    found = torch.autograd.grad(loss, list(model.parameters()))
    wanted = torch.autograd.grad(expected, in_order(made, model))
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)  # norms are in float32


@pytest.mark.parametrize("shared", [True, False])
def test_beside_its_own_base_it_is_lora_exactly(folder, tmp_path, shared):
    user, again = (
        load_model(folder / "template", device="cpu", dtype=torch.float64) for _ in range(2)
    )
    loaded, made = both(user if shared else again, tmp_path)
    delta = load_delta(
        loaded, user.tokenizer, num_logits=user.num_logits, prompt_template=PROMPT_TEMPLATE
    )
    _, samples, batch = make_batch(folder, user, delta)
    objective = FusedObjective(delta, user.model, "sft", 1.0)
    plain_forwards = []
    user.model.get_decoder().register_forward_hook(lambda *_: plain_forwards.append(1))
    loss = objective({"data": batch}, {"data": len(batch.targets)})
    assert len(plain_forwards) == 1  # of the frozen model, for its own states
    logits = [made(torch.tensor([one.ids])).logits[0, one.num_prompt - 1 : -1] for one in samples]
    expected = cross_entropy(torch.cat(logits), batch.targets)
    assert_same_gradients(loss, loaded.model, expected, made)


@pytest.mark.parametrize("objective", ["sft", "kl"])
def test_beside_another_model_gradients_are_those_by_hand(folder, tmp_path, objective):
    user, base = (
        load_model(folder / name, device="cpu", dtype=torch.float64)
        for name in ("template", "small")
    )
    loaded, made = both(base, tmp_path)
    delta = load_delta(
        loaded,
        user.tokenizer,
        num_logits=user.num_logits,
        prompt_template=PROMPT_TEMPLATE,
        unmapped="zero",
    )
    rows, samples, batch = make_batch(folder, user, delta)
    module = FusedObjective(delta, user.model, objective, 0.7)
    counts = dict.fromkeys(("data", "retain"), len(batch.targets))
    loss = module({"data": batch, "retain": batch}, counts)
    assert {id(one) for one in module.parameters()} == {
        id(one) for one in loaded.model.parameters()
    }

    index = delta.tensors.index.long()
    plain, fused = [], []
    for row, sample in zip(rows, samples, strict=True):
        plain.append(user.model(torch.tensor([sample.ids])).logits[0, sample.num_prompt - 1 : -1])
        context, shifts = delta.context(row.prompt), []
        for token_id in sample.ids[sample.num_prompt :]:
            ids = torch.tensor([context.ids])
            with torch.no_grad():
                before = base.model(ids).logits[0, -1]
            shifts.append(made(ids).logits[0, -1] - before)
            context.append(token_id)
        shift = torch.stack(shifts)[:, index.clamp(min=0)] * (index >= 0)
        fused.append(plain[-1].detach() + 0.7 * shift)
    plain, fused = torch.cat(plain).detach(), torch.cat(fused)
    loss_of_data = cross_entropy(fused, batch.targets)
    p, q = plain.log_softmax(-1), fused.log_softmax(-1)
    expected = {
        "sft": loss_of_data,
        "kl": (p.exp() * (p - q)).sum(-1).mean() - loss_of_data,
    }[objective]
    assert_same_gradients(loss, loaded.model, expected, made)


def test_a_new_adapter_changes_nothing(template):
    start = new_adapter(template, rank=3)
    ids = torch.tensor([[5, 6, 7]])
    assert not start.model(input_ids=ids).logits.any()
    assert {len(layer.lora_A) for layer in start.model.layers} == {3}
    with pytest.raises(OptionError, match="the rank of an adapter is 0"):
        new_adapter(template, rank=0)


# --- A run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(folder, template, small):
    """An uninterrupted run."""
    run(folder, template, folder / "whole", start=new_adapter(small, rank=4))
    return folder / "whole"


def test_a_run_learns_and_leaves_an_adapter(whole, folder, template, small):
    metrics = read_metrics(whole / "metrics.jsonl")
    assert metrics[-1]["loss"] < 0.9 * metrics[0]["loss"]
    assert {path.name for path in whole.iterdir() if path.is_file()} == {
        *("adapter_config.json", "adapter_model.safetensors", "delta.json"),
        *("loss.png", "metrics.jsonl", "rows.jsonl", "run.json"),
    }
    card = read_card(whole)
    assert card.kind == "difference"
    assert card.training["start"] == f"new, an adapter of rank 4 of {folder / 'small'}"
    with torch.no_grad():
        ids = torch.tensor([[5, 6, 7]])
        made = read_by_peft(whole, load_model(folder / "small", device="cpu").model)
        expected = made(ids).logits - small.model(ids).logits
        loaded = load_delta_model(whole, device="cpu")
        torch.testing.assert_close(loaded.model(input_ids=ids).logits, expected)
    delta = load_delta(loaded, template.tokenizer, num_logits=template.num_logits)
    assert (delta.kind, delta.prompt_template) == ("difference", PROMPT_TEMPLATE)


class StopError(Exception):
    pass


@pytest.mark.parametrize("step", quick_first([5, 8]))
def test_an_interrupted_run_goes_on_as_if_it_was_not(
    folder, template, small, whole, tmp_path, step
):
    def stop(what, done, _):
        if what == "training" and done == step:
            raise StopError

    with pytest.raises(StopError):
        run(folder, template, tmp_path, start=new_adapter(small, rank=4), progress=stop)
    with pytest.raises(OptionError, match="another start_sha256"):
        run(folder, template, tmp_path, start=new_adapter(small, rank=4, seed=1), resume=True)
    run(folder, template, tmp_path, start=new_adapter(small, rank=4), resume=True)
    for name in ("adapter_model.safetensors", "adapter_config.json", "delta.json"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    assert read_metrics(tmp_path / "metrics.jsonl") == read_metrics(whole / "metrics.jsonl")


def test_a_base_with_other_weights_is_another_start(folder, template, whole, tmp_path):
    save_model(tmp_path / "small", "metaspace", seed=2)
    other = load_model(tmp_path / "small", device="cpu")
    other.tokenizer.name_or_path = str(folder / "small")
    with pytest.raises(OptionError, match=r"another base_weights\.sha256"):
        run(folder, template, whole, start=new_adapter(other, rank=4), resume=True)


@pytest.mark.parametrize(
    "options",
    quick_first([{"gradient_checkpointing": True}, {"bf16": True}]),
)
def test_less_memory(folder, template, small, whole, tmp_path, options):
    run(folder, template, tmp_path, OPTIONS(**options), start=new_adapter(small, rank=4))
    losses = [read_metrics(out / "metrics.jsonl")[-1]["loss"] for out in (tmp_path, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=0.1 if "bf16" in options else 1e-4)


def test_kept_states_serve_the_plain_half_too(folder, template, tmp_path):
    runs = [
        run(
            folder, template, tmp_path / name, start=new_adapter(template, rank=4), keep_states=keep
        )
        for name, keep in (("kept", tmp_path / "states"), ("made", None))
    ]
    ids = torch.tensor([[5, 6, 7]])
    kept, made = (one.loaded.model(input_ids=ids).logits for one in runs)
    torch.testing.assert_close(kept, made, rtol=1e-3, atol=1e-3)


# --- Its base ------------------------------------------------------------------------------------


def loaded_on(adapter, base, user, **options):
    """The notes of loading it."""
    notes = []
    loaded = load_delta_model(adapter, base=base, device="cpu", **options)
    load_delta(loaded, user.tokenizer, num_logits=user.num_logits, note=notes.append)
    return [one for one in notes if "weights" in one or "cannot be told" in one]


def test_another_base_is_refused(whole, folder, template, tmp_path):
    assert loaded_on(whole, None, template) == []
    save_model(tmp_path / "other", "metaspace", seed=2)
    said = f"whole: its base has other weights than {folder / 'small'} had .*--adapter-base"
    with pytest.raises(ModelError, match=said):
        loaded_on(whole, tmp_path / "other", template)
    with pytest.raises(ModelError, match="its base has other weights"):
        run(
            *(folder, template, tmp_path / "on"),
            start=load_delta_model(whole, base=tmp_path / "other"),
        )


def test_the_same_base_in_other_files_and_dtypes(whole, folder, template, tmp_path):
    small = load_model(folder / "small", device="cpu")
    small.model.save_pretrained(tmp_path, max_shard_size="20KB")
    small.tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert loaded_on(whole, tmp_path, template) == []
    for dtype in (torch.bfloat16, torch.float64):
        assert loaded_on(whole, tmp_path, template, dtype=dtype) == []
    (note,) = loaded_on(whole, tmp_path, template, dtype=torch.float16)
    assert note.endswith("whether its base is another cannot be told between float16 and float32")


def test_every_weight_of_a_base_counts(small):
    model = copy.deepcopy(small.model)
    digests = {base_weights(model)["sha256"]}
    weights = list(model.state_dict().values())
    for weight in weights:
        weight.mul_(1.01)
        digests.add(base_weights(model)["sha256"])
    assert len(digests) == len(weights) + 1


def test_without_a_digest_a_note_says_so(whole, template, tmp_path):
    shutil.copytree(whole, tmp_path / "a")
    card = json.loads((tmp_path / "a/delta.json").read_text())
    del card["base_weights"]
    (tmp_path / "a/delta.json").write_text(json.dumps(card))
    (note,) = loaded_on(tmp_path / "a", None, template)
    assert note.endswith("a: it does not say what weights its base had when it was trained")
    save_model(tmp_path / "bytes", "byte-level", seed=1)
    with pytest.raises(CardError, match="another vocabulary than its base: give the model"):
        loaded_on(tmp_path / "a", tmp_path / "bytes", template)


# --- The command line ----------------------------------------------------------------------------


def trained(*arguments):
    done = command("train", "--json", "--device", "cpu", "--epochs", "1", *map(str, arguments))
    assert done.status == 0, done.stderr
    return json.loads(done.stdout)


def test_train_generate_and_eval(folder, tmp_path):
    given = ("--template", folder / "template", "--data", folder / "data.jsonl")
    document = trained(
        *given,
        "--delta-adapter",
        "4",
        "--adapter-base",
        folder / "small",
        "--output",
        tmp_path / "a",
    )
    loaded = load_delta_model(tmp_path / "a", device="cpu")
    assert document["parameters"] == sum(one.numel() for one in loaded.model.parameters())
    steered = ("--delta", tmp_path / "a", "--model", folder / "template", "--device", "cpu")
    texts = command("generate", *steered, "--prompt", "the", "--max-new-tokens", "3", "--json")
    assert texts.status == 0, texts.stderr
    scores = command("eval", *steered, "--data", folder / "data.jsonl", "--json")
    assert scores.status == 0, scores.stderr
    (results,) = (one["data"]["results"] for one in json.loads(scores.stdout)["models"])
    assert results[1]["loss_per_token"] < results[0]["loss_per_token"]
    # and the training goes on from there
    trained(*given, "--delta", tmp_path / "a", "--output", tmp_path / "b")
    config = json.loads((tmp_path / "b/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder / "small")


def test_without_a_base_it_is_of_the_frozen_model(folder, tmp_path):
    trained(
        *("--template", folder / "template", "--data", folder / "data.jsonl"),
        *("--delta-adapter", "4", "--output", tmp_path / "a"),
    )
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder / "template")


def test_options_of_another_start(folder, tmp_path):
    given = ("--template", "t", "--data", "d", "--output", tmp_path / "o")
    for more, said in (
        (("--delta-layers", "1", "--adapter-base", "b"), "--adapter-base is for"),
        (("--delta-layers", "1", "--delta-adapter", "4"), "--delta-layers and --delta-adapter"),
    ):
        done = command("train", *given, *more)
        assert done.status == 2
        assert said in done.stderr


def test_the_base_may_be_a_gguf_file(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base = write_gguf(tmp_path / "tiny.gguf")
    trained(
        *("--template", folder / "template", "--data", folder / "data.jsonl"),
        *("--delta-adapter", "4", "--adapter-base", base, "--output", tmp_path / "a"),
    )
    assert load_delta_model(tmp_path / "a").model.adapter.config["base_model_name_or_path"] == str(
        base
    )
