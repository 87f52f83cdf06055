"""The map file: what is written is read, byte for byte, and nothing else is accepted."""

import hashlib
import json
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pytest
from adversarial import vocabularies
from hypothesis import given, settings

from pm_mined import Kind, MapFileError, Vocabulary, build_map, load_map
from pm_mined.maps.arrow_columns import column_digest, column_values
from pm_mined.maps.file import COLUMNS
from pm_mined.maps.info import NAMES
from pm_mined.maps.token_map import TokenMap


def numbered_map(count=3000):
    """A map with every common rule, large enough for several pages."""
    src = [f"token {i}" for i in range(count)]
    dst = [f"token {i}"[: 5 + i % 7] for i in range(count)]
    return build_map(vocabulary(*src, "<s>"), vocabulary(*dst, "<s>"))


def vocabulary(*tokens):
    kinds = [Kind.SPECIAL if token == "<s>" else Kind.TEXT for token in tokens]
    return Vocabulary.from_tokens([token.encode() for token in tokens], kinds)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "map.arrow"
    numbered_map().save(path)
    return path


def as_rows(token_map):
    return token_map.to_arrow().to_pylist()


@settings(max_examples=60, deadline=None)
@given(vocabularies, vocabularies)
def test_what_is_saved_is_loaded(tmp_path_factory, src, dst):
    path = tmp_path_factory.mktemp("map") / "map.arrow"
    made = build_map(src, dst)
    made.save(path)
    loaded = load_map(path)
    assert loaded.info == made.info
    assert as_rows(loaded) == as_rows(made)
    first = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == first


def test_two_builds_are_the_same_bytes(path, tmp_path):
    again = tmp_path / "again.arrow"
    numbered_map().save(again)
    assert again.read_bytes() == path.read_bytes()


def test_dst_id_is_a_view_of_the_one_copy_of_the_file(path):
    before = pa.total_allocated_bytes()
    loaded = load_map(path)
    assert pa.total_allocated_bytes() - before < len(loaded)
    assert np.shares_memory(loaded.dst_id, column_values(loaded.to_arrow().column("dst_id")))
    assert loaded.dst_id.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        loaded.dst_id[0] = 1


def test_any_arrow_tool_reads_it(path, tmp_path):
    duckdb, pandas = pytest.importorskip("duckdb"), pytest.importorskip("pandas")
    rows = as_rows(load_map(path))
    with pa.memory_map(str(path)) as source:
        token_map = pa.ipc.open_file(source).read_all()
        assert token_map.to_pylist() == rows
        frame = pandas.read_feather(path)
        assert frame["dst_id"].tolist() == [row["dst_id"] for row in rows]
        found = duckdb.sql("SELECT rule, count(*) FROM token_map GROUP BY rule").fetchall()
    assert dict(found) == {rule: n for rule, n in load_map(path).info.rules.items() if n}


def test_a_saved_map_replaces_the_target_of_a_link(path, tmp_path):
    link = tmp_path / "link.arrow"
    link.symlink_to(path)
    build_map(vocabulary("a"), vocabulary("a")).save(link)
    assert link.is_symlink()
    assert len(load_map(path)) == 1


# --- What is refused ---------------------------------------------------------------------------


def refusal(path, content):
    """The message with which `content` is refused; None if it is read as a map."""
    path.write_bytes(content)
    try:
        load_map(path).to_arrow()
    except MapFileError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        return message
    return None


def test_truncated_anywhere(path):
    content = path.read_bytes()
    for stop in [*range(0, len(content), 1024), len(content) - 1]:
        assert refusal(path, content[:stop]), f"cut at {stop}"


def test_bits_flipped_anywhere(path):
    """What is not refused has flipped a bit of padding: every value is as it was."""
    content, rows, info = path.read_bytes(), as_rows(load_map(path)), load_map(path).info
    generator = np.random.default_rng(0)
    places = {*range(0, 1500, 3), *range(len(content) - 4000, len(content), 5)}
    places |= set(generator.integers(0, len(content), 500).tolist())
    accepted = 0
    for place in sorted(places):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(generator.integers(8))
        if refusal(path, flipped) is None:
            accepted += 1
            assert as_rows(load_map(path)) == rows, place
            assert load_map(path).info == info
    assert accepted < len(places) / 10


def test_every_bit_of_the_metadata_counts(path):
    content = path.read_bytes()
    text = load_map(path).info.to_json()
    starts = [i for i in range(len(content)) if content.startswith(text, i)]
    assert len(starts) == 2, "the schema stands at the head and in the footer"
    for place in range(len(text)):
        flipped = bytearray(content)
        flipped[starts[place % 2] + place] ^= 1 << place % 8
        assert refusal(path, flipped), place


def place_in_file(columns, name, content):
    """Where the values of a column begin; those of src_id can be told by what they are."""
    first, values = (columns.column(one).buffers()[-1].address for one in ("src_id", name))
    src_id = np.arange(len(columns), dtype=np.int32).tobytes()
    return content.index(src_id) + values - first


@pytest.mark.parametrize("name", COLUMNS.names)
def test_every_column_is_checked(path, name):
    columns = load_map(path).to_arrow()
    content = bytearray(path.read_bytes())
    content[place_in_file(columns, name, content) + 8] ^= 1
    assert f"column {name} does not fit" in refusal(path, content)


def test_dst_id_is_checked_at_load_and_the_others_when_used(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"token 17token 18")] ^= 1
    path.write_bytes(content)
    loaded = load_map(path)
    assert loaded.dst_id[0] >= -1
    with pytest.raises(MapFileError, match="src_token does not fit its SHA-256"):
        loaded.row(17)


def test_not_a_map(path, tmp_path):
    assert "no Arrow file" in refusal(path, b"PK\x03\x04 something else")
    assert "no Arrow file" in refusal(path, b"")
    with pytest.raises(MapFileError, match="cannot read"):
        load_map(tmp_path / "absent.arrow")
    with pytest.raises(MapFileError, match="cannot read"):
        load_map(tmp_path)


def test_another_arrow_file(path):
    table = pa.table({"dst_id": [1, 2]})
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    assert "not a map of pm-mined" in refusal(path, path.read_bytes())


def crafted(token_map, path, *, text=None, schema=COLUMNS, batches=1, **columns):
    """Write a file as a forger would: with digests that fit."""
    arrays = [columns.get(name, token_map.column(name)) for name in COLUMNS.names]
    digests = {name: column_digest(a) for name, a in zip(COLUMNS.names, arrays, strict=True)}
    info = replace(token_map.info, column_sha256=digests)
    text = text or info.to_json()
    digest = hashlib.sha256(text).hexdigest().encode()
    schema = schema.with_metadata({b"pm_mined": text, b"pm_mined_sha256": digest})
    with pa.ipc.new_file(str(path), schema) as writer:
        for _ in range(batches):
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return refusal(path, path.read_bytes())


def int32(values):
    return pa.array(values, pa.int32())


def test_a_forged_file_never_holds_an_id_that_is_out_of_range(path):
    made = build_map(vocabulary("a", "b", "c"), vocabulary("a", "b"))
    assert crafted(made, path) is None
    assert "out of range" in crafted(made, path, dst_id=int32([0, 1, 2]))
    assert "out of range" in crafted(made, path, dst_id=int32([0, -2, 1]))
    assert "not the row number" in crafted(made, path, src_id=int32([0, 2, 1]))
    assert "2 record batches" in crafted(made, path, batches=2)


def test_a_newer_format_asks_for_an_upgrade(path):
    made = build_map(vocabulary("a"), vocabulary("a"))
    text = json.dumps({**asdict(made.info), "format_version": 3}).encode()
    assert "format version 3" in crafted(made, path, text=text)
    for version in ("1", True, 1.5, 0, -1, float("inf")):
        text = json.dumps({**asdict(made.info), "format_version": version}).encode()
        assert "metadata cannot be read" in crafted(made, path, text=text)
    assert "metadata cannot be read" in crafted(made, path, text=b'{"format_version": 1}')
    assert "metadata cannot be read" in crafted(made, path, text=b"not json")


@pytest.mark.parametrize("size", [-1, "1", 1.0, None, 2**22 + 1, 2**70])
def test_a_forged_size(path, size):
    made = build_map(vocabulary("a"), vocabulary("a"))
    for side in ("src", "dst"):
        document = asdict(made.info)
        document[side]["size"] = size
        assert crafted(made, path, text=json.dumps(document).encode())


def test_forged_names(path):
    made = build_map(vocabulary("a"), vocabulary("a"))
    names = pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), ["<script>"])
    assert "names in column rule" in crafted(made, path, rule=names)


def test_wrong_columns(path):
    made = build_map(vocabulary("a"), vocabulary("a"))
    nullable = pa.schema([field.with_nullable(True) for field in COLUMNS])
    assert "columns are not those of a map" in crafted(made, path, schema=nullable)


def test_rows_for_another_vocabulary(path):
    made = build_map(vocabulary("a", "b"), vocabulary("a"))
    fewer = TokenMap(made.info, made.to_arrow().slice(0, 1))
    assert "1 rows for 2 source tokens" in crafted(fewer, path)


def test_rules_are_named_in_the_order_of_their_codes(path):
    for name, names in NAMES[1].items():
        assert load_map(path).column(name).dictionary.to_pylist() == names
    for names in NAMES.values():
        assert names["rule"][4] == "prefix"
        assert names["src_kind"][4] == "unused"
