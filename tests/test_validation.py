"""Validation rows in training: their loss, early stopping, the best checkpoint, and reports."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import command_line
import pytest
import torch
from tiny_models import save_model
from torch.nn.functional import cross_entropy
from training_runs import OPTIONS, PROMPT_TEMPLATE, assert_same_weights, run, save_rows

from cmc_runtime import load_delta, load_model
from cmc_runtime.data.examples import read_examples
from cmc_runtime.data.samples import SampleMaker
from cmc_runtime.delta_card import read_card
from cmc_runtime.errors import TrainingError
from cmc_runtime.training.options import TrainingOptions
from cmc_runtime.training.record import read_metrics
from cmc_runtime.training.trainer import DeltaTrainer
from cmc_runtime.training.validation import split, validation_rows
from pm_mined import OptionError

# The rows to validate on have other answers: their loss falls for some steps, and then rises.
VALIDATED = partial(
    OPTIONS,
    num_train_epochs=10,
    learning_rate=0.03,
    eval_steps=2,
    early_stopping_patience=2,
    load_best_model_at_end=True,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("validation")
    save_model(made / "template", "byte-level", seed=0)
    save_rows(made / "data.jsonl", 12)
    save_rows(made / "eval.jsonl", 5, shift=3)
    return made


@pytest.fixture(scope="module")
def template(folder):
    return load_model(folder / "template", device="cpu")


@pytest.fixture(scope="module")
def eval_data(folder):
    return read_examples(folder / "eval.jsonl")


@pytest.fixture(scope="module")
def whole(folder, template, eval_data):
    """An uninterrupted run, which stops early."""
    run(folder, template, folder / "whole", VALIDATED(), eval_data=eval_data)
    return folder / "whole"


def loss_by_hand(template, folder, examples):
    """The mean over all tokens of all rows, of plain forwards."""
    delta = load_delta(folder, template.tokenizer, num_logits=template.num_logits)
    maker = SampleMaker(template, PROMPT_TEMPLATE, delta)
    fused, targets = [], []
    for row in examples.rows:
        sample = maker.make(row.prompt, row.response, row.row)
        ids = torch.tensor([sample.ids])
        logits = sum(one(ids).logits[0].detach() for one in (template.model, delta.loaded.model))
        fused.append(logits[sample.num_prompt - 1 : -1])
        targets.append(ids[0, sample.num_prompt :])
    assert len({len(one) for one in targets}) > 1  # or a mean of means is the same
    fused, targets = torch.cat(fused), torch.cat(targets)
    accuracy = (fused.argmax(1) == targets).double().mean()
    return cross_entropy(fused.double(), targets).item(), accuracy.item()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_loss_is_the_mean_over_all_tokens(folder, template, eval_data, tmp_path, batch_size):
    options = OPTIONS(num_train_epochs=1, per_device_train_batch_size=batch_size)
    run(folder, template, tmp_path / "out", options, eval_data=eval_data)
    (found,) = read_metrics(tmp_path / "out/metrics.jsonl", "eval_loss")
    expected = loss_by_hand(template, tmp_path / "out", eval_data)
    assert (found["eval_loss"], found["eval_accuracy"]) == pytest.approx(expected, rel=1e-5)
    assert found["epoch"] == 1
    kept = read_card(tmp_path / "out").training["kept"]
    assert kept == {name: found[name] for name in ("step", "eval_loss", "eval_accuracy")}


def test_it_stops_early_and_keeps_the_best(whole, template, eval_data):
    validated = read_metrics(whole / "metrics.jsonl", "eval_loss")
    best = min(validated, key=lambda row: row["eval_loss"])
    assert validated.index(best) == len(validated) - 3  # two in a row were not better
    assert validated[-1]["step"] < 30 == 10 * 3
    kept = read_card(whole).training["kept"]
    assert (kept["step"], kept["eval_loss"]) == (best["step"], best["eval_loss"])
    assert_same_weights(whole, whole / f"checkpoint-{best['step']}")
    assert loss_by_hand(template, whole, eval_data)[0] == pytest.approx(best["eval_loss"], rel=1e-5)
    steps = {best["step"], validated[-1]["step"]}
    assert {path.name for path in whole.glob("checkpoint-*")} == {f"checkpoint-{i}" for i in steps}


def test_accuracy_as_the_metric_is_better_where_it_is_higher(folder, template, tmp_path):
    options = OPTIONS(metric_for_best_model="accuracy", load_best_model_at_end=True)
    data = read_examples(folder / "data.jsonl")
    run(folder, template, tmp_path / "out", options, eval_data=data)
    found = [
        row["eval_accuracy"] for row in read_metrics(tmp_path / "out/metrics.jsonl", "eval_loss")
    ]
    assert read_card(tmp_path / "out").training["kept"]["eval_accuracy"] == max(found)


class StopError(Exception):
    pass


def stop(*_):
    raise StopError


def assert_same_run(one, other):
    assert_same_weights(one, other)
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    kept, expected = (read_card(run).training["kept"] for run in (one, other))
    assert kept == expected


@pytest.mark.parametrize("step", [3, 5])
def test_an_interrupted_run_goes_on_as_if_it_was_not(
    folder, template, eval_data, whole, tmp_path, step
):
    def stop_at(what, done, _):
        if what == "training" and done == step:
            raise StopError

    made = folder, template, tmp_path / "out", VALIDATED()
    with pytest.raises(StopError):
        run(*made, eval_data=eval_data, progress=stop_at)
    run(*made, eval_data=eval_data, resume=True)
    assert_same_run(tmp_path / "out", whole)


def test_a_run_that_had_stopped_early_stays_stopped(
    folder, template, eval_data, whole, tmp_path, monkeypatch
):
    """Killed after its last checkpoint, and before the delta is saved; then its folder is moved."""
    with monkeypatch.context() as patch:
        patch.setattr(DeltaTrainer, "save_delta", stop)
        with pytest.raises(StopError):
            run(folder, template, tmp_path / "first", VALIDATED(), eval_data=eval_data)
    output = Path(shutil.move(tmp_path / "first", tmp_path / "out"))
    run(folder, template, output, VALIDATED(), eval_data=eval_data, resume=True)
    assert_same_run(output, whole)


def test_a_best_checkpoint_that_is_damaged(folder, template, eval_data, whole, tmp_path):
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    best = output / f"checkpoint-{read_card(whole).training['kept']['step']}"
    (best / "model.safetensors").write_bytes(b"")
    with pytest.raises(TrainingError, match=f"{best.name}: damaged: model.safetensors is not as"):
        run(folder, template, output, VALIDATED(), eval_data=eval_data, resume=True)


def test_other_rows_to_validate_on_are_another_run(folder, template, whole):
    other = read_examples(folder / "eval.jsonl", limit=4)
    with pytest.raises(OptionError, match=r"had another training\.sources\.eval\.rows, 5 and not"):
        run(folder, template, whole, VALIDATED(), eval_data=other, resume=True)


def test_a_loss_that_is_no_number(folder, template, eval_data, tmp_path, monkeypatch):
    nan = torch.full((1, 3), float("nan"))
    monkeypatch.setattr(
        "cmc_runtime.training.objectives.FusedObjective.sums",
        lambda _, batch: nan.expand(len(batch.rows), 3).contiguous(),
    )
    with pytest.raises(TrainingError, match="the validation loss is nan"):
        run(folder, template, tmp_path / "out", eval_data=eval_data)


def test_a_share_is_held_out(folder, template, tmp_path):
    data = read_examples(folder / "data.jsonl")
    trained, held_out = split(data, 0.25, seed=0)
    assert (len(trained.rows), len(held_out.rows)) == (9, 3)
    assert sorted(trained.rows + held_out.rows, key=lambda row: row.row) == data.rows
    assert split(data, 0.25, seed=0)[1].rows == held_out.rows
    assert split(data, 0.25, seed=1)[1].rows != held_out.rows
    run(folder, template, tmp_path / "out", OPTIONS(num_train_epochs=1, eval_split=0.25))
    sources = read_card(tmp_path / "out").training["sources"]
    assert sources["data"] == {"rows": 9, "sha256": trained.digest}
    assert sources["eval"] == {"rows": 3, "sha256": held_out.digest}


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({"eval_split": 0.2}, True, "give validation rows, or the share eval_split"),
        ({"eval_split": 0.2, "objective": "grad-ascent"}, False, "makes a model forget the data"),
        ({"eval_split": 0.01}, False, "eval_split is 0.01 of 12 rows: that is 0"),
        ({"eval_steps": 2}, False, "eval_steps needs validation: give rows, or eval_split"),
        ({"early_stopping_patience": 2}, False, "early_stopping_patience needs validation"),
        ({"load_best_model_at_end": True}, False, "load_best_model_at_end needs validation"),
    ],
)
def test_options_that_do_not_fit_the_rows(
    folder, template, eval_data, tmp_path, options, given, message
):
    rows = eval_data if given else None
    with pytest.raises(OptionError, match=message):
        run(folder, template, tmp_path / "out", OPTIONS(**options), eval_data=rows)


def test_what_is_to_be_forgotten_is_not_held_out(folder):
    rows = read_examples(folder / "data.jsonl")
    with pytest.raises(OptionError, match="remember makes a model forget the data"):
        validation_rows(rows, None, OPTIONS("remember", eval_split=0.25))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_split": 1.0}, "eval_split is 1.0; expected a share between 0 and 1"),
        ({"eval_steps": 0}, "eval_steps is 0; expected 1 or more"),
        ({"early_stopping_patience": 0}, "early_stopping_patience is 0; expected 1 or more"),
        (
            {"load_best_model_at_end": True, "save_steps": 4, "eval_steps": 2},
            "save_steps is 4 and eval_steps 2; with load_best_model_at_end",
        ),
        ({"report_to": ["nobody"]}, "report_to nobody: nobody is not supported, only .*wandb"),
    ],
)
def test_options_out_of_their_range(options, message):
    with pytest.raises(OptionError, match=message):
        TrainingOptions(**options)


def test_a_report_without_its_package(monkeypatch):
    monkeypatch.setattr(
        "transformers.integrations.integration_utils.is_wandb_available", lambda: False
    )
    with pytest.raises(
        OptionError, match="report_to wandb: WandbCallback requires wandb to be"
    ) as e:
        TrainingOptions(report_to=["wandb"])
    assert "\n" not in str(e.value)


# --- The command ---------------------------------------------------------------------------------

command = partial(command_line.run, program="cmc-runtime")

CONFIG = f"""
template = "template"
delta-layers = 1
data = "data.jsonl"
eval-data = "eval.jsonl"
prompt_template = {json.dumps(PROMPT_TEMPLATE)}
num_train_epochs = 10
learning_rate = 0.03
eval_steps = 2
early_stopping_patience = 2
load_best_model_at_end = true
"""


def test_the_command_reports(folder, whole, tmp_path):
    (folder / "run.toml").write_text(CONFIG + 'report_to = "tensorboard"\n')
    output = tmp_path / "out"
    done = command("train", "--config", "run.toml", "--output", output, "--json", cwd=folder)
    assert done.status == 0, done.stderr
    assert_same_run(output, whole)
    document = json.loads(done.stdout)
    assert document["kept"] == read_card(whole).training["kept"]
    validated = read_metrics(whole / "metrics.jsonl", "eval_loss")
    assert document["steps"] == validated[-1]["step"]
    notes = re.findall(r"note: step (\d+): validation loss (\S+), accuracy \S+\n", done.stderr)
    assert notes == [(str(row["step"]), f"{row['eval_loss']:.4f}") for row in validated]
    (events,) = (output / "runs").rglob("events.out.tfevents.*")
    content = events.read_bytes()
    assert all(tag in content for tag in (b"train/loss", b"eval/loss", b"train/epoch"))


def test_the_command_says_what_is_kept(folder, tmp_path):
    arguments = ["--template", "template", "--data", "data.jsonl", "--delta-layers", 1]
    done = command(
        *("train", *arguments, "--output", tmp_path / "out", "--epochs", 1, "--eval-split", 0.3),
        cwd=folder,
    )
    assert re.search(r"\nvalidation loss  \d+\.\d{4}, of step 2, which is kept\n", done.stdout)


@pytest.mark.slow
def test_two_processes_validate_as_one(folder, whole, tmp_path):
    """Five rows are no multiple of two: none may count twice."""
    (folder / "two.toml").write_text(CONFIG + "per_device_train_batch_size = 2\n")
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
    found, expected = (
        [row["eval_loss"] for row in read_metrics(out / "metrics.jsonl", "eval_loss")]
        for out in (tmp_path / "out", whole)
    )
    assert found == pytest.approx(expected, rel=1e-4)
    assert done.stderr.count("note: step 2: ") == 1
    assert_same_weights(tmp_path / "out", whole, rtol=1e-2, atol=1e-3)
