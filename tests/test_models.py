"""Models from folders, GGUF files and the Hub's cache: what loads, and what is refused and how."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_tokenizers as tiny
import torch
from tiny_models import write_gguf
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cmc_runtime.errors import ModelError
from cmc_runtime.models import gguf_files
from cmc_runtime.models.load import cache_keyword, load_model
from pm_mined import VocabularyError, load_vocabulary

LOGITS = 416  # some more than the tokenizer has tokens


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """A cache of its own for converted models."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model folder as transformers writes it; not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=LOGITS,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tiny.byte_level_bpe()).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def error_of(spec):
    with pytest.raises(ModelError) as caught:
        load_model(spec)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{spec}: ")
    return message


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_folder(saved, capfd):
    loaded = load_model(str(saved), device="cpu")
    assert loaded.num_logits == LOGITS
    assert loaded.model.dtype == torch.bfloat16
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert loaded.tokenizer.decode(loaded.tokenizer("the quick 🙂")["input_ids"]) == "the quick 🙂"
    assert capfd.readouterr() == ("", "")


def test_the_dtype_asked_for(saved):
    assert load_model(saved, device="cpu", dtype=torch.float64).model.dtype == torch.float64


def test_its_spec_is_one_for_maps(saved, monkeypatch):
    """A folder that is called like a vocabulary of the registry is the folder all the same."""
    monkeypatch.chdir(saved.parent)
    Path("llama").symlink_to(saved)
    vocabulary = load_vocabulary(load_model("llama", device="cpu").spec)
    assert vocabulary.fingerprint == load_vocabulary(saved).fingerprint


def test_a_gguf_file(tmp_path, capfd):
    pytest.importorskip("accelerate")
    path = write_gguf(tmp_path / "tiny.gguf")
    loaded = load_model(path, device="cpu")
    vocabulary = load_vocabulary(loaded.spec)
    assert loaded.num_logits == len(vocabulary) == len(loaded.tokenizer)
    assert loaded.model.dtype == torch.float32
    ids = torch.tensor([loaded.tokenizer("the quick")["input_ids"]])
    assert loaded.model(ids).logits.isfinite().all()
    assert capfd.readouterr() == ("", "")


def test_gguf_libraries_that_are_missing(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(gguf_files, "find_spec", lambda name: None)
    assert "run `pip install gguf accelerate`" in error_of(path)


def test_gguf_of_an_unknown_architecture(tmp_path):
    pytest.importorskip("accelerate")
    message = error_of(write_gguf(tmp_path / "new.gguf", "brand-new"))
    assert "does not know it (`pip install -U transformers`)" in message
    assert "brand-new" in message


@pytest.mark.parametrize("length", [0, 3, 100, 5000])
def test_a_gguf_file_that_is_cut_off(tmp_path, length):
    pytest.importorskip("accelerate")
    path = write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:length])
    assert "cannot load it" in error_of(path)


@pytest.mark.parametrize("spec", ["/no/such/folder", "./a/b", "a/b.gguf", "a/b/c", ".a/b"])
def test_a_path_that_does_not_exist(spec):
    assert error_of(spec) == f"{spec}: no such file or folder"


@pytest.mark.parametrize("spec", ["nowhere", ""])
def test_a_name_that_no_model_has(spec):
    message = error_of(spec)
    assert "no model of that name, and no such file; give a folder" in message
    assert "a Hub repository (owner/name) or a packaged model (smollm2-135m" in message


def test_a_name_that_a_packaged_model_nearly_has():
    assert "did you mean smollm2-135m?" in error_of("smollm-135m")


def test_a_path_that_no_file_can_have():
    assert error_of("x" * 300) == f"{'x' * 300}: cannot read: File name too long"


def test_a_file_that_is_no_model(saved):
    assert "give a folder, a `.gguf` file or a Hub repository" in error_of(
        saved / "model.safetensors"
    )


def test_a_folder_without_a_model(tmp_path):
    assert "has no config.json" in error_of(tmp_path)


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "must be in safetensors, but it has none" in error_of(folder)


def test_weights_that_are_a_git_lfs_pointer(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "model.safetensors is a Git LFS pointer: run `git lfs pull`" in error_of(folder)


def test_pickles_are_not_read(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    assert "it has only pickles (pytorch_model.bin)" in error_of(folder)


def test_weights_that_are_cut_off(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "cannot load it" in error_of(folder)


def test_weights_that_are_not_all_there(folder):
    change(folder / "config.json", num_hidden_layers=3)
    assert "lacks 9 of its weights, such as model.layers.2." in error_of(folder)


def test_weights_of_another_shape(folder):
    change(folder / "config.json", intermediate_size=32)
    assert "do not have the shapes that its config.json says" in error_of(folder)


def test_an_unknown_architecture(folder):
    change(folder / "config.json", model_type="brand-new")
    message = error_of(folder)
    assert "does not know it (`pip install -U transformers`)" in message
    assert "brand-new" in message


def test_code_of_a_model_is_not_run(folder):
    classes = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    change(folder / "config.json", model_type="brand-new", auto_map=classes)
    (folder / "code.py").write_text("raise SystemExit('it was run')")
    assert "needs code of its own, which is never run" in error_of(folder)


def test_a_folder_without_a_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "it has no tokenizer that transformers can read" in error_of(folder)


def test_no_memory(saved, monkeypatch):
    def fill_memory(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", fill_memory)
    assert "not enough memory to load it" in error_of(saved)


@pytest.mark.parametrize(("device", "message"), [("nonsense", ""), ("meta", "it holds no data")])
def test_a_device_that_cannot_be_used(saved, device, message):
    with pytest.raises(ModelError, match=f"^device {device}: {message}"):
        load_model(saved, device=device)


@pytest.mark.slow
def test_a_repository_of_the_hub(saved, tmp_path):
    """From the Hub's cache as its client lays it out, with the network off."""
    repository = tmp_path / "hub" / "models--acme--tiny"
    commit = "0" * 40
    shutil.copytree(saved, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text(commit)
    code = """
import sys
from cmc_runtime.models.load import load_model
from pm_mined import load_vocabulary
loaded = load_model("acme/tiny@v1", device="cpu")
print(loaded.num_logits, loaded.spec, load_vocabulary(loaded.spec).fingerprint)
try:
    load_model("acme/other")
except Exception as error:
    print(type(error).__name__, error)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert run.stderr == ""
    first, second = run.stdout.splitlines()
    assert first == f"{LOGITS} acme/tiny@v1 {load_vocabulary(saved).fingerprint}"
    assert second.startswith(f"{VocabularyError.__name__} acme/other: the Hub cannot be reached")


def test_the_cache_goes_by_the_name_that_the_model_gives_it():
    """transformers 5.24 renamed the argument; remote code keeps the old name."""

    class New:
        def forward(self, input_ids, cache=None): ...

    class Old:
        def forward(self, input_ids, past_key_values=None): ...

    assert cache_keyword(New()) == "cache"
    assert cache_keyword(Old()) == "past_key_values"
