"""The header of GGUF files: as the library `gguf` reads it, and nothing that is not there."""

import time
from pathlib import Path

import gguf
import pytest
import tiny_tokenizers as tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pm_mined import VocabularyError, load_encoder, load_vocabulary
from pm_mined.tokenizer.readers.gguf_header import read_header

# Type of a value -> numbers of that type, as many as it has.
NUMBERS = {
    gguf.GGUFValueType[f"{sign}INT{bits}"]: st.integers(
        0 if sign else -(2 ** (bits - 1)), 2**bits - 1 if sign else 2 ** (bits - 1) - 1
    )
    for bits in (8, 16, 32, 64)
    for sign in ("U", "")
} | {
    gguf.GGUFValueType.FLOAT32: st.floats(width=32, allow_nan=False),
    gguf.GGUFValueType.FLOAT64: st.floats(allow_nan=False),
    gguf.GGUFValueType.BOOL: st.booleans(),
}
STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)


@st.composite
def values(draw):
    """A value that GGUF knows, and its type and that of its entries."""
    types = [*NUMBERS, gguf.GGUFValueType.STRING]
    of = draw(st.sampled_from(types))
    one = NUMBERS.get(of, STRINGS)
    if draw(st.booleans()):
        return draw(one), of, None
    return draw(st.lists(one, min_size=1, max_size=9)), gguf.GGUFValueType.ARRAY, of


def write(path: Path, fields, order=gguf.GGUFEndian.LITTLE) -> Path:
    writer = gguf.GGUFWriter(path, "llama", endianess=order)
    for key, (value, of, entries) in fields.items():
        writer.add_key_value(key, value, of, entries)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fields=st.dictionaries(STRINGS, values(), max_size=6),
    order=st.sampled_from(gguf.GGUFEndian),
    data=st.data(),
)
def test_values_are_those_that_the_library_reads(tmp_path, fields, order, data):
    fields.pop("general.architecture", None)
    path = write(tmp_path / "x.gguf", fields, order)
    asked = data.draw(st.sets(st.sampled_from([*fields, "absent"])))
    read = read_header(path, asked)
    library = gguf.GGUFReader(path)
    assert read == {key: library.fields[key].contents() for key in asked - {"absent"}}


def test_lists_of_lists_are_read_as_deep_as_four(tmp_path):
    array = gguf.GGUFValueType.ARRAY
    value = [[["a", "b"], ["c"]], [["d"]]]
    path = write(tmp_path / "x.gguf", {"deep": (value, array, array)})
    assert read_header(path, ["deep"]) == {"deep": value}
    assert read_header(path, []) == {}
    path = write(tmp_path / "y.gguf", {"deep": ([[[[["a"]]]]], array, array)})
    for asked in (["deep"], []):
        with pytest.raises(VocabularyError, match="lists more than 4 deep"):
            read_header(path, asked)


def refusal(tmp_path: Path, content: bytes) -> str:
    """How a file is refused, and that it soon is."""
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(VocabularyError) as caught:
        load_vocabulary(path)
    assert time.process_time() - start < 1
    return str(caught.value)


def number(value: int, width: int = 8) -> bytes:
    return value.to_bytes(width, "little")


def head(keys: int, version: int = 3) -> bytes:
    return b"GGUF" + number(version, 4) + number(0) + number(keys)


@pytest.mark.parametrize("version", [0, 1, 4, 2**32 - 1])
def test_other_versions_are_refused(tmp_path, version):
    found = refusal(tmp_path, head(0, version))
    assert f"GGUF version {version} is not supported (only 2 and 3)" in found


DEEP = number(9, 4) + number(1)
KEY = number(1) + b"k"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (head(2**63), "more than 65536 keys"),
        (head(1) + number(2**63), "it ends at byte 32, in the middle of a field"),
        (head(1) + KEY + number(8, 4) + number(2**62) + b"text", "it ends at byte 49"),
        (head(1) + KEY + number(13, 4) + number(0), "a value of unknown type 13"),
        (head(1) + KEY + number(9, 4) + number(4, 4) + number(2**60), "it ends at byte 49"),
        (head(1) + KEY + number(9, 4) + number(8, 4) + number(2**60), "more than 2097152 entries"),
        (head(1) + KEY + number(9, 4) + DEEP * 5000, "lists more than 4 deep"),
        (head(1) + number(1) + b"\xff" + number(0, 4) + b"\0", "can't decode byte 0xff"),
        (head(2) + (number(20) + b"tokenizer.ggml.model" + number(0, 4) + b"\0") * 2, "twice"),
    ],
)
def test_what_is_not_there_is_not_read(tmp_path, content, found):
    assert found in refusal(tmp_path, content)


def test_a_header_is_no_longer_than_any_model_has(tmp_path):
    path = tmp_path / "x.gguf"
    with path.open("wb") as file:
        file.write(head(2) + KEY + number(9, 4) + number(0, 4) + number(2**26))
        file.truncate(2**40)
    with pytest.raises(VocabularyError, match="its header is longer than 64 MiB"):
        load_vocabulary(path)


def test_a_million_empty_tokens_are_read_soon(tmp_path):
    path = tiny.write_gguf(tmp_path / "x.gguf", "llama", ["a"])
    content = path.read_bytes()
    at = content.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8
    path.write_bytes(content[:at] + number(2**20) + number(0) * 2**20)
    start = time.process_time()
    assert load_vocabulary(path).kind_counts["unused"] == 2**20
    assert time.process_time() - start < 10


@pytest.mark.parametrize("name", ["model", "pre", "eos_token_id", "seperator_token_id"])
def test_a_long_value_is_not_repeated(tmp_path, name):
    fields = {"model": "gpt2", name: "x" * 100_000}
    path = tmp_path / "x.gguf"
    tiny.write_gguf(path, fields.pop("model"), ["a", "b"], **fields)
    load = load_encoder if name == "pre" else load_vocabulary
    with pytest.raises(VocabularyError) as caught:
        load(path)
    assert len(str(caught.value)) < 500 + len(str(path))
