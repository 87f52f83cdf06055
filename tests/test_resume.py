"""Runs that go on: what they check, what they refuse and how, and kept states."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import quick_first
from tiny_models import save_model
from training_runs import OPTIONS, assert_same_weights, run, save_rows

from cmc_runtime import load_model
from cmc_runtime.errors import TrainingError
from cmc_runtime.models.file_digests import SUMS, complete
from cmc_runtime.training.checkpoints import last_checkpoint
from cmc_runtime.training.frozen_states import frozen_states
from cmc_runtime.training.new_delta import new_delta
from cmc_runtime.training.record import read_metrics
from pm_mined import OptionError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("resume")
    save_model(made / "template", "byte-level", seed=0)
    save_rows(made / "data.jsonl", 12)
    return made


@pytest.fixture(scope="module")
def template(folder):
    return load_model(folder / "template", device="cpu")


@pytest.fixture(scope="module")
def whole(folder, template):
    run(folder, template, folder / "whole")
    return folder / "whole"


@pytest.fixture
def output(whole, tmp_path):
    """A copy of the finished run, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


# --- Damaged checkpoints -------------------------------------------------------------------------

FILES = [
    "config.json",
    "model.safetensors",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "square.safetensors",
    "tokenizer.json",
    "trainer_state.json",
]
UNREAD = ("config.json", "tokenizer.json")  # when a run goes on


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def change(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [Path.unlink, cut, change])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_with_the_way_out(folder, template, output, name, damage):
    damage(output / "checkpoint-9" / name)
    with pytest.raises(TrainingError) as caught:
        run(folder, template, output, resume=True)
    fault = "is missing" if damage is Path.unlink else "is not as it was written"
    assert str(caught.value) == (
        f"{output}/checkpoint-9: damaged: {name} {fault}; delete checkpoint-9 and resume from "
        "checkpoint-6"
    )


@pytest.mark.parametrize("text", ["", "optimizer.pt", "\xff", "0  ../outside\n"])
def test_a_damaged_list_of_digests(folder, template, output, text):
    (output / "checkpoint-9" / SUMS).write_text(text, "latin-1")
    with pytest.raises(TrainingError, match=r"checkpoint-9: damaged: .*resume from checkpoint-6$"):
        run(folder, template, output, resume=True)


@pytest.mark.parametrize("name", [name for name in FILES if name not in UNREAD])
def test_what_cannot_be_loaded_though_it_is_as_it_was_written(folder, template, output, name):
    shutil.rmtree(output / "checkpoint-9")
    checkpoint = output / "checkpoint-6"
    (checkpoint / name).write_bytes(b"{}")
    (checkpoint / SUMS).unlink()
    complete(checkpoint)
    with pytest.raises(TrainingError) as caught:
        run(folder, template, output, resume=True)
    said = str(caught.value)
    assert said.startswith(f"{checkpoint}: cannot be loaded: ")
    assert said.endswith("; delete checkpoint-6 and begin anew: there is no other")
    assert "\n" not in said


def test_the_way_out_works(folder, template, whole, output):
    (output / "checkpoint-9/optimizer.pt").unlink()
    shutil.rmtree(output / "checkpoint-9")
    run(folder, template, output, resume=True)
    assert_same_weights(output, whole)


def test_no_checkpoint_is_whole(folder, template, output):
    for checkpoint in output.glob("checkpoint-*"):
        cut(checkpoint / "scheduler.pt")
    with pytest.raises(TrainingError, match=r"delete checkpoint-9 and begin anew: there is no"):
        run(folder, template, output, resume=True)


def test_an_unfinished_checkpoint_is_passed_over_and_removed(folder, template, whole, output):
    (output / "checkpoint-9" / SUMS).unlink()
    (output / "checkpoint-12").mkdir()
    assert last_checkpoint(output).name == "checkpoint-6"
    run(folder, template, output, resume=True)
    assert_same_weights(output, whole)
    assert not (output / "checkpoint-12").exists()


NAN = '{"step": 2, "epoch": NaN, "loss": 1.0}\n'


@pytest.mark.parametrize("text", ["", "\xff\0", NAN, '{"step": 1e999, "epoch": 1, "loss": 1}'])
def test_a_damaged_record_is_made_anew(folder, template, whole, output, text):
    (output / "metrics.jsonl").write_text(text, "latin-1")
    assert read_metrics(output / "metrics.jsonl") == []
    run(folder, template, output, resume=True)
    assert (output / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("text", ["", "\xff", "[", "[" * 100_000])
def test_a_damaged_description(folder, template, output, text):
    (output / "run.json").write_text(text, "latin-1")
    with pytest.raises(OptionError, match=r"run\.json: damaged: .*; choose another folder"):
        run(folder, template, output, resume=True)


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"training": 3}'])
def test_a_description_of_something_else(folder, template, output, text):
    (output / "run.json").write_text(text)
    with pytest.raises(OptionError, match="the run in it had another "):
        run(folder, template, output, resume=True)


# --- Another run ---------------------------------------------------------------------------------


def changed_model(folder, tmp_path, **fields):
    copy = shutil.copytree(folder / "template", tmp_path / "template")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | fields))
    return load_model(copy, device="cpu")


def disturb(loaded):
    with torch.no_grad():
        loaded.model.get_decoder().layers[0].mlp.up_proj.weight[0, 0] += 1
    return loaded


def with_spec(loaded, spec):
    """A model that claims to be from another place."""
    return type(loaded)(loaded.model, loaded.tokenizer, spec)


@pytest.mark.parametrize("what", ["weights", "config"])
def test_another_frozen_model_of_the_same_name(folder, template, output, tmp_path, what):
    fields = {"rms_norm_eps": 1e-3} if what == "config" else {}
    other = changed_model(folder, tmp_path, **fields)
    other = with_spec(disturb(other) if what == "weights" else other, template.spec)
    start = new_delta(template, shape=None, layers=1)
    with pytest.raises(OptionError, match="another frozen_model_sha256"):
        run(folder, other, output, start=start, resume=True)


def test_another_start(folder, template, output):
    start = disturb(new_delta(template, shape=None, layers=1))
    with pytest.raises(OptionError, match="another start_sha256"):
        run(folder, template, output, start=start, resume=True)


# --- Failures ------------------------------------------------------------------------------------


def full_disk():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_of_torch():
    return RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")


@pytest.mark.slow
@pytest.mark.parametrize("error", [full_disk, full_disk_of_torch, KeyboardInterrupt])
@pytest.mark.parametrize("call", [1, 4])
def test_a_checkpoint_that_cannot_be_written(
    folder, template, whole, tmp_path, monkeypatch, error, call
):
    save, calls = torch.save, []

    def fail_later(*arguments, **options):
        calls.append(arguments)
        if len(calls) == call:
            raise error()
        save(*arguments, **options)

    monkeypatch.setattr(torch, "save", fail_later)
    output = tmp_path / "out"
    with pytest.raises((TrainingError, KeyboardInterrupt)) as caught:
        run(folder, template, output)
    monkeypatch.undo()
    kept = ["checkpoint-3"] if call > 3 else []
    assert [path.name for path in output.glob("checkpoint-*")] == kept
    assert output.exists() == bool(kept)
    if error is not KeyboardInterrupt:
        assert "cannot be written: " in str(caught.value)
        assert "make room, and resume" in str(caught.value)
        assert ("checkpoint-3 is as it was" if kept else "no checkpoint yet") in str(caught.value)
    run(folder, template, output, resume=True)
    assert_same_weights(output, whole)


def test_a_failed_start_leaves_no_new_folder(folder, template, tmp_path):
    start = new_delta(template, shape=None, layers=1)
    start.model.get_decoder().norm.weight.data[:] = float("nan")
    with pytest.raises(TrainingError, match="the loss is nan"):
        run(folder, template, tmp_path / "a/b/out", start=start)
    assert list(tmp_path.iterdir()) == []


def test_more_rows_than_can_be(folder, template, tmp_path):
    with pytest.raises(OptionError, match=r"num_train_epochs is 1000000000 .* at most 8,333,333"):
        run(folder, template, tmp_path / "out", OPTIONS(num_train_epochs=10**9))
    assert list(tmp_path.iterdir()) == []


# --- Kept states ---------------------------------------------------------------------------------


def kept(folder, template, tmp_path, name):
    run(
        folder,
        template,
        tmp_path / name,
        OPTIONS(num_train_epochs=1),
        keep_states=tmp_path / "states",
    )
    return sorted((tmp_path / "states").iterdir())


def punch(path):
    """A hole of zeros, as an unfinished row leaves."""
    content = path.read_bytes()
    path.write_bytes(content[:-256] + bytes(256))


def change_header(path):
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"'))


@pytest.mark.slow
@pytest.mark.parametrize("damage", [punch, cut, change, change_header])
def test_damaged_states_are_made_anew(folder, template, tmp_path, damage):
    (path,) = kept(folder, template, tmp_path, "one")
    good = path.read_bytes()
    damage(path)
    assert path.read_bytes() != good
    assert kept(folder, template, tmp_path, "two") == [path]
    assert path.read_bytes() == good
    assert_same_weights(tmp_path / "one", tmp_path / "two")


ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}


@pytest.mark.parametrize("fields", quick_first([{"rms_norm_eps": 1e-3}, ROPE]))
def test_states_of_another_configuration(folder, template, tmp_path, fields):
    kept(folder, template, tmp_path, "one")
    other = changed_model(folder, tmp_path, **fields)
    assert len(kept(folder, other, tmp_path, "two")) == 2


def test_two_trainings_that_make_the_same_states(folder, template, tmp_path):
    """The second one begins and ends while the first one writes."""
    from cmc_runtime.data.examples import read_examples
    from cmc_runtime.data.samples import fitting_samples

    rows = read_examples(folder / "data.jsonl").rows
    samples = fitting_samples(template, rows, "{prompt}").samples
    make = (tmp_path / "states", template.model, "digest", samples)
    others = []

    def interrupt(done, total):
        if not others:
            others.append(None)
            others.append(frozen_states(*make, batch_size=2))

    first = frozen_states(*make, batch_size=2, progress=interrupt)
    everything = range(len(samples))
    assert torch.equal(first.of(everything), others[1].of(everything))
    assert (first.of(everything).abs().sum(1) > 0).all()
    assert len(list((tmp_path / "states").iterdir())) == 1
