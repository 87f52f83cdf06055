"""Folders of models and deltas that are damaged or hostile: one line each, that is true."""

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import command_line
import pytest
import torch
from tiny_models import CHAT, save_model
from training_runs import run, save_rows

from cmc_runtime import generate, load_model
from cmc_runtime.data.examples import Example
from cmc_runtime.data.samples import fitting_samples
from cmc_runtime.delta_card import read_card
from cmc_runtime.engines.generate import Sampling
from cmc_runtime.errors import CardError, ContextError, ModelError
from cmc_runtime.models import chat_template
from cmc_runtime.models.prompts import encode_prompt
from cmc_runtime.training.options import TrainingOptions
from pm_mined import PmMinedError, VocabularyError

command = partial(command_line.run, program="cmc-runtime")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "tiny"
    save_model(folder, "byte-level", chat_template=CHAT)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def change(path, **fields):
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | fields))


def assert_one_line(message):
    assert "\n" not in message
    assert len(message) < 500


def line_of(error):
    assert_one_line(str(error.value))
    return str(error.value)


# --- One line for each file ----------------------------------------------------------------------

FILES = [
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "model.safetensors.index.json",
]
TEXTS = ["", "{", "[]", "null", "3", '"a"', "\xff", "[" * 100_000, '{"a": ' * 100_000]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_json_object(folder, name, text):
    (folder / name).write_text(text, "latin-1")
    with pytest.raises(ModelError) as error:
        load_model(folder, device="cpu")
    assert line_of(error).startswith(str(folder))
    assert name == "tokenizer.json" or line_of(error).startswith(f"{folder / name}: not ")


WRONG = [-1, 0, 2**70, "x", [], {}, 1.5, [1, "a"], {"a": 1}]
FIELDS = [
    ("config.json", "num_hidden_layers"),
    ("config.json", "hidden_size"),
    ("config.json", "num_attention_heads"),
    ("config.json", "vocab_size"),
    ("config.json", "rope_parameters"),
    ("config.json", "layer_types"),
    ("config.json", "model_type"),
    ("config.json", "eos_token_id"),
    ("generation_config.json", "eos_token_id"),
    ("generation_config.json", "pad_token_id"),
    ("generation_config.json", "repetition_penalty"),
    ("generation_config.json", "suppress_tokens"),
    ("tokenizer_config.json", "added_tokens_decoder"),
    ("tokenizer_config.json", "eos_token"),
    ("tokenizer_config.json", "chat_template"),
    ("tokenizer_config.json", "tokenizer_class"),
    ("tokenizer_config.json", "padding_side"),
]


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_wrong_values_are_refused_or_do_no_harm(saved, tmp_path, name, field):
    for i, value in enumerate(WRONG):
        folder = Path(shutil.copytree(saved, tmp_path / str(i)))
        if field == "chat_template":
            (folder / "chat_template.jinja").unlink()
        change(folder / name, **{field: value})
        try:
            loaded = load_model(folder, device="cpu")
            texts = ["ab", "the quick"]
            options = {"prompt_template": "chat", "sampling": Sampling(3), "batch_size": 2}
            assert len(list(generate(loaded, texts, **options))) == 2
        except PmMinedError as error:
            assert_one_line(str(error))


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("config.json", "num_hidden_layers", -1, "num_hidden_layers is -1; expected 1 to 10,000"),
        ("config.json", "num_hidden_layers", 10**9, "num_hidden_layers is 1000000000; expected"),
        ("generation_config.json", "eos_token_id", "x", "eos_token_id is 'x'; expected the id"),
        (
            "generation_config.json",
            "eos_token_id",
            [0, None, "x"],
            "eos_token_id is [0, None, 'x']",
        ),
        ("generation_config.json", "repetition_penalty", "x", "cannot write a token: "),
    ],
)
def test_a_value_is_named(folder, name, field, value, message):
    change(folder / name, **{field: value})
    with pytest.raises(ModelError) as error:
        load_model(folder, device="cpu")
    assert message in line_of(error)


@pytest.mark.parametrize(
    "names",
    [["../outside.safetensors"], ["/outside.safetensors"], [".."], [""], [3], ["no.safetensors"]],
)
def test_an_index_names_files_of_its_folder_alone(folder, names):
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": dict(enumerate(names))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"index\.json: it names "):
        load_model(folder, device="cpu")


def test_an_adapter_does_not_decide_which_model_is_opened(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "acme/other"}')
    with pytest.raises(ModelError, match="an adapter of another model: merge it"):
        load_model(folder, device="cpu")


# --- Chat templates ------------------------------------------------------------------------------

TEMPLATES = {
    "raise": "{{ raise_exception('roles must alternate') }}",
    "undefined": "{{ messages[0]['role'].nothing.more }}",
    "syntax": "{% for %}",
    "filter": "{{ 1 | nothing }}",
    "zero": "{{ 1 / 0 }}",
    "type": "{{ 1 + 'a' }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "attribute": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "range": "{% for i in range(10000000) %}{% endfor %}",
    "surrogate": "{{ '\\ud800' }}",
    "lines": "{{ raise_exception('a\\nb\\n' * 1000) }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_template_that_fails(saved, name):
    tokenizer = load_model(saved, device="cpu").tokenizer
    tokenizer.chat_template = TEMPLATES[name]
    with pytest.raises(VocabularyError) as error:
        encode_prompt(tokenizer, "a", "chat")
    message = line_of(error)
    assert message.startswith(f"{saved}: its ")
    assert ("chat template fails" in message) or name == "surrogate"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "it does not end within 2,000,000 steps",
        ),
        (
            "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
            "it writes more than 67,108,864 characters",
        ),
    ],
    ids=["endless", "long"],
)
def test_a_chat_template_that_goes_on_and_on(saved, template, said):
    tokenizer = load_model(saved, device="cpu").tokenizer
    tokenizer.chat_template = template
    with pytest.raises(VocabularyError, match=f"its chat template fails; .*: {said}"):
        encode_prompt(tokenizer, "a", "chat")


def test_bounds_of_a_chat_template_leave_no_trace(saved):
    def trace(*_):
        return None

    tokenizer = load_model(saved, device="cpu").tokenizer
    turns = [{"role": "user", "content": "a"}] * 3
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        rendered = chat_template.render_chat(tokenizer, turns)
        left = sys.gettrace()
    finally:
        sys.settrace(before)
    assert (rendered, left) == (tokenizer.apply_chat_template(turns, tokenize=False), trace)


def test_a_chat_template_of_a_training(folder, tmp_path):
    (folder / "chat_template.jinja").write_text(TEMPLATES["raise"])
    save_rows(tmp_path / "data.jsonl", 4)
    loaded, options = load_model(folder, device="cpu"), TrainingOptions(prompt_template="chat")
    with pytest.raises(VocabularyError, match="roles must alternate"):
        run(tmp_path, loaded, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


# --- Cards and names -----------------------------------------------------------------------------

CARD = '{"format_version": 1, "fingerprint": "", "prompt_form": %s}'


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"format_version": ' + "[" * 100_000,
        json.dumps({"format_version": "9" * 10**6}),
        json.dumps({"format_version": 1, "fingerprint": "", "unmapped": "x" * 10**6}),
        CARD % "3",
        CARD % "[]",
        '{"format_version": 1, "fingerprint": "", "more": 1}',
        "\xff",
    ],
    ids=range(8),
)
def test_a_card_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "delta.json").write_text(text, "latin-1")
    with pytest.raises(CardError) as error:
        read_card(tmp_path)
    assert line_of(error).startswith(f"{tmp_path}/delta.json: ")


NOT_UTF8 = os.fsdecode(b"caf\xe9")


def test_a_model_whose_name_is_not_utf8(saved, tmp_path):
    shutil.copytree(saved, tmp_path / NOT_UTF8)
    with pytest.raises(ModelError) as error:
        load_model(tmp_path / NOT_UTF8)
    assert line_of(error).endswith(": its name is not UTF-8: rename it")


@pytest.mark.parametrize("option", ["--template", "--data", "--output", "--keep-states", "--delta"])
def test_names_that_are_not_utf8_on_the_command_line(saved, tmp_path, option):
    save_rows(tmp_path / "data.jsonl", 4)
    place = tmp_path / NOT_UTF8
    if option in ("--template", "--delta"):
        shutil.copytree(saved, place)
    elif option == "--data":
        shutil.copy(tmp_path / "data.jsonl", place)
    given = {"--template": saved, "--data": tmp_path / "data.jsonl", "--output": tmp_path / "out"}
    given |= {"--epochs": 1, option: place}
    if option != "--delta":
        given["--delta-layers"] = 1
    done = command("train", *(one for pair in given.items() for one in pair))
    assert "internal error" not in done.stderr
    assert (done.status == 0) == (option == "--data")
    if done.status:
        assert done.stderr.count("\n") == 1
        assert "not UTF-8" in done.stderr
        assert not (tmp_path / "out").exists()


def test_ids_that_the_model_does_not_have(folder):
    """A tokenizer that belongs to another model."""
    loaded = load_model(folder, device="cpu")
    with torch.no_grad():
        loaded.model.resize_token_embeddings(100)
    message = r"its tokenizer gives the id \d+, but the model has 100: they do not belong together"
    with pytest.raises(ContextError, match=message):
        list(generate(loaded, ["the quick"]))
    examples = [Example("the quick", "brown fox", 1)]
    with pytest.raises(ContextError, match=message):
        fitting_samples(loaded, examples, "{prompt}")
