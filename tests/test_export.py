"""Exports, read back by the programs that they are for."""

import csv
import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from adversarial import vocabularies
from command_line import refused, run
from conftest import real_vocabulary, shared_file
from hypothesis import given, settings
from sentencepiece import SentencePieceProcessor
from tiny_tokenizers import byte_level_bpe, installed_file, metaspace_bpe

from pm_mined import (
    Kind,
    MapFileError,
    PmMinedError,
    Rule,
    TokenMap,
    Vocabulary,
    build_map,
    load_map,
    load_vocabulary,
)
from pm_mined.cli.export import FormatName
from pm_mined.display import display_token
from pm_mined.kernels.tokens import Choices, Matches
from pm_mined.maps.export.arrays import assistant_to_target
from pm_mined.maps.export.columns import is_same_token
from pm_mined.maps.export.formats import FORMATS, export_map

HOSTILE = [
    *(b'"', b'a "quote"', b",", b"\n", b"\r\n", b"\0", b"\xff\xfe", b"", b" ", b"NA", b"null"),
    *(b"0012", b"1e5", b"=1+1", b"\\", b"\xe2\x80\xae", b"\x1b[31m", "中🙂".encode(), b"';--"),
]
LESS = [*HOSTILE[::2], b"0", b"\r"]  # what is left of them, and two prefixes


@pytest.fixture
def hostile(tmp_path):
    """A map of tokens that break formats, mapped by several rules; `map.arrow` is its file."""
    src = Vocabulary.from_tokens([*HOSTILE, b"<s>"], [Kind.TEXT] * len(HOSTILE) + [Kind.SPECIAL])
    dst = Vocabulary.from_tokens([*LESS, b"<s>"], [Kind.TEXT] * len(LESS) + [Kind.SPECIAL])
    build_map(src, dst).save(tmp_path / "map.arrow")
    return load_map(tmp_path / "map.arrow")


def rows_of(token_map):
    """The rows with tokens as in a CSV file."""
    rows = token_map.to_arrow().to_pylist()
    for row in rows:
        for side in ("src_token", "dst_token"):
            row[f"{side}_hex"] = row[side].hex()
            shown = display_token(row[side])
            row[side] = f"'{shown}" if shown[:1] in set("=+-@") else shown
    return rows


def exported(token_map, name, folder):
    """The path of a map exported to a file."""
    (path,) = export_map(token_map, name, FORMATS[name].default_path(folder / "map.arrow"))
    return path


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# --- CSV -----------------------------------------------------------------------------------------


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def as_text(rows):
    return [{key: str(value) for key, value in row.items()} for row in rows]


def test_csv_in_python(hostile, tmp_path):
    path = exported(hostile, "csv", tmp_path)
    rows = read_csv(path)
    assert rows == as_text(rows_of(hostile))
    assert [bytes.fromhex(row["src_token_hex"]) for row in rows] == [*HOSTILE, b"<s>"]


def test_csv_is_a_line_per_token_that_a_terminal_can_show(hostile, tmp_path):
    content = exported(hostile, "csv", tmp_path).read_bytes()
    lines = content.decode().split("\r\n")
    assert len(lines) == 1 + len(hostile) + 1
    assert lines.pop() == ""
    assert all(line.isprintable() for line in lines)


def test_csv_in_pandas(hostile, tmp_path):
    pandas = pytest.importorskip("pandas")
    path = exported(hostile, "csv", tmp_path)
    as_it_is = {"src_token_hex": str, "dst_token_hex": str}
    frame = pandas.read_csv(path, dtype=as_it_is, keep_default_na=False)
    assert frame.to_dict("records") == [
        {name: row[name] for name in frame.columns} for row in rows_of(hostile)
    ]


def test_csv_in_duckdb(hostile, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    path = exported(hostile, "csv", tmp_path)
    options = "all_varchar=true, delim=',', quote='\"', escape='\"', header=true"
    read = duckdb.sql(f"FROM read_csv('{path}', {options})")
    rows = [dict(zip(read.columns, row, strict=True)) for row in read.fetchall()]
    for row in rows:  # an empty field is NULL there
        row.update({key: "" for key, value in row.items() if value is None})
    assert rows == as_text(rows_of(hostile))


@settings(max_examples=50, deadline=None)
@given(vocabularies, vocabularies)
def test_csv_and_arrays_lose_nothing(tmp_path_factory, src, dst):
    folder, made = tmp_path_factory.mktemp("map"), build_map(src, dst)
    (table,) = export_map(made, "csv", folder / "map.csv")
    assert read_csv(table) == as_text(rows_of(made))
    (arrays,) = export_map(made, "npz", folder / "map.npz")
    assert npz_rows(arrays) == made.to_arrow().to_pylist()
    (one,) = export_map(made, "safetensors", folder / "map.safetensors")
    assert_same_columns(safetensors_of(one), made)


# --- Parquet -------------------------------------------------------------------------------------


def test_parquet_in_pandas(hostile, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(exported(hostile, "parquet", tmp_path))
    assert frame.to_dict("records") == hostile.to_arrow().to_pylist()
    assert frame["dst_id"].dtype == np.int32
    assert list(frame["rule"].cat.categories) == hostile.names("rule")


def test_parquet_in_duckdb(hostile, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    path = exported(hostile, "parquet", tmp_path)
    read = duckdb.sql(f"FROM '{path}'")
    rows = [dict(zip(read.columns, row, strict=True)) for row in read.fetchall()]
    assert rows == hostile.to_arrow().to_pylist()
    entries = duckdb.sql(f"SELECT key, value FROM parquet_kv_metadata('{path}')").fetchall()
    assert dict(entries)[b"pm_mined"] == hostile.info.to_json()


# --- Arrays --------------------------------------------------------------------------------------


def npz_rows(path):
    """The rows of a map, from its NumPy file."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    columns = {name: arrays[name].tolist() for name in ("dst_id", "distance")}
    for name in ("rule", "src_kind"):
        columns[name] = arrays[f"{name}_names"][arrays[name]].tolist()
    for name in ("src_token", "dst_token"):
        data, offsets = arrays[f"{name}_data"].tobytes(), arrays[f"{name}_offsets"].tolist()
        columns[name] = [data[offsets[i] : offsets[i + 1]] for i in range(len(offsets) - 1)]
    columns["src_id"] = list(range(len(arrays["dst_id"])))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_npz(hostile, tmp_path):
    path = exported(hostile, "npz", tmp_path)
    assert npz_rows(path) == hostile.to_arrow().to_pylist()
    with np.load(path, allow_pickle=False) as file:
        assert json.loads(str(file["metadata"])) == json.loads(hostile.info.to_json())
        dtypes = {name: str(file[name].dtype) for name in ("dst_id", "rule", "distance")}
    assert dtypes == {"dst_id": "int32", "rule": "int8", "distance": "int32"}


def safetensors_of(path):
    return pytest.importorskip("safetensors.numpy").load_file(path)


def assert_same_columns(tensors, token_map):
    assert {name: str(column.dtype) for name, column in tensors.items()} == {
        "dst_id": "int32",
        "rule": "int8",
        "distance": "int32",
    }
    for name, column in tensors.items():
        np.testing.assert_array_equal(column, getattr(token_map, name))


def test_safetensors_in_numpy(hostile, tmp_path):
    safetensors = pytest.importorskip("safetensors")
    path = exported(hostile, "safetensors", tmp_path)
    assert_same_columns(safetensors_of(path), hostile)
    with safetensors.safe_open(path, "np") as file:
        document = json.loads(file.metadata()["pm_mined"])
    assert document["src"]["fingerprint"] == hostile.info.src.fingerprint
    assert document["dst"]["fingerprint"] == hostile.info.dst.fingerprint


def test_safetensors_in_torch(hostile, tmp_path):
    torch = pytest.importorskip("torch")
    tensors = pytest.importorskip("safetensors.torch").load_file(
        exported(hostile, "safetensors", tmp_path)
    )
    assert tensors["dst_id"].dtype == torch.int32
    assert_same_columns({name: column.numpy() for name, column in tensors.items()}, hostile)


# --- Assisted generation in transformers ---------------------------------------------------------


def tiny_pair(folder, assistant, target):
    """A tokenizer for transformers and the vocabulary that pm-mined reads, for both models."""
    transformers = pytest.importorskip("transformers")
    for name, made in (("assistant", assistant), ("target", target)):
        made.save(str(folder / f"{name}.json"))
        yield (
            transformers.PreTrainedTokenizerFast(tokenizer_object=made),
            load_vocabulary(folder / f"{name}.json"),
        )


def smaller(tokenizer, count):
    """The same tokenizer with the last `count` tokens taken away and the ids turned round."""
    document = json.loads(tokenizer.to_str())
    vocab = document["model"]["vocab"]
    kept = sorted(vocab, key=vocab.get)[:-count]
    document["model"]["vocab"] = {token: i for i, token in enumerate([*kept[:1], *kept[:0:-1]])}
    document["model"]["merges"] = [
        pair for pair in document["model"]["merges"] if "".join(pair) in kept
    ]
    return type(tokenizer).from_str(json.dumps(document))


def translators(monkeypatch, target, assistant, path, **options):
    """The translator that transformers makes, and one that reads the map: see docs/export.md."""
    torch_files = pytest.importorskip("safetensors.torch")
    from transformers.generation.candidate_generator import AssistantToTargetTranslator

    theirs = AssistantToTargetTranslator(target, assistant, len(target))
    ids = torch_files.load_file(path)["assistant_to_target_input_ids"]
    to_assistant = {
        target: assistant for assistant, target in enumerate(ids.tolist()) if target >= 0
    }
    monkeypatch.setattr(
        AssistantToTargetTranslator,
        "_get_assistant_to_target_input_ids",
        lambda self: (ids.to(self._assistant_model_device), to_assistant),
    )
    return theirs, AssistantToTargetTranslator(target, assistant, len(target), **options)


@pytest.mark.parametrize("made", [byte_level_bpe, metaspace_bpe])
@pytest.mark.parametrize("strategy", ["exact", "pm-mined"])
def test_transformers_makes_the_same_map(tmp_path, monkeypatch, made, strategy):
    """Where both spell alike, equal pieces are equal bytes: the definitions agree."""
    torch = pytest.importorskip("torch")
    (assistant, src), (target, dst) = tiny_pair(tmp_path, made(), smaller(made(), 60))
    token_map = build_map(src, dst, strategy=strategy)
    path = exported(token_map, "assistant-to-target", tmp_path)
    theirs, ours = translators(monkeypatch, target, assistant, path)
    made_by_them = theirs._assistant_to_target_input_ids
    assert (made_by_them == -1).sum() == 60
    assert torch.equal(ours._assistant_to_target_input_ids, made_by_them)
    assert ours._assistant_to_target_input_ids.dtype == made_by_them.dtype
    assert ours.target_to_assistant_input_ids == theirs.target_to_assistant_input_ids
    assert torch.equal(ours._suppress_input_ids, theirs._suppress_input_ids)
    assert_translate_alike(torch, ours, theirs, len(src))


def assert_translate_alike(torch, ours, theirs, size):
    generator = torch.Generator().manual_seed(0)
    padded = torch.randn(2, 3, size + 7, generator=generator)  # a model has more rows than tokens
    assert torch.equal(ours.get_target_logits(padded), theirs.get_target_logits(padded))
    candidates = torch.randint(0, size, (1, 20), generator=generator)
    prompt = torch.tensor([[1, 2]])
    moved = ours.get_target_ids(candidates[:, :5], prompt, candidates)
    assert torch.equal(moved, theirs.get_target_ids(candidates[:, :5], prompt, candidates))
    assert moved.shape == (1, 17)


def test_transformers_reads_a_map_that_it_cannot_make(tmp_path, monkeypatch):
    """Between a byte-level and a metaspace tokenizer, pieces differ that are the same bytes."""
    torch = pytest.importorskip("torch")
    (assistant, src), (target, dst) = tiny_pair(tmp_path, byte_level_bpe(), metaspace_bpe())
    path = exported(build_map(src, dst), "assistant-to-target", tmp_path)
    theirs, ours = translators(monkeypatch, target, assistant, path)
    logits = ours.get_target_logits(torch.arange(len(src), dtype=torch.float).unsqueeze(0))[0]
    for dst_id, value in enumerate(logits.tolist()):
        if value != -np.inf:
            assert src[int(value)] == dst[dst_id]
    readable = {dst[dst_id] for dst_id in range(len(dst)) if dst.kind(dst_id) != Kind.SPECIAL}
    shared = readable & {src[i] for i in range(len(src))} - {b""}
    assert torch.isfinite(logits).sum() == len(shared)
    assert len(shared) > len(theirs.target_to_assistant_input_ids)


def tiny_model(size):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    return transformers.LlamaForCausalLM(config).eval()


def test_transformers_prunes_an_assistant_by_the_map(tmp_path, monkeypatch):
    """As `generate` does: the output of the assistant shrinks to the tokens of the map."""
    torch = pytest.importorskip("torch")
    (assistant, src), (target, dst) = tiny_pair(tmp_path, byte_level_bpe(), metaspace_bpe())
    path = exported(build_map(src, dst), "assistant-to-target", tmp_path)
    model, prompt = tiny_model(len(src)), torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        whole = model(prompt).logits
        pruning = {"assistant_model": model, "assistant_prune_lm_head": True}
        _, ours = translators(monkeypatch, target, assistant, path, **pruning)
        ours.unmap_input_ids()
        pruned = ours.get_target_logits(model(prompt).logits)
    expected = torch.full((1, 3, len(target)), -torch.inf)
    for target_id, assistant_id in ours.target_to_assistant_input_ids.items():
        expected[..., target_id] = whole[..., assistant_id]
    torch.testing.assert_close(pruned, expected)


def test_transformers_generates_with_the_map(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    (assistant, src), (target, dst) = tiny_pair(tmp_path, byte_level_bpe(), metaspace_bpe())
    path = exported(build_map(src, dst), "assistant-to-target", tmp_path)
    translators(monkeypatch, target, assistant, path)
    prompt = target("the quick brown", return_tensors="pt", return_token_type_ids=False)
    written = tiny_model(len(dst)).generate(
        **prompt,
        assistant_model=tiny_model(len(src)),
        tokenizer=target,
        assistant_tokenizer=assistant,
        do_sample=True,
        max_new_tokens=8,
    )
    assert written.shape[1] == prompt["input_ids"].shape[1] + 8
    assert torch.all((written >= 0) & (written < len(dst)))


@settings(max_examples=100, deadline=None)
@given(vocabularies, vocabularies)
def test_a_target_token_stands_for_one_assistant_token(src, dst):
    token_map = build_map(src, dst)
    target_of = assistant_to_target(token_map)
    kept = np.flatnonzero(target_of >= 0)
    np.testing.assert_array_equal(target_of[kept], token_map.dst_id[kept])
    assert len(set(target_of[kept])) == len(kept)
    best = {}
    for i in range(len(src)):
        if token_map.rule[i] in (Rule.SPECIAL, Rule.EXACT, Rule.BYTE):
            rank = (int(token_map.rule[i]), i)
            best[token_map.dst_id[i]] = min(best.get(token_map.dst_id[i], rank), rank)
    assert sorted(i for _, i in best.values()) == kept.tolist()


def test_of_many_assistant_tokens_the_lowest_is_kept():
    src = Vocabulary.from_tokens([b"a", b"b"] * 500, [Kind.TEXT] * 1000)
    dst = Vocabulary.from_tokens([b"b", b"a"], [Kind.TEXT] * 2)
    assert assistant_to_target(build_map(src, dst)).tolist() == [1, 0] + [-1] * 998


# --- Cross-model Control -------------------------------------------------------------------------


def cmc_files(token_map, prefix):
    """The three files as the code of CMC opens them: the prefix, and an ending."""
    export_map(token_map, "cmc-json", prefix)
    return [
        json.loads((prefix.parent / f"{prefix.name}_{part}.json").read_text())
        for part in ("id", "match", "token")
    ]


QUESTION_MARK = 25955  # `<?>`, which the reference takes for a byte token and maps to its own id


def test_cmc_files_are_the_published_ones(tmp_path):
    """All but 29 control characters, which it leaves unmapped, and `<?>`."""
    src, llama2 = real_vocabulary("mistral-v1"), shared_file("cmc/llama2-tokenizer.model")
    ids, match, _ = cmc_files(build_map(src, llama2), tmp_path / "one2one_mistral2llama")
    published_ids = json.loads(shared_file("cmc/one2one_mistral2llama_id.json").read_text())
    published = json.loads(shared_file("cmc/one2one_mistral2llama_match.json").read_text())
    assert len(ids) == len(match) == len(published_ids) == len(published) == 32_000
    llama2_bytes = {byte: byte + 3 for byte in range(256)}
    differing = {i for i in range(32_000) if (ids[i], match[i]) != (published_ids[i], published[i])}
    for i in differing - {QUESTION_MARK}:
        (byte,) = src[i]
        assert byte < 0x20 or byte == 0x7F
        assert (published_ids[i], published[i]) == (-1, 0)
        assert (ids[i], match[i]) == (llama2_bytes[byte], 1)
    assert len(differing) == 29 + 1
    assert (published_ids[QUESTION_MARK], published[QUESTION_MARK]) == (QUESTION_MARK, 1)
    assert (load_vocabulary(llama2)[ids[QUESTION_MARK]], match[QUESTION_MARK]) == (b"<?", 0)


def test_cmc_files_are_laid_out_as_the_published_ones(tmp_path):
    llama2 = shared_file("cmc/llama2-tokenizer.model")
    prefix = tmp_path / "one2one_mistral2llama"
    cmc_files(build_map(real_vocabulary("mistral-v1"), llama2), prefix)
    for part in ("id", "match"):
        name = f"{prefix.name}_{part}.json"
        ours = (tmp_path / name).read_bytes().split(b"\n")
        theirs = shared_file(f"cmc/{name}").read_bytes().split(b"\n")
        assert len(ours) == len(theirs)
        assert sum(a != b for a, b in zip(ours, theirs, strict=True)) == 30


def test_cmc_tokens_are_pieces_of_sentencepiece(tmp_path):
    llama2 = shared_file("cmc/llama2-tokenizer.model")
    dst = SentencePieceProcessor(model_file=str(llama2))
    src = SentencePieceProcessor(model_file=str(installed_file("mistral-v1")))
    token_map = build_map(real_vocabulary("mistral-v1"), llama2)
    ids, _, tokens = cmc_files(token_map, tmp_path / "one2one_m")
    pieces = [None if i < 0 else dst.id_to_piece(i) for i in ids]
    expected = {src.id_to_piece(i): piece for i, piece in enumerate(pieces)}
    assert len(expected) == 32_000
    assert tokens == expected
    assert list(tokens) == list(expected)


def test_match_is_what_may_be_appended(tmp_path):
    """A token of the same bytes or role; not a part, and not whatever a person likes."""
    src = Vocabulary.from_tokens(
        [b"<s>", b"a", b"\n", b"abc", b"x", b"y", b"z", b"<t>"],
        [Kind.SPECIAL, *[Kind.TEXT] * 6, Kind.SPECIAL],
    )
    dst = Vocabulary.from_tokens(
        [b"<s>", b"a", b"\n", b"ab", b"y", b"y"], [Kind.SPECIAL, Kind.TEXT, Kind.BYTE] + [0] * 3
    )
    rows = [("src_id = 4", "dst_id = 1"), ("src_id = 5", "dst_id = 5"), ("src_id = 6", "dst=false")]
    rows.append(("src_id = 7", "dst_id = 0"))
    table = "".join(f"[[override]]\n{src}\n{dst}\n" for src, dst in rows)
    (tmp_path / "table.toml").write_text(table)
    token_map = build_map(src, dst, overrides=tmp_path / "table.toml")
    assert is_same_token(token_map).tolist() == [True, True, True, False, False, True, False, True]
    ids, match, tokens = cmc_files(token_map, tmp_path / "one2one_a")
    assert ids == [0, 1, 2, 3, 1, 5, -1, 0]
    assert match == [1, 1, 1, 0, 0, 1, 0, 1]
    assert tokens["\n"] == "<0x0A>"
    assert tokens["z"] is None


def test_spellings_that_two_tokens_share_name_the_first(tmp_path):
    src = Vocabulary.from_tokens(
        [b"a", b"", b"a", b"\xff b", b"<a b>", b" b"],
        [Kind.TEXT, Kind.UNUSED, Kind.SPECIAL, Kind.TEXT, Kind.SPECIAL, Kind.TEXT],
    )
    dst = Vocabulary.from_tokens([b"a", b"<a b>", b" b"], [Kind.TEXT, Kind.SPECIAL, Kind.TEXT])
    tokens = cmc_files(build_map(src, dst), tmp_path / "one2one_a")[2]
    assert tokens == {"a": "a", "<0xFF><0x20><0x62>": None, "<a b>": "<a b>", "▁b": "▁b"}


def test_half_a_set_is_never_read(hostile, tmp_path):
    export_map(hostile, "cmc-json", tmp_path / "one2one")
    (tmp_path / "one2one_match.json").unlink()
    (tmp_path / "one2one_match.json").mkdir()
    with pytest.raises(MapFileError) as refusal:
        export_map(hostile, "cmc-json", tmp_path / "one2one")
    message = str(refusal.value).replace(f"{tmp_path}/", "")
    assert message == (
        "one2one_match.json: cannot write the export: it is a directory; "
        "without one2one_id.json the others are not read: export again"
    )
    assert not (tmp_path / "one2one_id.json").exists()
    assert (tmp_path / "one2one_token.json").exists()


def test_a_set_that_cannot_be_touched_stays_as_it_is(hostile, tmp_path, monkeypatch):
    before = export_map(hostile, "cmc-json", tmp_path / "one2one")
    contents = [path.read_bytes() for path in before]

    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "unlink", denied)
    with pytest.raises(MapFileError, match=r"one2one_id\.json: cannot write .* denied$"):
        export_map(hostile, "cmc-json", tmp_path / "one2one")
    assert [path.read_bytes() for path in before] == contents


def test_a_set_replaces_the_target_of_a_link(hostile, tmp_path):
    (tmp_path / "elsewhere.json").write_text("old")
    (tmp_path / "one2one_id.json").symlink_to("elsewhere.json")
    ids, _, _ = cmc_files(hostile, tmp_path / "one2one")
    assert (tmp_path / "one2one_id.json").is_symlink()
    assert json.loads((tmp_path / "elsewhere.json").read_text()) == ids == hostile.dst_id.tolist()


# --- All formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_map_is_the_same_bytes(hostile, tmp_path, name, monkeypatch):
    first = export_map(hostile, name, tmp_path / "one2one")
    before = [path.read_bytes() for path in first]
    for path in first:
        path.unlink()
    done = run("export", "map.arrow", "--format", name, "-o", "one2one", PYTHONHASHSEED="7")
    assert done.status == 0, done.stderr
    assert [path.read_bytes() for path in first] == before
    monkeypatch.setattr(time, "time", lambda: 2e9)
    export_map(hostile, name, tmp_path / "one2one")
    assert [path.read_bytes() for path in first] == before


@pytest.mark.parametrize("name", FORMATS)
def test_a_map_without_rows(tmp_path, name):
    empty = Vocabulary.from_tokens([], [])
    for path in export_map(build_map(empty, empty), name, tmp_path / "one2one"):
        assert path.stat().st_size


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_map_is_not_exported(hostile, tmp_path, name):
    content = (tmp_path / "map.arrow").read_bytes()
    place = content.rindex(b'a "quote"')
    damaged = content[:place] + b"b" + content[place + 1 :]
    rules = hostile.rule.tobytes()
    if name in ("safetensors", "assistant-to-target"):  # which hold no tokens
        damaged = content.replace(rules, b"\x04" + rules[1:])
    assert damaged != content
    (tmp_path / "damaged.arrow").write_bytes(damaged)
    message = refused("export", "damaged.arrow", "--format", name, "-o", "one2one")
    assert "does not fit its SHA-256" in message
    assert not list(tmp_path.glob("one2one*"))


def test_the_names_of_the_files(hostile, tmp_path):
    (tmp_path / "maps").mkdir()
    hostile.save(tmp_path / "maps/a-to-b.arrow")
    for name in FORMATS:
        done = run("export", "maps/a-to-b.arrow", "--format", name)
        assert done.status == 0, done.stderr
        assert all(line.endswith(" s") for line in done.stdout.splitlines())
    assert {path.name for path in tmp_path.iterdir()} == {
        *("maps", "map.arrow", "a-to-b.csv", "a-to-b.parquet", "a-to-b.npz"),
        *("a-to-b.safetensors", "a-to-b.assistant-to-target.safetensors"),
        *(f"one2one_a-to-b_{part}.json" for part in ("id", "match", "token")),
    }


def test_the_formats_are_those_that_exist():
    assert set(FormatName.__args__) == set(FORMATS)


def test_an_unknown_format_lists_those_that_exist(hostile):
    done = run("export", "map.arrow", "--format", "xls")
    assert (done.status, done.stdout) == (2, "")
    assert all(name in done.stderr for name in FORMATS)
    assert run("export", "map.arrow").status == 2


def test_what_an_assistant_must_not_use_is_counted(hostile):
    done = run("export", "map.arrow", "--format", "assistant-to-target")
    count = (hostile.dst_id >= 0).sum() - (assistant_to_target(hostile) >= 0).sum()
    assert count > 0
    assert done.stderr.startswith(f"note: {count} mapped tokens are -1 here")


def with_two_choices(token_map):
    """The map with another token beside each one that is read, both weighing the same."""
    size = token_map.info.dst.size
    first = token_map.dst_id[token_map.dst_id >= 0]
    counts = 2 * (token_map.dst_id >= 0)
    choices = Choices(
        np.append(0, np.cumsum(counts)).astype(np.int32),
        np.stack([first, (first + 1) % size], 1).ravel().astype(np.int32),
        np.full(2 * len(first), 0.5, np.float32),
    )
    dst = Vocabulary.from_tokens([b"x"] * size, [Kind.TEXT] * size)
    matches = Matches(token_map.dst_id, token_map.rule, token_map.distance)
    strategy = token_map.info.strategy
    return TokenMap.from_matches(token_map.source, dst, matches, strategy=strategy, choices=choices)


def test_the_page_is_true(hostile, tmp_path, monkeypatch):
    """Every Python block of docs/export.md, one after the other."""
    for module in ("pandas", "duckdb", "torch", "safetensors", "transformers"):
        pytest.importorskip(module)
    from transformers.generation.candidate_generator import (
        AssistantToTargetTranslator as Translator,
    )

    monkeypatch.setattr(Translator, "_get_assistant_to_target_input_ids", None)  # undone after it
    for name in FORMATS.keys() - {"cmc-json"}:
        exported(hostile, name, tmp_path)
    export_map(with_two_choices(hostile), "safetensors", "weighted.safetensors")
    page = Path(__file__).parents[1] / "docs/export.md"
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        exec(compile(block, str(page), "exec"), names)
        if "token" in names:
            assert names["token"] == HOSTILE[0]
        if "table" in names:
            assert len(names["table"].fetchall()) == len(hostile)
    fingerprint = hostile.info.src.fingerprint
    assert names["metadata"]["src"]["fingerprint"] == names["fingerprint"] == fingerprint
    assert names["rules"][-1] == "special"
    assert names["dst_id"].tolist() == hostile.dst_id.tolist()
    assert names["ids"].tolist() == assistant_to_target(hostile).tolist()
    assert names["counts"].tolist() == (2 * (hostile.dst_id >= 0)).tolist()
    assert names["src_logits"].tolist() == [0] * len(hostile)


# --- What is refused -----------------------------------------------------------------------------


def test_a_format_that_does_not_exist(hostile):
    with pytest.raises(PmMinedError, match="no format 'xls'; there are csv, parquet"):
        export_map(hostile, "xls", "map.xls")


def test_a_prefix_that_cmc_would_misread(hostile, tmp_path):
    message = refused("export", "map.arrow", "--format", "cmc-json", "-o", "out/mine")
    assert message.startswith("out/mine: ")
    assert message.endswith("try -o out/one2one_mine")
    assert not (tmp_path / "out").exists()


def test_the_map_itself_is_not_replaced(hostile, tmp_path):
    before = (tmp_path / "map.arrow").read_bytes()
    (tmp_path / "link").symlink_to("map.arrow")
    for path in ("map.arrow", "link", tmp_path / "map.arrow"):
        message = refused("export", "map.arrow", "--format", "csv", "-o", path)
        assert "is read here" in message
    assert (tmp_path / "map.arrow").read_bytes() == before


@pytest.mark.parametrize("name", FORMATS)
def test_places_where_nothing_can_be_written(hostile, tmp_path, name):
    message = refused("export", "map.arrow", "--format", name, "-o", "absent/one2one")
    assert "cannot write the export: No such file or directory" in message
    if name != "cmc-json":
        (tmp_path / "folder").mkdir()
        message = refused("export", "map.arrow", "--format", name, "-o", "folder")
        assert message == "folder: cannot write the export: it is a directory"
    assert not list(tmp_path.glob(".pm-mined-*"))


def test_not_a_map(tmp_path):
    (tmp_path / "no.arrow").write_text("text")
    assert "not a map" in refused("export", "no.arrow", "--format", "csv")
    assert "cannot read" in refused("export", "absent.arrow", "--format", "csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["no.arrow"]
