"""Maps with several destination tokens per source token: the file, and all that reads it."""

import csv
import hashlib
import json
from dataclasses import replace

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
from adversarial import vocabularies
from command_line import refused, run
from hypothesis import given, settings
from hypothesis import strategies as st
from test_docs import ROOT
from test_page import embedded

from pm_mined import Audit, Kind, MapFileError, Rule, TokenMap, Vocabulary, build_map, load_map
from pm_mined.kernels.tokens import Choices, Matches
from pm_mined.maps.arrow_columns import column_digest
from pm_mined.maps.export.formats import FORMATS, export_map
from pm_mined.maps.file import COLUMNS, SCHEMAS
from pm_mined.maps.info import NAMES
from pm_mined.maps.verify import check_map
from pm_mined.reports.compare import Comparison
from pm_mined.reports.page import render_page
from pm_mined.reports.usage import Usage

T, S = Kind.TEXT, Kind.SPECIAL
SRC = Vocabulary.from_tokens([b"<s>", b"a", b"abc", b"zz", b"<|x|>"], [S, T, T, T, S], name="src")
DST = Vocabulary.from_tokens([b"a", b"b", b"c", b"<s>"], [T, T, T, S], name="dst")

ROWS = [[3], [0], [0, 1, 2], [2, 1], []]
WEIGHTS = [[1], [1], [0.5, 0.25, 0.25], [0.9, 0.1], []]


def with_choices(rows, weights=None, *, src=SRC, dst=DST, form=None, dst_id=None):
    """A map in which source token `i` maps to the tokens `rows[i]`."""
    first = np.array([row[0] if row else -1 for row in rows], np.int32)
    rule = np.where(first < 0, Rule.NONE, Rule.ENCODING).astype(np.int8)
    # None is longer than its tokens, of which some are empty.
    sizes = np.diff(dst.packed.offsets)
    empty = [not (src[i] or sizes[row[:1]].any()) for i, row in enumerate(rows)]
    distance = np.where(first < 0, -1, np.where(empty, 0, 1)).astype(np.int32)
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    choices = Choices(offsets, flat(rows, np.int32), None)
    if weights is not None:
        choices = choices._replace(weight=flat(weights, np.float32))
    return TokenMap.from_matches(
        src,
        dst,
        Matches(first if dst_id is None else dst_id, rule, distance),
        strategy={"name": "distribute", "unit": "char", "top_k": 8},
        choices=None if form == "one" else choices,
    )


def flat(rows, dtype):
    return np.array([one for row in rows for one in row], dtype)


def rows_of(token_map):
    """What every source token maps to, as lists of ids and of weights; no weights is None."""
    rows = token_map.to_arrow().to_pylist()
    if token_map.form == "one":
        return [[row["dst_id"]] if row["dst_id"] >= 0 else [] for row in rows], None
    weights = [row["weights"] for row in rows] if token_map.form == "weighted" else None
    return [row["dst_ids"] for row in rows], weights


@st.composite
def any_map(draw, src=vocabularies, dst=vocabularies, forms=("weighted", "grouped")):
    """A map between any vocabularies with any choices."""
    src, dst = draw(src), draw(dst)
    ids = st.lists(st.integers(0, max(len(dst) - 1, 0)), max_size=min(len(dst), 4), unique=True)
    rows = [draw(ids) for _ in range(len(src))]
    form = draw(st.sampled_from(forms))
    if form == "grouped":
        return with_choices(rows, src=src, dst=dst)
    if form == "one":
        return with_choices(rows, src=src, dst=dst, form="one")
    parts = [
        draw(st.lists(st.integers(1, 9), min_size=len(row), max_size=len(row))) for row in rows
    ]
    weights = [[part / sum(row) for part in row] for row in parts]
    return with_choices(rows, weights, src=src, dst=dst)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def weighted(tmp_path):
    """A weighted map; `weighted.arrow` is its file."""
    with_choices(ROWS, WEIGHTS).save("weighted.arrow")
    return load_map("weighted.arrow")


@pytest.fixture
def grouped(tmp_path):
    """A grouped map; `grouped.arrow` is its file."""
    with_choices(ROWS).save("grouped.arrow")
    return load_map("grouped.arrow")


# --- The file ------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(any_map())
def test_what_is_saved_is_loaded(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("map") / "map.arrow"
    made.save(path)
    loaded = load_map(path)
    assert loaded.info == made.info
    assert loaded.form == made.form
    for one, other in zip(loaded.choices, made.choices, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    assert loaded.to_arrow().to_pylist() == made.to_arrow().to_pylist()
    first = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == first
    assert loaded.choice_counts.tolist() == [len(row) for row in rows_of(made)[0]]


def test_choices_are_mapped_and_not_copied(tmp_path):
    rows = [[i % 4, (i + 1) % 4] for i in range(20_000)]
    src = Vocabulary.from_tokens([b"a"] * len(rows), [T] * len(rows))
    with_choices(rows, [[0.5, 0.5]] * len(rows), src=src).save("large.arrow")
    before = pa.total_allocated_bytes()
    choices = load_map("large.arrow").choices
    assert pa.total_allocated_bytes() - before < len(rows)
    assert [array.dtype for array in choices] == [np.int32, np.int32, np.float32]
    for array in choices:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_the_columns_say_the_form(weighted, grouped):
    lists = {"dst_ids": pa.int32(), "weights": pa.float32()}
    for token_map, names in ((weighted, ["dst_ids", "weights"]), (grouped, ["dst_ids"])):
        fields = list(token_map.to_arrow().schema)[len(COLUMNS) :]
        assert [field.name for field in fields] == names
        for field in fields:
            assert field.type.value_type == lists[field.name]
            assert not field.nullable
            assert not field.type.value_field.nullable
        assert token_map.info.format_version == 2
    assert build_map(SRC, DST).choices is None


def test_digests_of_lists_are_those_of_the_format(weighted):
    offsets = np.array([0, 1, 2, 5, 7, 7], "<i4").tobytes()
    values = {"dst_ids": flat(ROWS, "<i4"), "weights": flat(WEIGHTS, "<f4")}
    for name, array in values.items():
        digest = hashlib.sha256(offsets + array.tobytes()).hexdigest()
        assert weighted.info.column_sha256[name] == digest


def test_what_needs_nothing_of_version_2_is_version_1():
    """As pm-mined 0.1 wrote it: its readers read it on."""
    made = build_map(SRC, DST)
    document = json.loads(made.info.to_json())
    assert document["format_version"] == 1
    assert list(document["rules"]) == sorted(NAMES[1]["rule"])
    assert len(made.names("rule")) == 8
    assert made.to_arrow().schema == COLUMNS
    del document["tool_version"]
    pinned = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    assert pinned == "a9041ea095b6e76ea3bd89d0652a9d435d3b1c7566284ab6d4df529d0f0226e6"


def test_a_row_by_encoding_makes_it_version_2(tmp_path):
    made = with_choices(ROWS, form="one")
    made.save("map.arrow")
    loaded = load_map("map.arrow")
    assert loaded.info.format_version == 2
    assert loaded.form == "one"
    assert loaded.names("rule")[8] == "encoding"
    assert loaded.info.rules == {**dict.fromkeys(NAMES[2]["rule"], 0), "encoding": 4, "none": 1}
    check_map(loaded)


def test_other_arrow_tools_read_it(weighted):
    duckdb, pandas = pytest.importorskip("duckdb"), pytest.importorskip("pandas")
    frame = pandas.read_feather("weighted.arrow")
    assert [row.tolist() for row in frame["dst_ids"]] == ROWS
    with pa.memory_map("weighted.arrow") as source:
        token_map = pa.ipc.open_file(source).read_all()
        assert len(token_map) == len(ROWS)
        read = duckdb.sql("SELECT dst_ids, weights FROM token_map").fetchall()
    assert [list(row) for row in zip(*read, strict=True)] == [
        ROWS,
        [np.float32(row).tolist() for row in WEIGHTS],
    ]


# --- What is refused -----------------------------------------------------------------------------


def refusal(content):
    """Why a file with this content is refused."""
    with open("refused.arrow", "wb") as file:
        file.write(content)
    with pytest.raises(MapFileError) as refused:
        load_map("refused.arrow")
    message = str(refused.value)
    assert message.startswith("refused.arrow: ")
    assert "\n" not in message
    return message


def test_truncated_anywhere(weighted, tmp_path):
    content = (tmp_path / "weighted.arrow").read_bytes()
    for stop in [*range(0, len(content), 101), len(content) - 1]:
        assert refusal(content[:stop])


@pytest.mark.parametrize("name", ["dst_ids", "weights"])
@pytest.mark.parametrize("part", [1, 3])
def test_every_bit_of_the_lists_counts(weighted, tmp_path, name, part):
    """Of their offsets, and of their values."""
    content = bytearray((tmp_path / "weighted.arrow").read_bytes())
    batch = pa.ipc.open_file(pa.py_buffer(bytes(content))).get_batch(0)
    first, values = batch.column("src_id").buffers()[1], batch.column(name).buffers()[part]
    ids = np.arange(len(SRC), dtype=np.int32).tobytes()
    place = content.index(ids) + values.address - first.address
    for bit in range(8 * 4 * (6 if part == 1 else 7)):
        content[place + bit // 8] ^= 1 << bit % 8
        assert refusal(content)
        content[place + bit // 8] ^= 1 << bit % 8


WRONG_LISTS = {
    "an id that is too large": (3, [4, 1], "dst_ids is out of range (0 to 3)"),
    "an id below 0": (3, [2, -1], "dst_ids is out of range (0 to 3)"),
    "no choice where one is read": (3, [], "dst_ids is not empty just where dst_id is -1"),
    "a choice where none is read": (4, [2], "dst_ids is not empty just where dst_id is -1"),
    "another first choice": (3, [1, 2], "dst_id is not the first of dst_ids"),
    "an id twice": (2, [0, 1, 0], "dst_ids has an id twice for one token"),
}


@pytest.mark.parametrize(("row", "ids", "said"), WRONG_LISTS.values(), ids=WRONG_LISTS)
@pytest.mark.parametrize("with_weights", [False, True])
def test_forged_lists(tmp_path, row, ids, said, with_weights):
    rows, weights = [*ROWS], [*WEIGHTS]
    rows[row], weights[row] = ids, [1 / len(ids)] * len(ids) if ids else []
    dst_id = np.array([3, 0, 0, 2, -1], np.int32)
    with_choices(rows, weights if with_weights else None, dst_id=dst_id).save("forged.arrow")
    assert said in refusal((tmp_path / "forged.arrow").read_bytes())


def with_column(token_map, name, column):
    """The map with another column, and a digest that fits."""
    batch = token_map.to_arrow()
    columns = [column if field.name == name else batch.column(field.name) for field in batch.schema]
    digests = {**token_map.info.column_sha256, name: column_digest(column)}
    info = replace(token_map.info, column_sha256=digests)
    return TokenMap(info, pa.RecordBatch.from_arrays(columns, schema=batch.schema))


NOT_ABOVE_0, NOT_1 = "weights has one that is not above 0", "weights of a token do not sum to 1"


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([0.5, np.nan, 0.5], NOT_ABOVE_0),
        ([1.5, -0.25, -0.25], NOT_ABOVE_0),
        ([0.5, 0.5, 0], NOT_ABOVE_0),
        ([0.5, 0.5, -0.0], NOT_ABOVE_0),
        ([np.inf, 0.5, 0.5], NOT_1),
        ([0.25, 0.125, 0.125], NOT_1),
        ([0.5, 0.25, 0.25001], NOT_1),
        ([3e38, 3e38, 3e38], NOT_1),
    ],
)
def test_forged_weights(tmp_path, weights, said):
    with_choices(ROWS, [*WEIGHTS[:2], weights, *WEIGHTS[3:]]).save("forged.arrow")
    assert said in refusal((tmp_path / "forged.arrow").read_bytes())


def test_rounded_weights_are_not_forged(tmp_path):
    """Each of many weights is off by half a unit in the last place."""
    dst = Vocabulary.from_tokens([b"a"] * 9999, [T] * 9999)
    for count in (3, 7, 333, 9999):
        rows = [list(range(count))]
        src = Vocabulary.from_tokens([b"a"], [T])
        with_choices(rows, [[1 / count] * count], src=src, dst=dst).save("map.arrow")
        assert load_map("map.arrow").choice_counts.tolist() == [count]


def with_offsets(token_map, content, name, offsets):
    """The file with other offsets in a column of lists, and digests that fit."""
    old, new = (np.array(values, "<i4").tobytes() for values in (token_map.choices[0], offsets))
    place = content.index(old)
    if name == "weights":  # they lie behind those of `dst_ids`
        place = content.index(old, place + 1)
    content = content[:place] + new + content[place + len(old) :]
    values = token_map.choices[1 if name == "dst_ids" else 2].tobytes()
    text = token_map.info.to_json()
    digest = hashlib.sha256(new + values).hexdigest()
    forged = text.replace(token_map.info.column_sha256[name].encode(), digest.encode())
    for one, other in ((text, forged), (sha256(text), sha256(forged))):
        assert content.count(one) == 2, "the schema stands at the head and in the footer"
        content = content.replace(one, other)
    return content


def sha256(text):
    return hashlib.sha256(text).hexdigest().encode()


@pytest.mark.parametrize(
    ("name", "offsets", "said"),
    [
        ("dst_ids", [1, 1, 2, 5, 7, 7], "do not lie end to end"),
        ("dst_ids", [0, 1, 2, 5, 6, 6], "do not lie end to end"),
        ("dst_ids", [0, 1, 5, 2, 7, 7], "damaged"),
        ("dst_ids", [0, 1, 2, 5, 8, 7], "damaged"),
        ("dst_ids", [0, 1, 2, 5, 7, 8], "damaged"),
        ("dst_ids", [-1, 1, 2, 5, 7, 7], "damaged"),
        ("dst_ids", [0, 1, 2, 5, 2**31 - 1, 7], "damaged"),
        ("dst_ids", [0, 1, 2, -(2**31), 7, 7], "damaged"),
        ("weights", [0, 1, 2, 4, 7, 7], "not lists of the same lengths"),
        ("weights", [0, 1, 2, 5, 6, 6], "do not lie end to end"),
        ("weights", [0, 1, 2, 5, 7, 2**31 - 1], "damaged"),
    ],
)
def test_forged_offsets(weighted, tmp_path, name, offsets, said):
    content = (tmp_path / "weighted.arrow").read_bytes()
    assert said in refusal(with_offsets(weighted, content, name, offsets))


def test_offsets_are_forged_as_they_should_be(weighted, tmp_path):
    content = (tmp_path / "weighted.arrow").read_bytes()
    assert with_offsets(weighted, content, "weights", weighted.choices.offsets) == content


def written(token_map, columns, schema=None, **document):
    """A file of these columns, with digests that fit wherever the format has any."""
    schema = schema or pa.schema([pa.field(n, c.type, nullable=False) for n, c in columns.items()])
    text = json.dumps({**json.loads(token_map.info.to_json()), **document}).encode()
    schema = schema.with_metadata({b"pm_mined": text, b"pm_mined_sha256": sha256(text)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(list(columns.values()), schema=schema))
    return sink.getvalue().to_pybytes()


def columns_of(token_map):
    batch = token_map.to_arrow()
    return dict(zip(batch.schema.names, batch.columns, strict=True))


def test_a_forger_writes_what_is_read_where_nothing_is_forged(weighted, tmp_path):
    content = written(weighted, columns_of(weighted), weighted.to_arrow().schema)
    (tmp_path / "same.arrow").write_bytes(content)
    assert load_map("same.arrow").to_arrow() == weighted.to_arrow()


def other_columns(columns):
    """Columns of lists that are not those of the format."""
    ids, weights = columns["dst_ids"].to_pylist(), columns["weights"].to_pylist()
    rest = {name: columns[name] for name in COLUMNS.names}
    item = columns["dst_ids"].type.value_field
    yield {**rest, "weights": columns["weights"]}
    yield {**rest, "weights": columns["weights"], "dst_ids": columns["dst_ids"]}
    yield {**columns, "more": columns["dst_ids"]}
    yield {**columns, "dst_ids": pa.array(ids, pa.large_list(item))}
    yield {**columns, "dst_ids": pa.array(ids, pa.list_(pa.int32()))}
    yield {**columns, "dst_ids": pa.array(ids, pa.list_(pa.int64()))}
    yield {**columns, "dst_ids": pa.array(ids, pa.list_view(pa.int32()))}
    yield {**columns, "weights": pa.array(weights, pa.list_(pa.float64()))}
    yield {**columns, "weights": pa.array([row[0] if row else 0 for row in weights], pa.float32())}


def test_other_columns_are_not_those_of_a_map(weighted):
    columns = columns_of(weighted)
    for others in other_columns(columns):
        assert "the columns are not those of a map" in refusal(written(weighted, others))
    nullable = SCHEMAS["weighted"].set(7, pa.field("dst_ids", columns["dst_ids"].type))
    said = refusal(written(weighted, columns, nullable))
    assert "the columns are not those of a map" in said


def test_version_1_has_no_lists(weighted):
    said = refusal(written(weighted, columns_of(weighted), format_version=1))
    assert "the columns are not those of a map" in said


def test_version_2_has_the_names_of_version_2(tmp_path):
    made = build_map(SRC, DST)
    content = written(made, columns_of(made), COLUMNS, format_version=2)
    (tmp_path / "map.arrow").write_bytes(content)
    loaded = load_map("map.arrow")
    with pytest.raises(MapFileError, match="the names in column rule are not those"):
        check_map(loaded)


def with_nulls(column, place):
    """The lists with a null: one of them, or one of their items."""
    bitmap = pa.py_buffer(bytes([0xFF ^ 1 << 2]))
    validity, offsets, _, values = column.buffers()
    items = pa.Array.from_buffers(
        column.type.value_type, len(column.values), [bitmap if place == "item" else None, values]
    )
    validity = bitmap if place == "list" else None
    return pa.Array.from_buffers(column.type, len(column), [validity, offsets], children=[items])


@pytest.mark.parametrize("name", ["dst_ids", "weights"])
@pytest.mark.parametrize("place", ["list", "item"])
def test_nulls_are_refused(weighted, name, place):
    column = with_nulls(columns_of(weighted)[name], place)
    assert column.null_count + column.values.null_count == 1
    forged = with_column(weighted, name, column)
    columns = {**columns_of(weighted), name: column}
    digests = {**weighted.info.column_sha256, name: forged.info.column_sha256[name]}
    said = refusal(written(weighted, columns, SCHEMAS["weighted"], column_sha256=digests))
    assert f"damaged: column {name} has nulls" in said


# --- verify --------------------------------------------------------------------------------------


def test_verify_says_what_it_is(weighted, grouped):
    assert run("verify", "weighted.arrow").stdout.startswith("weighted.arrow: whole, 5 rows, weig")
    assert json.loads(run("verify", "grouped.arrow", "--json").stdout)["form"] == "grouped"
    assert "does not fit" in refused("verify", damaged("weighted.arrow"))


def damaged(name):
    """The file with one weight changed to another that sums to 1 as well."""
    old, new = (np.array(one, np.float32).tobytes() for one in (WEIGHTS[2], [0.25, 0.25, 0.5]))
    with open(name, "rb") as file:
        content = file.read()
    assert content.count(old) == 1
    with open("damaged.arrow", "wb") as file:
        file.write(content.replace(old, new))
    return "damaged.arrow"


@settings(max_examples=30, deadline=None)
@given(any_map())
def test_good_maps_are_good(made):
    check_map(made)


@pytest.mark.parametrize("rule", [Rule.SPECIAL, Rule.OVERRIDE])
def test_a_role_has_one_choice(weighted, rule):
    rules = weighted.rule.copy()
    rules[2] = rule
    names = weighted.column("rule").dictionary
    column = pa.DictionaryArray.from_arrays(pa.array(rules), names)
    counts = {**weighted.info.rules, "encoding": 3, rule.name.lower(): 1}
    forged = with_column(weighted, "rule", column)
    forged.info.rules.update(counts)
    with pytest.raises(MapFileError, match="several destination tokens by hand or role: 1 token"):
        check_map(forged)


# --- compare -------------------------------------------------------------------------------------


def read_slowly(token_map):
    """What each token maps to: its ids with their weights; of a group, ids alone."""
    rows, weights = rows_of(token_map)
    read = []
    for i, row in enumerate(rows):
        if weights is not None:
            read.append([(one, weight) for one, weight in zip(row, weights[i], strict=True)])
        else:
            read.append([(one, 1.0 if len(row) == 1 else "largest") for one in row])
    return read


FORMS = ("one", "weighted", "grouped")


@settings(max_examples=150, deadline=None)
@given(any_map(st.just(SRC), st.just(DST), FORMS), any_map(st.just(SRC), st.just(DST), FORMS))
def test_maps_are_equal_if_they_read_the_same(a, b):
    compared = Comparison(a, b)
    pairs = list(zip(read_slowly(a), read_slowly(b), strict=True))
    first = [[row[:1] and row[0][0] for row in pair] for pair in pairs]
    assert compared.other_dst.tolist() == [one != other for one, other in first]
    differ = compared.other_dst | compared.other_choices
    assert differ.tolist() == [one != other for one, other in pairs]
    assert not (compared.other_dst & compared.other_choices).any()
    assert compared.equal == (read_slowly(a) == read_slowly(b))
    groups = {group["same_match"]: group for group in compared.to_json()["groups"]}
    if compared.other_choices.any():
        assert groups[True]["tokens"] == compared.other_choices.sum()
        assert groups[True]["rule_a"] == groups[True]["rule_b"] == "encoding"


def test_compare_shows_other_choices(weighted):
    changed = [*WEIGHTS[:2], [0.5, 0.375, 0.125], *WEIGHTS[3:]]
    with_choices(ROWS, changed).save("b.arrow")
    done = run("compare", "weighted.arrow", "b.arrow")
    assert done.status == 1
    assert "0 of 5 tokens (0.00%) map to another token" in done.stdout
    assert "1 of 5 tokens (20.00%) have the same first choice, and others beside it" in done.stdout
    cells = [line.split() for line in done.stdout.splitlines()]
    assert ["encoding", "encoding", "other", "choices", "1", "20.00%"] in cells
    shown = ["0:0.5", "1:0.25", "2:0.25", "0:0.5", "1:0.375", "2:0.125"]
    assert ["2", "abc", *shown] in cells
    document = json.loads(run("compare", "weighted.arrow", "b.arrow", "--json").stdout)
    (group,) = document["groups"]
    assert group["same_match"]
    (example,) = group["examples"]
    assert example["a"]["dst_ids"] == example["b"]["dst_ids"] == [0, 1, 2]
    assert example["b"]["weights"] == [0.5, 0.375, 0.125]
    assert document["other_choices"] == {"tokens": 1, "share": 0.2}
    assert run("compare", "weighted.arrow", "weighted.arrow").status == 0


def test_a_single_choice_is_a_match(tmp_path):
    one = [[3], [0], [0], [2], []]
    with_choices(one, [[1], [1], [1], [1], []]).save("weighted.arrow")
    with_choices(one, form="one").save("one.arrow")
    with_choices(one).save("grouped.arrow")
    for pair in (("one", "weighted"), ("grouped", "one"), ("weighted", "grouped")):
        assert run("compare", "-q", *(f"{name}.arrow" for name in pair)).status == 0
    with_choices(ROWS).save("several.arrow")
    done = run("compare", "one.arrow", "several.arrow")
    assert "2 of 5 tokens (40.00%) have the same first choice, and others beside it" in done.stdout
    assert ["2", "abc", "0", "0", "1", "2"] in [line.split() for line in done.stdout.splitlines()]


# --- export --------------------------------------------------------------------------------------


def exported(token_map, name, path):
    (file,) = export_map(token_map, name, path)
    return file


@settings(max_examples=50, deadline=None)
@given(any_map())
def test_exports_lose_no_choice(tmp_path_factory, made):
    folder = tmp_path_factory.mktemp("map")
    rows, weights = rows_of(made)
    with exported(made, "csv", folder / "map.csv").open(newline="", encoding="utf-8") as file:
        texts = [row["choices"].split() for row in csv.DictReader(file, strict=True)]
    assert [[int(one.partition(":")[0]) for one in row] for row in texts] == rows
    if weights is not None:
        read = [[np.float32(one.partition(":")[2]) for one in row] for row in texts]
        assert read == weights
    with np.load(exported(made, "npz", folder / "map.npz"), allow_pickle=False) as file:
        assert_same_choices(dict(file), made.choices)
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = exported(made, "safetensors", folder / "map.safetensors")
    assert_same_choices(safetensors.load_file(tensors), made.choices)


def assert_same_choices(arrays, choices):
    found = {name: array for name, array in arrays.items() if name.startswith("choice_")}
    expected = {"choice_offsets": choices.offsets, "choice_dst_id": choices.dst_id}
    if choices.weight is not None:
        expected["choice_weight"] = choices.weight
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_parquet_in_pandas_and_duckdb(weighted, grouped):
    duckdb, pandas = pytest.importorskip("duckdb"), pytest.importorskip("pandas")
    for token_map in (weighted, grouped):
        path = exported(token_map, "parquet", f"{token_map.form}.parquet")
        assert [row.tolist() for row in pandas.read_parquet(path)["dst_ids"]] == ROWS
        read = duckdb.sql(f"FROM '{path}'")
        rows = [dict(zip(read.columns, row, strict=True)) for row in read.fetchall()]
        assert rows == token_map.to_arrow().to_pylist()


def test_safetensors_fuse_logits_in_torch(weighted):
    """As docs/export.md does: the mean of the logits that are read, by weight."""
    torch = pytest.importorskip("torch")
    tensors = pytest.importorskip("safetensors.torch").load_file(
        exported(weighted, "safetensors", "map.safetensors")
    )
    counts = tensors["choice_offsets"].diff()
    rows = torch.repeat_interleave(torch.arange(len(counts)), counts)
    read = torch.tensor([8.0, 4.0, 16.0, 1.0])[tensors["choice_dst_id"]]
    fused = torch.zeros(len(counts)).index_add(0, rows, tensors["choice_weight"] * read)
    expected = [1, 8, 8 * 0.5 + 4 * 0.25 + 16 * 0.25, 16 * 0.9 + 4 * 0.1, 0]
    torch.testing.assert_close(fused, torch.tensor(expected))


@pytest.mark.parametrize("name", ["assistant-to-target", "cmc-json"])
def test_formats_of_one_token_each_refuse_several(weighted, tmp_path, name):
    said = refused("export", "weighted.arrow", "--format", name, "-o", "one2one")
    assert said == (
        f"{name} holds one destination token for each source token, and 2 of this map have "
        "several: build a map with --strategy pm-mined or first-token"
    )
    assert not list(tmp_path.glob("one2one*"))
    with_choices([[3], [0], [0], [2], []]).save("single.arrow")
    done = run("export", "single.arrow", "--format", name, "-o", "one2one")
    assert done.status == 0, done.stderr


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"assistant-to-target", "cmc-json"}))
def test_the_same_map_is_the_same_bytes(weighted, tmp_path, name):
    first = exported(weighted, name, tmp_path / "first").read_bytes()
    assert exported(load_map("weighted.arrow"), name, tmp_path / "again").read_bytes() == first


@pytest.mark.parametrize("name", ["csv", "parquet", "npz", "safetensors"])
def test_maps_without_choices_say_nothing_of_them(tmp_path, name):
    content = exported(build_map(SRC, DST), name, tmp_path / "map").read_bytes()
    assert b"choice" not in content
    assert b"dst_ids" not in content


# --- audit ---------------------------------------------------------------------------------------

SCHEMA = json.loads((ROOT / "docs" / "audit.schema.json").read_text("utf-8"))


@settings(max_examples=20, deadline=None)
@given(any_map(forms=FORMS), st.data())
def test_an_audit_counts_choices(made, data):
    size = len(made)
    uses = np.array(data.draw(st.lists(st.integers(0, 9), min_size=size, max_size=size)), np.int64)
    for usage in (None, Usage(uses, [], 1, 0, 0)):
        document = Audit(made, usage).to_json()
        jsonschema.Draft202012Validator(SCHEMA).validate(document)
        choices, counts = document["choices"], [len(row) for row in rows_of(made)[0]]
        mapped = [count for count in counts if count]
        assert choices["form"] == made.form
        assert choices["max"] == max(counts, default=0)
        assert choices["mean"] == pytest.approx(np.mean(mapped) if mapped else 0)
        assert choices["several"]["tokens"] == sum(count > 1 for count in counts)
        if usage is not None:
            used = sum(n for n, count in zip(uses.tolist(), counts, strict=True) if count > 1)
            assert choices["several"]["uses"] == used


def test_an_audit_is_of_the_first_choice(weighted):
    """Its other figures are those of the map with that choice alone."""
    document, alone = (Audit(one).to_json() for one in (weighted, with_choices(ROWS, form="one")))
    assert document.pop("choices") != alone.pop("choices")
    assert document == alone
    by_rule = {group["name"]: group for group in document["rules"]}
    assert by_rule["encoding"]["by_match"]["near"]["tokens"] == 4


def test_the_command_says_so(weighted):
    shown = run("audit", "weighted.arrow").stdout.splitlines()
    assert shown[0].endswith("strategy distribute, top 8, distances in code points")
    assert shown[1:3] == [
        "weighted: 2 tokens (40.00%) map to several, up to 3; 1.75 on average where mapped",
        "all figures below are of the first token that each maps to",
    ]
    build_map(SRC, DST).save("one.arrow")
    assert "first token" not in run("audit", "one.arrow").stdout


def test_the_page_holds_it(weighted):
    page = render_page(Audit(weighted))
    assert embedded(page, "audit")["choices"]["max"] == 3
    strategy = "strategy distribute, top 8, distances in code points"
    assert embedded(page, "columns")["strategy"] == strategy
