"""Maps that somebody else made: forged, compressed, changed while they are read."""

import hashlib
import json
import struct
import threading
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pytest
from command_line import refused, run

from pm_mined import Audit, Kind, MapFileError, Vocabulary, build_map, load_map
from pm_mined.maps.arrow_columns import column_digest
from pm_mined.maps.arrow_messages import message_places
from pm_mined.maps.file import SCHEMAS
from pm_mined.maps.verify import check_map
from pm_mined.vocabulary import MAX_TOKEN_BYTES


def vocabulary(*tokens):
    return Vocabulary.from_tokens([token.encode() for token in tokens], [Kind.TEXT] * len(tokens))


SRC, DST = vocabulary("cat", "cats", "dog", "é"), vocabulary("ca", "dog", "d", "cow")


@pytest.fixture(params=["pm-mined", "prefixes"])
def made(request):
    return build_map(SRC, DST, strategy=request.param)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "map.arrow"


def forge(made, path, *, metadata=None, options=None, messages=1, **columns):
    """Write a map as a forger would, with digests that fit."""
    names = made.to_arrow().schema.names
    arrays = [columns.get(name, made.column(name)) for name in names]
    digests = {name: column_digest(a) for name, a in zip(names, arrays, strict=True)}
    info = replace(made.info, column_sha256=digests)
    text = info.to_json() if metadata is None else metadata
    digest = hashlib.sha256(text).hexdigest().encode()
    schema = SCHEMAS[made.form].with_metadata({b"pm_mined": text, b"pm_mined_sha256": digest})
    with pa.ipc.new_file(str(path), schema, options=options) as writer:
        for _ in range(messages):
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


def refusal(path):
    with pytest.raises(MapFileError) as caught:
        check_map(load_map(path))
    said = str(caught.value)
    assert "\n" not in said
    return said


def with_validity(column, bitmap):
    if pa.types.is_dictionary(column.type):
        indices = with_validity(column.indices, bitmap)
        return pa.DictionaryArray.from_arrays(indices, column.dictionary)
    children = [column.values] if pa.types.is_list(column.type) else None
    buffers = [bitmap, *column.buffers()[1 : (2 if children else None)]]
    return pa.Array.from_buffers(column.type, len(column), buffers, children=children)


@pytest.mark.parametrize("name", SCHEMAS["weighted"].names)
def test_no_column_has_nulls(name, path):
    made = build_map(SRC, DST, strategy="prefixes")
    one_null = with_validity(made.column(name), pa.py_buffer(b"\x0d"))
    forge(made, path, **{name: one_null})
    assert f"column {name} has nulls" in refusal(path)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_compressed_map_is_refused_before_it_takes_memory(codec, path):
    tokens = vocabulary(*(f"{'a' * 4000}{i}" for i in range(2000)))
    forge(build_map(tokens, DST), path, options=pa.ipc.IpcWriteOptions(compression=codec))
    assert path.stat().st_size < 2**20
    before = pa.total_allocated_bytes()
    assert "it is compressed" in refusal(path)
    assert pa.total_allocated_bytes() - before < 2**20


def test_an_old_version_of_arrow_which_compresses_in_other_ways(made, path):
    forge(made, path, options=pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4))
    assert "of an old version of Arrow" in refusal(path)


def test_a_footer_that_lists_more_messages_than_a_map_has(made, path):
    """Arrow would read each, and the same one as often as it is listed."""
    made.save(path)
    content = bytearray(path.read_bytes())
    first, *_ = message_places(pa.py_buffer(bytes(content)))
    count = content.rindex(struct.pack("<q", first)) - 4
    assert struct.unpack_from("<i", content, count) == (2,)
    struct.pack_into("<i", content, count, 3)
    path.write_bytes(content)
    assert "4 messages, not 3" in refusal(path)


@pytest.mark.parametrize("code", [-1, 9, 127])
@pytest.mark.parametrize("name", ["rule", "src_kind"])
def test_a_code_that_is_in_no_dictionary(name, code, made, path):
    codes = pa.array([code] * len(made), pa.int8())
    names = made.column(name).dictionary
    forge(made, path, **{name: pa.DictionaryArray.from_arrays(codes, names, safe=False)})
    assert refusal(path).startswith(f"{path}: damaged")


def test_a_forged_distance_takes_no_memory(made, path):
    forge(made, path, distance=pa.array([2**31 - 1, 3, 0, -1], pa.int32()))
    groups = Audit(load_map(path)).to_json()["distances"]
    assert [group["distance"] for group in groups] == [0, 3, 2**31 - 1]
    assert "a distance longer than its tokens" in refusal(path)


def test_a_token_longer_than_any(path):
    column = pa.array([b"a" * (MAX_TOKEN_BYTES + 1), b"", b"", b""])
    for name in ("src_token", "dst_token"):
        forge(build_map(SRC, DST), path, **{name: column})
        assert f"column {name} has a token of" in refusal(path)


# --- Metadata ------------------------------------------------------------------------------------


def changed(document, keys, value):
    made = json.loads(json.dumps(document))
    *above, last = keys
    inner = made
    for key in above:
        inner = inner[key]
    if value is KeyError:
        del inner[last]
    else:
        inner[last] = value
    return made


_OTHERS = [KeyError, None, -1, 2**80, 1.5, True, "", "\ud800", [], {}, [[]], {"a": {"b": []}}]


def places_in(document, above=()):
    for key, value in document.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from places_in(value, (*above, key))


def test_metadata_of_every_shape(made, path):
    """Each value is left out, or another: what is taken for a map can be used as one."""
    document, said = asdict(made.info), []
    for keys in places_in(document):
        for value in _OTHERS:
            text = json.dumps(changed(document, keys, value)).encode()
            forge(made, path, metadata=text)
            try:
                Audit(load_map(path)).to_json()
                load_map(path).save(path)
            except MapFileError as error:
                said.append(str(error))
            else:
                assert run("audit", path).status == 0
    refusals = (f"{path}: damaged: ", f"{path}: format version")
    assert all(line.startswith(refusals) for line in said), set(said)


@pytest.mark.parametrize("document", ["[]", "1", '"a"', "null", "[" * 10**5, "9" * 5000, "{}"])
def test_metadata_that_are_no_description(document, path):
    forge(build_map(SRC, DST), path, metadata=document.encode())
    assert "the metadata cannot be read" in refusal(path)


def test_names_that_are_not_utf8(path):
    names = {"name": "caf\udce9.json", "source": "file:caf\udce9.json"}
    made = Vocabulary.from_tokens([b"a"], [Kind.TEXT], **names)
    build_map(made, made).save(path)
    assert load_map(path).info.src.name == "caf\\udce9.json"


# --- Files that change ---------------------------------------------------------------------------


def test_a_map_stays_as_it_is_when_its_file_changes(made, path):
    made.save(path)
    loaded = load_map(path)
    with path.open("r+b") as file:
        file.truncate(100)
        file.write(b"\xff" * 10_000)
    assert loaded.to_arrow().equals(made.to_arrow())
    check_map(loaded)


def test_a_sparse_file_of_a_terabyte(path):
    path.write_bytes(b"ARROW1\0\0")
    with path.open("r+b") as file:
        file.truncate(2**40)
    assert "more than 1,073,741,824" in refused("verify", path)


def test_many_threads_use_one_map(made, path):
    made.save(path)
    for _ in range(20):
        loaded, failures = load_map(path), []
        start = threading.Barrier(16)

        def use(loaded=loaded, failures=failures, start=start):
            start.wait()
            try:
                loaded.to_arrow()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=use) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert np.array_equal(loaded.dst_id, made.dst_id)
