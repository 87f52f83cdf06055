"""Training of delta models: what is minimised, how a run goes on, and what its folder holds."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import command_line
import pytest
import torch
from conftest import quick_first
from tiny_models import save_model
from torch.nn.functional import cross_entropy, kl_div
from training_runs import (
    OPTIONS,
    PROMPT_TEMPLATE,
    assert_same_weights,
    run,
    save_rows,
)

from cmc_runtime import load_delta, load_model
from cmc_runtime.data.examples import read_examples
from cmc_runtime.data.samples import SampleMaker, fitting_samples, sample_batch
from cmc_runtime.delta_card import read_card
from cmc_runtime.errors import CardError, StatesError, TrainingError
from cmc_runtime.fusion.limits import Limits
from cmc_runtime.models.load import LoadedModel
from cmc_runtime.training.checkpoints import last_checkpoint
from cmc_runtime.training.new_delta import delta_of_layers, new_delta
from cmc_runtime.training.objectives import FusedObjective
from cmc_runtime.training.options import TrainingOptions
from cmc_runtime.training.record import read_metrics
from cmc_runtime.training.run_folder import begun_run, check_output
from cmc_runtime.training.train import train
from pm_mined import OptionError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("train")
    save_model(made / "template", "byte-level", seed=0)
    save_model(made / "small", "metaspace", seed=1)
    save_rows(made / "data.jsonl", 12)
    save_rows(made / "retain.jsonl", 7, shift=1)
    return made


@pytest.fixture(scope="module")
def template(folder):
    return load_model(folder / "template", device="cpu")


# --- What is minimised ---------------------------------------------------------------------------


def fused_rows(user, delta, samples, alpha):
    """Base logits, fused logits and targets of each sample, one context after the other."""
    for sample in samples:
        base = user.model(torch.tensor([sample.ids])).logits[0, sample.num_prompt - 1 : -1]
        context = delta.context(sample.prompt)
        read = []
        for token_id in sample.ids[sample.num_prompt :]:
            read.append(delta.loaded.model(torch.tensor([context.ids])).logits[0, -1])
            context.append(token_id)
        index = delta.tensors.index.long()
        shift = torch.stack(read)[:, index.clamp(min=0)] * (index >= 0)
        yield (
            base.detach(),
            base.detach() + alpha * shift,
            torch.tensor(sample.ids[sample.num_prompt :]),
        )


class Prompted:
    """A sample that remembers its prompt."""

    def __init__(self, sample, prompt):
        self.sample, self.prompt = sample, prompt

    def __getattr__(self, name):
        return getattr(self.sample, name)


@pytest.mark.parametrize("objective", ["sft", "grad-ascent", "grad-diff", "kl", "remember"])
def test_losses_and_gradients_are_those_by_hand(folder, objective):
    user = load_model(folder / "template", device="cpu", dtype=torch.float64)
    small = load_model(folder / "small", device="cpu", dtype=torch.float64)
    how = {"token_map": "pm-mined", "unmapped": "zero", "prompt_template": PROMPT_TEMPLATE}
    delta = load_delta(small, user.tokenizer, num_logits=user.num_logits, **how)
    maker = SampleMaker(user, PROMPT_TEMPLATE, delta)
    sides = {}
    for name in ("data", "retain"):
        rows = read_examples(folder / f"{name}.jsonl", limit=3).rows
        sides[name] = [
            Prompted(maker.make(row.prompt, row.response, row.row), row.prompt) for row in rows
        ]
    assert not all(one.tree.is_chain for some in sides.values() for one in some)
    small.model.requires_grad_(True)

    losses = {}
    for name, samples in sides.items():
        base, fused, targets = (
            torch.cat(c) for c in zip(*fused_rows(user, delta, samples, 0.7), strict=True)
        )
        losses[name] = cross_entropy(fused, targets)
        p, q = base.log_softmax(-1), fused.log_softmax(-1)
        losses[f"{name} kl"] = (p.exp() * (p - q)).sum(-1).mean()
        alone = (fused - base) / 0.7
        losses[f"{name} alone"] = cross_entropy(alone, targets)
        uniform = torch.full_like(alone, 1 / alone.shape[1])
        losses[f"{name} uniform"] = kl_div(alone.log_softmax(-1), uniform, reduction="batchmean")
    expected = {
        "sft": losses["data"],
        "grad-ascent": -losses["data"],
        "grad-diff": losses["retain"] - losses["data"],
        "kl": losses["retain kl"] - losses["data"],
        "remember": losses["data alone"] + 5 * losses["retain uniform"],
    }[objective]
    parameters = list(small.model.parameters())
    expected_grads = torch.autograd.grad(expected, parameters)

    module = FusedObjective(delta, user.model, objective, 0.7)
    batches = {name: sample_batch([one.sample for one in some]) for name, some in sides.items()}
    counts = {name: len(batch.targets) for name, batch in batches.items()}
    loss = module(batches, counts)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert {id(p) for p in module.parameters()} == {id(p) for p in parameters}
    for found, wanted in zip(torch.autograd.grad(loss, parameters), expected_grads, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


def test_masked_places_do_not_count(folder):
    user = load_model(folder / "template", device="cpu", dtype=torch.float64)
    small = load_model(folder / "small", device="cpu", dtype=torch.float64)
    delta = load_delta(
        small, user.tokenizer, num_logits=user.num_logits, prompt_template=PROMPT_TEMPLATE
    )
    examples = read_examples(folder / "data.jsonl", limit=4)
    batches = [
        sample_batch(
            fitting_samples(user, examples.rows, PROMPT_TEMPLATE, delta, reencode=reencode).samples
        )
        for reencode in (True, False)
    ]
    exact = ~batches[1].tree.masked
    assert 0 < int(exact.sum()) < len(exact)
    whole, masked = (
        FusedObjective(delta, user.model, "sft", 1.0)({"data": batch}, {"data": count})
        for batch, count in zip(batches, (len(exact), int(exact.sum())), strict=True)
    )
    assert masked.item() != pytest.approx(whole.item(), rel=1e-6)


# --- A run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(folder, template):
    """An uninterrupted run."""
    run(folder, template, folder / "whole")
    return folder / "whole"


def test_a_run_learns_and_says_how(whole, folder):
    metrics = read_metrics(whole / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, 10))
    assert metrics[-1]["epoch"] == 3
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]
    card = read_card(whole)
    assert (card.prompt_form, card.alpha) == (PROMPT_TEMPLATE, 1.0)
    assert (card.unmapped, card.objective) == (None, "sft")
    assert card.training["sources"]["data"]["sha256"] == read_examples(folder / "data.jsonl").digest
    assert (whole / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not list(whole.rglob("*.bin"))
    assert not [path for path in whole.glob("*") if path.suffix in (".pt", ".pth", ".pkl")]


def test_a_trained_delta_is_loaded_as_its_card_says(whole, template, folder):
    delta = load_delta(whole, template.tokenizer, num_logits=template.num_logits)
    assert (delta.prompt_template, delta.alpha, delta.tensors.is_identity) == (
        PROMPT_TEMPLATE,
        1.0,
        True,
    )
    small = load_model(folder / "small", device="cpu")
    other = load_delta(whole, small.tokenizer, num_logits=small.num_logits)
    assert not other.tensors.is_identity


def test_a_run_with_another_seed_or_the_same(folder, template, whole, tmp_path):
    run(folder, template, tmp_path / "same")
    assert_same_weights(tmp_path / "same", whole)
    run(folder, template, tmp_path / "other", OPTIONS(seed=1))
    assert read_metrics(tmp_path / "other/metrics.jsonl") != read_metrics(whole / "metrics.jsonl")


def test_batches_that_make_a_step_together(folder, template, whole, tmp_path):
    run(
        folder,
        template,
        tmp_path / "out",
        OPTIONS(per_device_train_batch_size=2, gradient_accumulation_steps=2),
    )
    assert_same_weights(tmp_path / "out", whole, rtol=1e-3, atol=1e-4)
    objectives = [
        [row["loss"] for row in read_metrics(out / "metrics.jsonl")]
        for out in (tmp_path / "out", whole)
    ]
    assert objectives[0] == pytest.approx(objectives[1], rel=1e-4)


def test_kept_states_give_the_same_and_spare_the_template(
    folder, template, whole, tmp_path, monkeypatch
):
    run(folder, template, tmp_path / "one", keep_states=tmp_path / "states")
    assert_same_weights(tmp_path / "one", whole, rtol=1e-3, atol=1e-4)
    (path,) = (tmp_path / "states").iterdir()
    monkeypatch.setattr(
        "cmc_runtime.data.samples.hidden_states", lambda *_: pytest.fail("the template has run")
    )
    run(folder, template, tmp_path / "two", keep_states=tmp_path / "states")
    assert_same_weights(tmp_path / "two", tmp_path / "one")
    assert list((tmp_path / "states").iterdir()) == [path]


def test_what_remembers_is_to_be_subtracted(folder, template, tmp_path):
    """Its card says so, and the frozen model is not asked, and keeps no states."""
    states = {"keep_states": tmp_path / "states"}
    delta = run(folder, template, tmp_path / "out", objective="remember", **states)
    card = read_card(tmp_path / "out")
    assert (card.alpha, card.plausible, card.training["options"]["alpha"]) == (-0.8, 0.01, -0.8)
    ready = load_delta(tmp_path / "out", template.tokenizer, num_logits=template.num_logits)
    assert (ready.alpha, ready.limits) == (delta.alpha, delta.limits) == (-0.8, Limits(0.01))
    assert not (tmp_path / "states").exists()


def test_states_that_were_cut_off_are_made_anew(folder, template, whole, tmp_path):
    run(folder, template, tmp_path / "one", keep_states=tmp_path / "states")
    (path,) = (tmp_path / "states").iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    run(folder, template, tmp_path / "two", keep_states=tmp_path / "states")
    assert_same_weights(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize("objective", ["grad-ascent", "grad-diff", "kl", "remember"])
def test_unlearning_makes_the_data_less_likely(folder, template, tmp_path, objective):
    run(folder, template, tmp_path / "out", objective=objective)
    metrics = read_metrics(tmp_path / "out/metrics.jsonl")
    assert metrics[-1]["loss"] < metrics[0]["loss"]


def test_a_delta_with_another_tokenizer(folder, template, tmp_path):
    start = load_model(folder / "small", device="cpu", dtype=torch.float32)
    notes = []
    delta = run(folder, template, tmp_path / "out", start=start, note=notes.append)
    assert not delta.tensors.is_identity
    assert "built here" in notes[0]
    metrics = read_metrics(tmp_path / "out/metrics.jsonl")
    assert metrics[-1]["loss"] < 0.9 * metrics[0]["loss"]
    info = delta.token_map.info
    digests = {"dst_id": info.column_sha256["dst_id"]}
    expected = {"strategy": info.strategy, "sha256": digests}
    assert read_card(tmp_path / "out").training["map"] == expected
    with pytest.raises(
        OptionError, match=r"had another training\.map\.strategy\.name, 'first-token'"
    ):
        run(
            *(folder, template, tmp_path / "out"),
            start=start,
            token_map="pm-mined",
            resume=True,
        )


def test_activations_made_twice(folder, template, whole, tmp_path):
    run(folder, template, tmp_path / "out", OPTIONS(gradient_checkpointing=True))
    assert_same_weights(tmp_path / "out", whole, rtol=1e-4, atol=1e-5)


def test_matrices_in_bfloat16(folder, template, whole, tmp_path):
    run(folder, template, tmp_path / "out", OPTIONS(bf16=True))
    last = [read_metrics(out / "metrics.jsonl")[-1]["loss"] for out in (tmp_path / "out", whole)]
    assert last[0] == pytest.approx(last[1], rel=0.1)
    assert last[0] != last[1]


# --- Interruptions -------------------------------------------------------------------------------


class StopError(Exception):
    pass


@pytest.mark.parametrize("step", quick_first([5, 1, 8]))
def test_a_run_that_was_interrupted_goes_on_as_if_it_was_not(
    folder, template, whole, tmp_path, step
):
    def stop(what, done, _):
        if what == "training" and done == step:
            raise StopError

    output = tmp_path / "out"
    with pytest.raises(StopError):
        run(folder, template, output, progress=stop)
    run(folder, template, output, resume=True)
    assert_same_weights(output, whole)
    assert read_metrics(output / "metrics.jsonl") == read_metrics(whole / "metrics.jsonl")


def test_a_checkpoint_that_was_not_finished_is_passed_over(folder, template, whole, tmp_path):
    output = tmp_path / "out"
    run(folder, template, output)
    (output / "checkpoint-9" / "SHA256SUMS").unlink()
    (output / "checkpoint-old").mkdir()
    assert last_checkpoint(output).name == "checkpoint-6"
    run(folder, template, output, resume=True)
    assert_same_weights(output, whole)


def test_a_folder_with_a_run(folder, template, whole, tmp_path):
    with pytest.raises(OptionError, match="there is a run in it: resume it"):
        run(folder, template, whole)
    with pytest.raises(OptionError, match=r"had another training.options.epochs, 3 and not 4"):
        run(folder, template, whole, OPTIONS(num_train_epochs=4), resume=True)
    half = load_model(folder / "template", device="cpu", dtype=torch.bfloat16)
    with pytest.raises(OptionError, match=r"training.template.dtype, 'float32' and not 'bfloat16'"):
        run(folder, half, whole, start=new_delta(template, shape=None, layers=1), resume=True)


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ('{"map": null}', {"map": {"name": "a"}}, "another map.name, None and not 'a'"),
        ('{"map": {"name": "a"}}', {"map": None}, "another map.name, 'a' and not None"),
        ("{", {}, r"run\.json: damaged"),
    ],
)
def test_a_folder_with_another_run(tmp_path, before, now, message):
    (tmp_path / "run.json").write_text(before)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OptionError, match=message), begun_run(tmp_path, now, resume=True):
        pass


@pytest.mark.parametrize("resume", [False, True])
def test_a_start_that_failed_may_be_made_anew(folder, template, tmp_path, resume):
    def stop(*_):
        raise StopError

    for epochs in (3, 4):
        with pytest.raises(StopError):
            run(
                folder,
                template,
                tmp_path,
                OPTIONS(num_train_epochs=epochs),
                progress=stop,
                resume=resume,
            )
        begun = json.loads((tmp_path / "run.json").read_text())
        assert begun["training"]["options"]["epochs"] == epochs


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "name", ["config.json", "weights.safetensors", "checkpoint-3/trainer_state.json"]
)
def test_a_folder_with_a_model_that_is_no_run(tmp_path, name, resume):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(OptionError, match="there is a model in it: choose another folder"):
        check_output(tmp_path, resume=resume)


def test_lines_that_are_no_figures(tmp_path):
    row = {"step": 1, "epoch": 0.5, "loss": 2.0}
    lines = [b"null", b"[]", b'{"step": 1}', json.dumps(row).encode(), b"\xff", b'{"step": 2, "ep']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    assert read_metrics(tmp_path / "metrics.jsonl") == [row]


def test_a_loss_that_is_no_number(folder, template, tmp_path):
    start = new_delta(template, shape=None, layers=1)
    with torch.no_grad():
        start.model.get_decoder().layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(
        TrainingError, match=r"the loss is nan in step 1, rows \d+, \d+, \d+, \d+ of"
    ):
        run(folder, template, tmp_path / "out", start=start)


def test_a_disk_that_is_full(folder, template, whole, tmp_path, monkeypatch):
    output, calls = tmp_path / "out", []
    save = type(template.model).save_pretrained

    def fail_later(self, *arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, *arguments, **options)

    monkeypatch.setattr(type(template.model), "save_pretrained", fail_later)
    with pytest.raises(
        TrainingError, match="No space left on device; checkpoint-3 is as it was: make room"
    ):
        run(folder, template, output)
    monkeypatch.undo()
    assert last_checkpoint(output).name == "checkpoint-3"
    run(folder, template, output, resume=True)
    assert_same_weights(output, whole)


def test_a_disk_that_is_full_of_states(folder, template, tmp_path, monkeypatch):
    states, synced = tmp_path / "states", os.fsync

    def fail(file):
        if states.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced(file)

    monkeypatch.setattr(os, "fsync", fail)
    message = r"cannot keep the frozen model's states, 0\.0 GB: No space"
    with pytest.raises(StatesError, match=message):
        run(folder, template, tmp_path / "out", keep_states=states)
    assert list(states.iterdir()) == []


def test_a_folder_of_states_that_is_a_file(folder, template, tmp_path):
    with pytest.raises(StatesError, match=r"cannot keep the frozen model's states.*File exists"):
        run(folder, template, tmp_path / "out", keep_states=folder / "data.jsonl")


def test_a_delta_of_another_vocabulary(whole, template, folder, tmp_path):
    damaged = shutil.copytree(whole, tmp_path / "damaged")
    for path in (folder / "small").glob("tokenizer*"):
        shutil.copy(path, damaged)
    with pytest.raises(CardError, match="is of a delta model with another vocabulary"):
        load_delta(damaged, template.tokenizer, num_logits=template.num_logits)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"format_version": 1, "fingerprint": "", "alpha": []}',
        '{"format_version": 1, "fingerprint": "", "alpha": true}',
        f'{{"format_version": 1, "fingerprint": "", "alpha": 1{"0" * 400}}}',
        '{"format_version": 1, "fingerprint": "", "unmapped": "bogus"}',
        '{"format_version": 1, "fingerprint": "", "unmapped": []}',
        '{"format_version": 1}',
        '{"format_version": 2}',
    ],
)
def test_a_card_that_is_none(tmp_path, text):
    (tmp_path / "delta.json").write_text(text)
    with pytest.raises(CardError, match=r"delta\.json: "):
        read_card(tmp_path)


@pytest.mark.parametrize("objective", ["sft", "grad-diff"])
def test_rows_that_are_too_long_are_counted_once(folder, template, tmp_path, objective):
    examples = read_examples(folder / "data.jsonl")
    start = new_delta(template, shape=None, layers=1)
    options = OPTIONS(objective, num_train_epochs=1, max_length=20, per_device_train_batch_size=1)
    retain = None if objective == "sft" else examples
    train(template, start, examples, tmp_path / "out", options, retain=retain)
    used = len(read_metrics(tmp_path / "out/metrics.jsonl"))
    assert 0 < len(examples.skipped) == 12 - used < 12
    assert "of more than 20 tokens" in str(examples.skipped)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train_epochs": 0}, "num_train_epochs is 0; expected 1 or more"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; expected 0 to 10"),
        ({"alpha": float("inf")}, "alpha is inf"),
        ({"objective": "remember", "alpha": 1.0}, "alpha is 1.0, but .* is subtracted: expected a"),
        ({"objective": "remember", "alpha": 0}, "alpha is 0, but"),
        ({"alpha": -1e308}, r"alpha is -1e\+308; expected a finite number in float32"),
        (
            {"gradient_accumulation_steps": 2**31},
            r"gradient_accumulation_steps is 2147483648; expected less than 2\*\*31",
        ),
        ({"prompt_template": "Q"}, "the prompt template is 'Q'"),
        ({"delta_prompt_template": ""}, "the prompt template is ''"),
        ({"seed": -1}, "seed is -1; expected 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296"),
    ],
)
def test_options_out_of_their_range(options, message):
    with pytest.raises(OptionError, match=message):
        TrainingOptions(**options)


def test_an_objective_without_data_to_retain(folder, template, tmp_path):
    start = LoadedModel(delta_of_layers(template.model, 1), template.tokenizer, "new")
    with pytest.raises(OptionError, match="objective kl needs data to retain as well"):
        train(template, start, read_examples(folder / "data.jsonl"), tmp_path, OPTIONS("kl"))


# --- The command ---------------------------------------------------------------------------------

command = partial(command_line.run, program="cmc-runtime")


CONFIG = f"""
template = "template"
delta-layers = 1
data = "data.jsonl"
prompt_template = {json.dumps(PROMPT_TEMPLATE)}
epochs = 3
lr = 0.01
"""


def test_the_command_with_a_config(folder, whole):
    (folder / "run.toml").write_text(CONFIG)
    done = command("train", "--config", "run.toml", "--output", "cli", "--json", cwd=folder)
    document = json.loads(done.stdout)
    assert list(document) == ["output", "parameters", "steps", "loss", "seconds", "kept"]
    assert (document["steps"], document["kept"]) == (9, {"step": 9})
    assert_same_weights(folder / "cli", whole)


@pytest.mark.parametrize("name", ["epoch", "config"])
def test_a_config_with_an_unknown_option(folder, name):
    (folder / "unknown.toml").write_text(f'{CONFIG}{name} = "a"\n')
    done = command("train", "--config", "unknown.toml", "--output", "x", cwd=folder)
    said = f"cmc-runtime: unknown.toml: there is no option '{name}'\n"
    assert (done.status, done.stderr) == (2, said)


def test_a_config_with_both_names_of_an_option(folder):
    (folder / "twice.toml").write_text('form = "a {prompt}"\nprompt_template = "b {prompt}"\n')
    done = command("train", "--config", "twice.toml", "--output", "x", cwd=folder)
    said = "cmc-runtime: twice.toml: 'form' and 'prompt_template' are one option\n"
    assert (done.status, done.stderr) == (2, said)


@pytest.mark.slow
def test_a_command_that_was_killed(folder, whole, tmp_path):
    (folder / "killed.toml").write_text(CONFIG)
    arguments = ["train", "--config", "killed.toml", "--output", str(tmp_path / "out")]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "cmc_runtime", *arguments], cwd=folder, env=environ
    ) as process:
        while process.poll() is None and len(read_metrics(tmp_path / "out/metrics.jsonl")) < 4:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert command(*arguments, "--resume", cwd=folder).status == 0
    assert_same_weights(tmp_path / "out", whole)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(folder, whole, tmp_path):
    (folder / "two.toml").write_text(CONFIG + "batch-size = 2\n")
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    arguments = ["train", "--config", "two.toml", "--output", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "cmc_runtime", *arguments, "--device", "cpu"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("steps in") == 1
    losses = [
        [row["loss"] for row in read_metrics(out / "metrics.jsonl")]
        for out in (tmp_path / "out", whole)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert_same_weights(tmp_path / "out", whole, rtol=1e-3, atol=1e-4)


def test_a_new_delta_with_another_tokenizer(folder, tmp_path):
    arguments = ["--template", "template", "--data", "data.jsonl", "--output", tmp_path / "out"]
    shape = ["--delta-config", "small/config.json", "--delta-tokenizer", "small"]
    template = ["--delta-form", r"Q: {prompt}\nA:"]
    done = command(
        "train", *arguments, *shape, *template, "--epochs", 1, "--device", "cpu", cwd=folder
    )
    assert done.status == 0, done.stderr
    assert read_card(tmp_path / "out").prompt_form == "Q: {prompt}\nA:"
    assert "map: template -> small, built here" in done.stderr
    made, small = load_model(tmp_path / "out", device="cpu"), load_model(folder / "small")
    assert made.tokenizer.get_vocab() == small.tokenizer.get_vocab()
    assert made.num_logits == len(small.tokenizer)
    (tmp_path / "out/metrics.jsonl").write_text("null\n")
    again = command(
        *("train", *arguments, *shape, *template, "--epochs", 1, "--device", "cpu", "--resume"),
        cwd=folder,
    )
    assert again.status == 0, again.stderr
    assert len(read_metrics(tmp_path / "out/metrics.jsonl")) == 3


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            [],
            2,
            "give one of --delta, --delta-config, --delta-layers, --delta-adapter; there is none",
        ),
        (["--delta", "small", "--delta-layers", 1], 2, "there is --delta and --delta-layers"),
        (["--delta-layers", 1, "--delta-tokenizer", "small"], 2, "for a delta of --delta-config"),
        (
            ["--delta-config", "small/config.json", "--delta-tokenizer", "no"],
            *(1, "no: no model of that name, and no such file"),
        ),
        (["--delta-layers", 9], 2, "the delta cannot have 9 layers"),
        (["--delta-layers", 0], 2, "the delta cannot have 0 layers"),
        (["--delta-layers", 1, "--objective", "kl"], 2, "needs data to retain as well"),
        (["--delta-layers", 1, "--retain", "retain.jsonl"], 2, "retains nothing: leave out"),
        (["--delta-layers", 1, "--output", ""], 2, "--output is empty; give a folder"),
        (["--delta", "small", "--output", "small"], 2, "there is a model in it: choose another"),
        (["--delta-layers", 1, "--delta-prompt-template", ""], 2, "the prompt template is ''"),
        (
            ["--delta-layers", 1, "--epochs", 10**9],
            2,
            "num_train_epochs is 1000000000 of 12 rows; expected",
        ),
        (["--delta-layers", 1, "--batch-size", 2**64], 2, "expected less than 2**31"),
        (["--delta-layers", 1, "--limit", 2**64, "--max-length", 1], 1, "no usable row"),
        (["--delta", "small", "--map", "no.arrow"], 1, "no.arrow: cannot read"),
    ],
)
def test_what_the_command_refuses(folder, arguments, status, message, tmp_path):
    base = ["--template", "template", "--data", "data.jsonl", "--output", tmp_path / "out"]
    done = command("train", *base, *arguments, cwd=folder)
    assert (done.status, done.stdout) == (status, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "WORLD_SIZE"])
def test_a_number_of_a_process_that_is_none(folder, tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "x")
    arguments = ["--template", "template", "--data", "data.jsonl", "--delta-layers", 1]
    done = command("train", *arguments, "--output", tmp_path / "out", cwd=folder)
    message = f"cmc-runtime: the variable {name} is 'x'; expected a number: unset it\n"
    assert (done.status, done.stderr) == (2, message)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        "cmc_runtime.training.run_folder.check_output",
        "cmc_runtime.models.load.load_model",
        "cmc_runtime.training.train.fitting_samples",
        "cmc_runtime.training.trainer.DeltaTrainer._save_checkpoint",
    ],
)
def test_ctrl_c_says_how_to_go_on(folder, whole, tmp_path, monkeypatch, moment):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    (folder / "interrupted.toml").write_text(CONFIG)
    arguments = ["train", "--config", "interrupted.toml", "--output", tmp_path / "new/out"]
    monkeypatch.setattr(moment, interrupt)
    done = command(*arguments, cwd=folder)
    assert done.status == 130
    last = done.stderr.splitlines()[-1]
    assert last == "cmc-runtime: interrupted: give the same command with --resume to go on"
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    assert command(*arguments, "--resume", cwd=folder).status == 0
    assert_same_weights(tmp_path / "new/out", whole)


def test_a_folder_that_cannot_be(folder):
    arguments = ["--template", "template", "--data", "data.jsonl", "--delta-layers", 1]
    done = command("train", *arguments, "--output", "data.jsonl", cwd=folder)
    assert done.status == 2
    assert done.stderr == "cmc-runtime: data.jsonl: cannot be a folder: File exists\n"


def test_data_without_responses(folder, tmp_path):
    (folder / "empty.jsonl").write_text('{"question": "a"}\n')
    arguments = ["--template", "template", "--data", "empty.jsonl", "--output", tmp_path / "out"]
    done = command("train", *arguments, "--delta-layers", 1, cwd=folder)
    assert done.status == 1
    assert "empty.jsonl" in done.stderr
    assert done.stderr.count("\n") == 1
