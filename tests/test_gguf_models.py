"""GGUF models: converted once, with the same weights and tokenizer, and kept in a cache."""

import errno
import json
import os
import shutil
from functools import partial

import command_line
import pytest
import torch
from tiny_models import write_gguf
from training_runs import OPTIONS, run, save_rows
from transformers import AutoModelForCausalLM, AutoTokenizer, GemmaTokenizer

from cmc_runtime.models import gguf_cache, load, saved_tokenizer
from cmc_runtime.models.gguf_cache import find_converted
from cmc_runtime.models.kept_models import converted_models
from cmc_runtime.models.load import load_model, load_tokenizer
from pm_mined import load_vocabulary

pytest.importorskip("accelerate")
command = partial(command_line.run, program="cmc-runtime")


@pytest.fixture(scope="module")
def direct(tmp_path_factory):
    """A GGUF file, and its model and tokenizer as transformers alone reads them."""
    path = write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    given = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(**given, dtype=torch.float32)
    return path, model, AutoTokenizer.from_pretrained(**given)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/pm-mined"


@pytest.fixture
def path(direct, tmp_path):
    return shutil.copy(direct[0], tmp_path / "tiny.gguf")


def assert_same(loaded, direct, dtype=torch.float32):
    _, model, tokenizer = direct
    expected = model.state_dict()
    found = loaded.model.state_dict()
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        assert weight.dtype == dtype
        assert torch.equal(weight, expected[name].to(dtype)), name
    about = [one.config.to_dict() for one in (loaded.model, model)]
    for one in about:
        for name in ("_name_or_path", "quantization_config", "architectures", "dtype"):
            one.pop(name, None)
    assert about[0] == about[1]
    assert loaded.model.generation_config.to_dict() == model.generation_config.to_dict()
    tokenizers = loaded.tokenizer, tokenizer
    assert len({one.backend_tokenizer.to_str() for one in tokenizers}) == 1
    assert len({str(one.special_tokens_map) for one in tokenizers}) == 1
    assert len({load_vocabulary(one).fingerprint for one in tokenizers}) == 1
    assert len({str(one.chat_template) for one in tokenizers}) == 1
    for text in ("", "the quick", "the<|endoftext|>\n"):
        assert loaded.tokenizer(text) == tokenizer(text)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_load_gives_the_same(direct, path, dtype, monkeypatch, capfd):
    notes = []
    first = load_model(path, device="cpu", dtype=dtype, note=notes.append)
    assert_same(first, direct, dtype)
    monkeypatch.setattr(load, "reading_once", lambda: pytest.fail("the file was read again"))
    later = load_model(path, device="cpu", dtype=dtype, note=notes.append)
    assert_same(later, direct, dtype)
    assert load_tokenizer(path).get_vocab() == first.tokenizer.get_vocab()
    assert (later.spec, later.tokenizer.name_or_path) == (path, str(path))
    assert notes == []
    assert capfd.readouterr() == ("", "")


def test_a_tokenizer_of_a_class_of_its_own_is_parsed_once(tmp_path, monkeypatch):
    """Such a class has `AutoTokenizer` parse the file in Python, and build the tokenizer anew."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "a", "b", "▁a", "ab"]
    vocab = {piece: token_id for token_id, piece in enumerate(pieces)}
    tokenizer = GemmaTokenizer(vocab, [("▁", "a"), ("a", "b")], add_bos_token=True)
    tokenizer.chat_template = "{{ messages }}"
    saved_tokenizer.save_tokenizer(tmp_path, tokenizer)
    parse = json.load
    parsed = []
    monkeypatch.setattr(json, "load", lambda file: parsed.append(file.name) or parse(file))
    read = saved_tokenizer.read_saved_tokenizer(tmp_path)
    assert not any(name.endswith("tokenizer.json") for name in parsed)
    assert saved_tokenizer.tokenizer_state(read) == saved_tokenizer.tokenizer_state(tokenizer)
    assert read(" ab a<mask>")["input_ids"] == tokenizer(" ab a<mask>")["input_ids"]
    assert (read.padding_side, read.get_vocab()) == ("left", tokenizer.get_vocab())
    monkeypatch.undo()
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert saved_tokenizer.tokenizer_state(again) == saved_tokenizer.tokenizer_state(read)


def test_a_file_that_was_changed_in_place_is_another_one(direct, path):
    load_model(path, device="cpu")
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert find_converted(path) is None
    changed = load_model(path, device="cpu").model.state_dict()
    assert not all(torch.equal(changed[k], v) for k, v in direct[1].state_dict().items())
    assert len(converted_models()) == 2


def test_other_versions_convert_again(path, monkeypatch):
    load_model(path, device="cpu")
    monkeypatch.setattr(gguf_cache, "version", lambda name: "99")
    assert find_converted(path) is None


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_damaged_folder_is_made_anew(direct, path, name):
    load_model(path, device="cpu")
    damaged = find_converted(path) / name
    before, content = damaged.stat(), bytearray(damaged.read_bytes())
    content[-2] ^= 1
    damaged.write_bytes(content)
    os.utime(damaged, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert_same(load_model(path, device="cpu"), direct)
    assert find_converted(path) is not None


def test_files_that_nothing_touched_are_read_once(path, monkeypatch):
    load_model(path, device="cpu")
    folder = find_converted(path)
    monkeypatch.setattr(gguf_cache, "fault_of", lambda _: "damaged")
    assert find_converted(path) == folder
    (folder / "config.json").touch()
    assert find_converted(path) is None
    assert not folder.exists()


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_full_disk_costs_one_note(direct, path, home, monkeypatch, dtype):
    monkeypatch.setattr(gguf_cache, "complete", full_disk)
    notes = []
    assert_same(load_model(path, device="cpu", dtype=dtype, note=notes.append), direct, dtype)
    assert notes == ["tiny.gguf is not kept for faster loading: No space left on device"]
    assert list((home / "gguf").iterdir()) == []


def test_a_cache_that_others_can_write_is_not_used(direct, path, home):
    load_model(path, device="cpu")
    (home / "gguf").chmod(0o777)
    notes = []
    assert_same(load_model(path, device="cpu", note=notes.append), direct)
    assert len(notes) == 1
    assert f"{home}/gguf: others can write there: set XDG_CACHE_HOME" in notes[0]


def test_a_cache_that_cannot_be(direct, path, tmp_path):
    (tmp_path / "cache").write_text("")
    notes = []
    assert_same(load_model(path, device="cpu", note=notes.append), direct)
    assert f"not kept for faster loading: {tmp_path}/cache" in notes[0]


def test_a_model_larger_than_the_cache(direct, path, monkeypatch):
    monkeypatch.setattr(gguf_cache, "MAX_BYTES", 1000)
    notes = []
    assert_same(load_model(path, device="cpu", note=notes.append), direct)
    assert "are kept at most" in notes[0]
    assert converted_models() == []


def test_those_used_the_longest_ago_make_room(path, tmp_path, monkeypatch):
    paths = [shutil.copy(path, tmp_path / f"{i}.gguf") for i in range(3)]
    for i, one in enumerate(paths):
        with one.open("ab") as file:
            file.write(bytes(i + 1))
    for i, one in enumerate(paths[:2]):
        load_model(one, device="cpu")
        os.utime(find_converted(one), (i, i))
    monkeypatch.setattr(gguf_cache, "MAX_BYTES", 2 * converted_models()[0].size)
    find_converted(paths[0])
    load_model(paths[2], device="cpu")
    assert [one.file for one in converted_models()] == ["2.gguf", "0.gguf"]


def plain_config(folder):
    """The config.json of a folder, which says nothing of a quantisation."""
    text = (folder / "config.json").read_text()
    assert "quant" not in text
    return json.loads(text)


def test_a_delta_trained_beside_it_is_trained_on(path, tmp_path):
    """Earlier versions wrote into its config.json that it is quantised: such folders, too."""
    save_rows(tmp_path / "data.jsonl", 2)
    options = OPTIONS("sft", num_train_epochs=1, prompt_template="{prompt}", max_length=64)
    frozen = load_model(path, device="cpu")
    run(tmp_path, frozen, tmp_path / "first", options)
    written = plain_config(tmp_path / "first")
    of_file = {"dequantize": False, "gguf_file": path.name, "quant_method": "gguf"}
    old = json.dumps(written | {"quantization_config": of_file})
    (tmp_path / "first/config.json").write_text(old)
    start = load_model(tmp_path / "first", device="cpu")
    run(tmp_path, frozen, tmp_path / "second", options, start=start)
    assert plain_config(tmp_path / "second") == written
    assert load_model(tmp_path / "second", device="cpu").model.config.num_hidden_layers == 1


def test_a_model_that_is_not_kept_can_be_saved(path, monkeypatch, tmp_path):
    monkeypatch.setattr(gguf_cache, "complete", full_disk)
    load_model(path, device="cpu").model.save_pretrained(tmp_path / "saved")
    plain_config(tmp_path / "saved")


def test_what_a_killed_process_left_is_removed(path, home):
    (home / "gguf/new-dead").mkdir(parents=True)
    home.chmod(0o700)
    load_model(path, device="cpu")
    assert list((home / "gguf").glob("*/")) == [find_converted(path)]


def test_the_command(path, home):
    assert command("cache").stdout == f"{home}: 0 models, 0 MB\n"
    load_model(path, device="cpu")
    (home / "models").mkdir()
    (home / "models/joined.gguf").write_bytes(bytes(3_000_000))
    shown = command("cache").stdout
    assert "tiny.gguf" in shown
    assert "joined.gguf" in shown
    document = json.loads(command("cache", "--json").stdout)
    assert list(document) == ["folder", "models", "cleared"]
    assert [one["file"] for one in document["models"]] == ["tiny.gguf", "joined.gguf"]
    assert list(document["models"][0]) == ["file", "path", "bytes", "used"]
    assert command("cache", "--clear").stdout == f"{home}: 2 models, 3 MB removed\n"
    assert find_converted(path) is None
    assert json.loads(command("cache", "--json").stdout)["models"] == []
