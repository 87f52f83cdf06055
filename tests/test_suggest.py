"""What `overrides suggest` offers, and that a table of it means what it shows."""

import re
import shlex
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny_tokenizers as tiny
from command_line import refused, run
from conftest import quick_first, real_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

from pm_mined import Kind, Rule, Vocabulary, build_map, load_map, load_vocabulary
from pm_mined.overrides.suggest import Suggester
from pm_mined.overrides.suggested_table import header_lines, override_table
from pm_mined.overrides.table import read_overrides
from pm_mined.strategies.registry import metadata_of, options_of
from pm_mined.strategies.special import match_special_tokens

COMMENTED_ROW = re.compile(r"^( *)# (\{ .*)$", re.MULTILINE)
PAIRS = [
    ("llama4", "qwen3"),
    ("qwen3", "llama4"),
    ("deepseek", "qwen3"),
    ("mistral-tekken", "llama3"),
    ("llama3", "mistral-v1"),
]


def vocabulary(*tokens, name="toy"):
    """Special tokens are given as `str`, text as `bytes`."""
    kinds = [Kind.SPECIAL if isinstance(token, str) else Kind.TEXT for token in tokens]
    encoded = [token.encode() if isinstance(token, str) else token for token in tokens]
    return Vocabulary.from_tokens(encoded, kinds, name=name)


def suggester(src, dst, **how):
    return Suggester(build_map(src, dst, **how), dst)


def suggested(src, dst):
    """Source id -> what it might map to, as (id, why)."""
    return {
        undecided.src_id: [(i, why) for i, why, _ in undecided.suggestions]
        for undecided in suggester(src, dst).special_tokens
    }


def uncommented(table, number):
    """The table with its n-th commented row uncommented, as a person would."""
    row = list(COMMENTED_ROW.finditer(table))[number]
    return table[: row.start()] + row[1] + row[2] + table[row.end() :]


def read(tmp_path, table, src, dst):
    path = tmp_path / "table.toml"
    path.write_text(table, encoding="utf-8")
    return read_overrides(path, src, dst).dst_of


def test_the_identical_literal_comes_first_though_it_is_text():
    src = vocabulary("<pad>", "<bos>")
    dst = vocabulary(b"<pad>", "<mask>", "<bos>", "</s>")
    assert suggested(src, dst)[0][:2] == [(0, "identical literal"), (3, "related role eos")]


def test_text_that_is_special_in_the_destination_is_to_decide():
    src = vocabulary(b"<", b"plain", b"<|fim_prefix|>")
    dst = vocabulary(b"<", "plain", "<|fim_prefix|>")
    assert suggested(src, dst) == {
        1: [(1, "identical literal")],
        2: [(2, "identical literal")],
    }


def test_roles_come_before_spelling_and_special_before_text():
    src = vocabulary("<|eom|>", "<|python_start|>", "[SYSTEM_PROMPT]")
    dst = vocabulary(b"<tool_call>", "<|python_starts|>", "<|im_start|>", b"<|python_start_|>")
    assert suggested(src, dst) == {
        0: [],
        1: [(0, "role tool_call_start"), (1, "spelled alike"), (3, "spelled alike")],
        2: [(2, "related role start_of_turn")],
    }


def test_a_role_that_stands_in_is_named():
    src = vocabulary("<|eom_id|>")
    dst = vocabulary(b"<|im_end|>", b"</s>")
    assert suggested(src, dst) == {0: [(0, "role end_of_turn")]}, "</s> as text is only text"


def test_what_is_matched_overridden_or_reserved_is_not_to_decide(tmp_path):
    src = Vocabulary.from_tokens(
        [b"<s>", b"<|step|>", b"<|patch|>", b"<unused0>", b"<|im_end|>"],
        [Kind.SPECIAL, Kind.SPECIAL, Kind.SPECIAL, Kind.UNUSED, Kind.TEXT],
    )
    dst = Vocabulary.from_tokens(
        [b"<bos>", b"<|step|>", b"<|im_end|>", b"<"],
        [Kind.SPECIAL, Kind.UNUSED, Kind.TEXT, Kind.TEXT],
    )
    (tmp_path / "table.toml").write_text('[[override]]\nsrc = "<|patch|>"\ndst = false\n')
    made = build_map(src, dst, overrides=tmp_path / "table.toml")
    (left,) = Suggester(made, dst).special_tokens
    assert left == (1, [], None), "the identical literal is reserved, so it is not suggested"


def test_of_one_role_special_tokens_come_before_text():
    src, dst = vocabulary("<|image_start|>"), vocabulary(b"<|image_pad|>", "<image>")
    assert suggested(src, dst) == {0: [(1, "related role image"), (0, "related role image")]}


def test_what_a_token_reads_already_is_not_suggested():
    src, dst = vocabulary(b"<|abcdef|>g|>"), vocabulary(b"<|abcdef|>", b"<|abcdefgh|>")
    assert build_map(src, dst).dst_id.tolist() == [0]
    assert suggested(src, dst) == {0: [(1, "spelled alike")]}


@pytest.mark.parametrize(("src", "dst"), PAIRS)
def test_what_is_left_to_decide_is_what_the_roles_left(src, dst):
    """All unmapped special tokens are there, or among the numbered ones; and no other special."""
    src, dst = real_vocabulary(src), real_vocabulary(dst)
    found = suggester(src, dst)
    listed = [u.src_id for u in found.special_tokens if src.kind(u.src_id) is Kind.SPECIAL]
    numbered = [i for run_of_ids in found.numbered_tokens for i in run_of_ids]
    matched = match_special_tokens(src, dst)
    expected = [i for i in src.ids_of_kind(Kind.SPECIAL) if i not in matched]
    assert sorted(listed + numbered) == expected


@pytest.mark.parametrize(
    ("src", "dst", "how"),
    [
        ("llama4", "qwen3", {"fallback": "edit", "max_distance": 3}),
        ("llama3", "mistral-v1", {"strategy": "both-ways"}),
        *quick_first(
            [
                (src, dst, {"strategy": name})
                for src, dst in PAIRS
                for name in ("pm-mined", "exact")
            ],
            1,
        ),
        pytest.param("llama4", "qwen3", {"strategy": "decay"}, marks=pytest.mark.slow),
    ],
)
def test_a_table_as_written_changes_nothing(tmp_path, src, dst, how):
    src, dst = real_vocabulary(src), real_vocabulary(dst)
    found = suggester(src, dst, **how)
    table = override_table(found, [], ["a header"])
    assert read(tmp_path, table, src, dst) == {}
    again = build_map(src, dst, **how, overrides=tmp_path / "table.toml")
    for name, digest in found.token_map.info.column_sha256.items():
        assert again.info.column_sha256[name] == digest


# --- Maps of every strategy ----------------------------------------------------------------------

EVERY_STRATEGY = [
    {},
    {"unit": "byte"},
    {"fallback": "edit"},
    {"fallback": "edit", "max_distance": 7, "unit": "byte"},
    {"strategy": "exact"},
    {"strategy": "mined"},
    {"strategy": "first-token", "unit": "byte"},
    {"strategy": "distribute", "top_k": 3},
    {"strategy": "decay", "decay": 0.3},
    {"strategy": "prefixes", "decay": 1e-05},
    {"strategy": "both-ways"},
]


@pytest.fixture(scope="module")
def tinies(tmp_path_factory):
    """Two tiny tokenizers and the folder of their files."""
    folder = tmp_path_factory.mktemp("tiny")
    for name, make in ("src", tiny.metaspace_bpe), ("dst", tiny.word_piece):
        make().save(str(folder / f"{name}.json"))
    return folder, *(load_vocabulary(folder / f"{name}.json") for name in ("src", "dst"))


def build_command(token_map):
    """The words after `pm-mined build` of the head of a table."""
    lines = header_lines(token_map, Path("map.arrow"), Path("t.toml"), "SRC", "DST")
    (line,) = (line for line in lines if line.startswith("  pm-mined build "))
    return shlex.split(line)[2:]


@pytest.mark.parametrize("how", EVERY_STRATEGY)
def test_the_command_has_the_options_of_the_strategy(tinies, how):
    _, src, dst = tinies
    made = build_map(src, dst, **how)
    words = build_command(made)
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert (given.pop("--src"), given.pop("--dst")) == ("SRC", "DST")
    assert (given.pop("--overrides"), given.pop("-o")) == ("t.toml", "map.edited.arrow")
    name = given.pop("--strategy", "pm-mined")
    types = {"top_k": int, "max_distance": int, "decay": float}
    keys = {option.removeprefix("--").replace("-", "_"): value for option, value in given.items()}
    options = options_of(name, {key: types.get(key, str)(value) for key, value in keys.items()})
    assert metadata_of(name, options) == made.info.strategy
    assert bool(given) == bool(how)


@pytest.mark.parametrize(
    "how",
    [
        {"fallback": "edit", "max_distance": 3, "unit": "byte"},
        {"strategy": "decay", "top_k": 2, "decay": 0.3},
    ],
)
def test_the_command_builds_the_same_map(tinies, tmp_path, how):
    folder, src, dst = tinies
    build_map(src, dst, **how).save(tmp_path / "map.arrow")
    pair = ("--src", folder / "src.json", "--dst", folder / "dst.json")
    done = run("overrides", "suggest", "map.arrow", "-o", "table.toml", *pair, cwd=tmp_path)
    assert (done.status, done.stderr) == (0, "")
    table = (tmp_path / "table.toml").read_text("utf-8")
    (command,) = re.findall(r"^#   pm-mined (build .*)$", table, re.MULTILINE)
    assert run(*shlex.split(command), cwd=tmp_path).status == 0
    old, new = (load_map(tmp_path / name) for name in ("map.arrow", "map.edited.arrow"))
    assert new.info.strategy == old.info.strategy
    assert new.info.column_sha256 == old.info.column_sha256


@pytest.mark.parametrize("how", EVERY_STRATEGY)
def test_what_is_unmapped_is_to_decide_whatever_the_strategy(tinies, how):
    _, src, dst = tinies
    found = suggester(src, dst, **how)
    made, kinds = found.token_map, src.packed.kinds
    listed = [one.src_id for one in found.unmapped_tokens(np.ones(len(src), np.int64), len(src))]
    ordinary = kinds <= Kind.FRAGMENT
    assert sorted(listed) == np.flatnonzero((made.dst_id == -1) & ordinary).tolist()
    special = {one.src_id for one in found.special_tokens}
    assert special >= set(np.flatnonzero((made.dst_id == -1) & (kinds == Kind.SPECIAL)).tolist())


def test_text_that_looks_special_and_is_cut_up_is_to_decide(tinies):
    dst = tinies[1]
    found = suggester(vocabulary(b"<s>"), dst, strategy="decay")
    assert found.token_map.rule.tolist() == [Rule.ENCODING]
    (one,) = found.special_tokens
    assert [(one.src_id, *one.suggestions[0][:2])] == [
        (0, i, "identical literal") for i in dst.find(b"<s>")
    ]
    (count,) = found.token_map.choice_counts
    assert f" and {count - 1} more by encoding" in override_table(found, [], [])


def test_the_first_of_several_choices_can_be_suggested():
    src, dst = vocabulary(b"<|abcdef|>g|>"), vocabulary(b"<|abcdef|>", b"<|abcdefgh|>", b"<|")
    found = suggester(src, dst, strategy="prefixes")
    assert found.token_map.choices.dst_id.tolist() == [0, 2]
    (one,) = found.special_tokens
    assert [suggestion.dst_id for suggestion in one.suggestions] == [1, 0]
    assert suggested(src, dst)[0] == [(1, "spelled alike")]


def test_a_target_is_read_by_all_that_choose_it():
    src, dst = vocabulary("<|z|>", b"<|a|>x"), vocabulary(b"<|a|>", b"<|a|>xyz|>", "<|q|>")
    table = override_table(suggester(src, dst, strategy="prefixes"), [], [])
    lines = [line.strip() for line in table.splitlines() if line.strip().startswith("# dst")]
    assert [line.partition(", ")[2] for line in lines] == [
        "mapped from <|a|>x",
        "mapped from <|a|>x",
        "mapped from none",
    ]


def test_what_an_earlier_table_decided_stays_decided(tmp_path):
    src, dst = vocabulary("<|a|>", "<|b|>", b"c"), vocabulary("<|x|>", b"c")
    (tmp_path / "old.toml").write_text(
        '[[override]]\nsrc = "<|a|>"\ndst = "<|x|>"\n[[override]]\nsrc = "c"\ndst = false\n'
    )
    made = build_map(src, dst, overrides=tmp_path / "old.toml")
    table = override_table(Suggester(made, dst), [], [])
    assert read(tmp_path, table, src, dst) == {0: 0, 2: -1}


def rows_shown(found, undecided):
    """All rows of a table in its order: (src id, dst id), and then never."""
    return [
        pair
        for one in undecided
        for pair in [*((one.src_id, s.dst_id) for s in one.suggestions), (one.src_id, -1)]
    ]


@pytest.mark.parametrize(("src", "dst"), quick_first(PAIRS, 2))
def test_every_row_means_what_it_shows(tmp_path, src, dst):
    src, dst = real_vocabulary(src), real_vocabulary(dst)
    found = suggester(src, dst)
    table = override_table(found, [], [])
    shown = rows_shown(found, found.special_tokens)
    assert len(COMMENTED_ROW.findall(table)) == len(shown)
    for number, (src_id, dst_id) in enumerate(shown):
        document = uncommented(table, number)
        assert read(tmp_path, document, src, dst) == {src_id: dst_id}, shown[number]


hostile = st.one_of(
    st.text(
        st.sampled_from("<|｜>▁\"\\'#{}[],=\n\r\t\0 éaé\u0301\u202e\u2028\x85\U000e0001"),
        max_size=6,
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
).map(str.encode)
hostile_tokens = st.lists(
    st.tuples(
        st.one_of(hostile, st.just(b"<|a|>"), st.just(b"<think>"), st.binary(max_size=3)),
        st.sampled_from([Kind.SPECIAL, Kind.SPECIAL, Kind.TEXT, Kind.UNUSED]),
    ),
    max_size=7,
)


@settings(deadline=None)
@given(hostile_tokens, hostile_tokens, st.text(max_size=8))
def test_whatever_the_tokens_a_row_means_what_it_shows(tmp_path_factory, of_src, of_dst, name):
    tmp_path = tmp_path_factory.mktemp("hostile")
    src = Vocabulary.from_tokens(*(list(zip(*of_src, strict=True)) or ((), ())), name=name)
    dst = Vocabulary.from_tokens(*(list(zip(*of_dst, strict=True)) or ((), ())), name=name)
    found = suggester(src, dst, strategy="exact")
    unmapped = found.unmapped_tokens(build_map(src, dst).rule * 0 + 1, 20)
    shown = rows_shown(found, [*found.special_tokens, *unmapped])
    table = override_table(found, unmapped, [f"from {name}\nsrc = 1"])
    assert read(tmp_path, table, src, dst) == {}
    assert len(COMMENTED_ROW.findall(table)) == len(shown)
    for number, (src_id, dst_id) in enumerate(shown):
        assert read(tmp_path, uncommented(table, number), src, dst) == {src_id: dst_id}


def test_a_literal_of_several_tokens_is_named_by_id():
    src, dst = vocabulary("<|xyz|>", b"<|xyz|>"), vocabulary("<|xyza|>", b"<|xyza|>")
    table = override_table(suggester(src, dst), [], [])
    assert '# { src_id = 0, dst_id = 0, note = "spelled alike" },' in table
    assert "# <|xyza|> (special), 86% alike" in table


def test_numbered_tokens_are_counted_and_not_listed():
    found = suggester(real_vocabulary("deepseek"), real_vocabulary("qwen3"))
    (numbered,) = found.numbered_tokens
    literals = {re.sub(rb"\d+", b"0", found.src[i]) for i in numbered}
    assert literals == {b"<|place_holder_mm_span_0|>"}
    table = override_table(found, [], [])
    assert table.count("place_holder_mm_span") == 2
    assert f"# {len(numbered)} numbered tokens are left out, unmapped" in table


def test_nine_numbered_tokens_are_nine_decisions():
    assert (
        len(suggester(vocabulary(*(f"<|{i}|>" for i in range(9))), vocabulary(b"a")).special_tokens)
        == 9
    )
    ten = suggester(vocabulary(*(f"<|{i}|>" for i in range(10))), vocabulary(b"a"))
    assert ten.special_tokens == []
    assert ten.numbered_tokens == [list(range(10))]


def test_a_table_shows_what_can_be_chosen():
    src, dst = vocabulary("<|a|>", "</s>", "<|eos|>"), vocabulary("<|q|>", "<eos>", b"<br>")
    lines = override_table(suggester(src, dst), [], []).splitlines()
    first, second = (line.strip() for line in lines if line.strip().startswith("# dst"))
    assert first == '# dst = "<|q|>"  # 0 (special), mapped from none'
    assert second == '# dst = "<eos>"  # 1 (special, role eos), mapped from </s>, <|eos|>'


def test_nothing_to_decide_is_said(tmp_path):
    same = vocabulary("<s>", b"a")
    table = override_table(suggester(same, same), [], [])
    assert "# --- Every special token has a counterpart" in table
    assert tomllib.loads(table) == {"override": []}


def test_unmapped_tokens_by_uses_times_characters():
    src = vocabulary(b"a", b"xyz", "龘".encode(), b"\xe9\xbe\x98\xe9", b"xyzw")
    dst = vocabulary(b"a", b"xy", b"\xe9\xbe", b"xyz!", b" ")
    found = suggester(src, dst, strategy="exact")
    assert [found.src.kind(i).name for i in (2, 3)] == ["TEXT", "FRAGMENT"]
    uses = Counter({0: 100, 1: 2, 2: 7, 3: 1, 4: 0})
    counts = found.token_map.dst_id * 0
    for token_id, count in uses.items():
        counts[token_id] = count
    listed = found.unmapped_tokens(counts, 20)
    assert [(one.src_id, one.uses) for one in listed] == [(2, 7), (1, 2), (3, 1)]
    assert [s[:2] for s in listed[0].suggestions] == [(2, "first piece")]
    assert [s[:2] for s in listed[1].suggestions] == [(1, "first piece"), (3, "spelled alike")]
    assert [s[:2] for s in listed[2].suggestions] == [(2, "first piece")]
    assert [one.src_id for one in found.unmapped_tokens(counts, 1)] == [2]


def test_the_bare_space_is_no_first_piece():
    src, dst = vocabulary(" 龘".encode(), "a 龘".encode()), vocabulary(b" ", b"a ")
    found = suggester(src, dst, strategy="exact")
    first, second = found.unmapped_tokens(found.token_map.dst_id * 0 + 1, 2)
    assert (first.src_id, [s[:2] for s in first.suggestions]) == (1, [(1, "first piece")])
    assert (second.src_id, second.suggestions) == (0, [])


@pytest.fixture
def made(tmp_path):
    """A folder with the map of Llama 4 onto Qwen 3."""
    real_vocabulary("qwen3")
    build_map(real_vocabulary("llama4"), real_vocabulary("qwen3")).save(tmp_path / "map.arrow")
    return tmp_path


@pytest.mark.slow
def test_from_a_map_to_a_better_map(made):
    """Suggest, uncomment, and then what the table itself says to run."""
    done = run("overrides", "suggest", "map.arrow", "-o", "my table.toml", cwd=made)
    assert (done.status, done.stderr) == (0, "")
    assert "my table.toml  7 tokens to decide" in done.stdout
    table = (made / "my table.toml").read_text("utf-8")
    check, build, compare = re.findall(r"^#   pm-mined (.*)$", table, re.MULTILINE)
    assert check == "overrides check 'my table.toml' --src llama4 --dst qwen3"
    words = [
        [
            "my table.toml" if w == "TABLE" else w
            for w in command.replace("'my table.toml'", "TABLE").split()
        ]
        for command in (check, build, compare)
    ]

    done = run(*words[0], cwd=made)
    assert (done.status, done.stdout) == (0, "my table.toml: valid, and decides nothing yet\n")
    assert run(*words[1], cwd=made).status == 0
    assert run(*words[2], cwd=made).status == 0, "nothing is decided, so the maps are equal"

    edited = table.replace(
        '# { src = "<|finetune_right_pad|>", dst = "<|endoftext|>"',
        '{ src = "<|finetune_right_pad|>", dst = "<|endoftext|>"',
    )
    edited = edited.replace(
        '# { src = "<|step|>", dst = false', '{ src = "<|step|>", dst = "<|im_end|>"'
    )
    assert edited != table
    (made / "my table.toml").write_text(edited, encoding="utf-8")
    done = run(*words[0], cwd=made)
    assert (done.status, done.stderr) == (0, "")
    assert [line.split()[:4] for line in done.stdout.splitlines()[1:]] == [
        ["200009", "<|step|>", "151645", "<|im_end|>"],
        ["200018", "<|finetune_right_pad|>", "151643", "<|endoftext|>"],
    ]
    assert run(*words[1], cwd=made).status == 0
    done = run(*words[2], "--json", cwd=made)
    assert done.status == 1
    assert '"tokens": 2' in done.stdout


def test_suggest_prints_what_it_would_write(made):
    printed = run("overrides", "suggest", "map.arrow", "--dst", "qwen", cwd=made)
    assert printed.stderr == ""
    run("overrides", "suggest", "map.arrow", "--dst", "qwen", "-o", "overrides.toml", cwd=made)
    assert (made / "overrides.toml").read_text("utf-8") == printed.stdout
    assert "--dst qwen --overrides overrides.toml" in printed.stdout


def test_a_table_with_edits_is_not_replaced(made):
    table = made / "table.toml"
    table.write_text("# mine\n")
    command = ("overrides", "suggest", "map.arrow", "-o", "table.toml")
    assert refused(*command, cwd=made) == (
        "table.toml: is there already and may hold edits; name another file with -o, or replace it "
        "with --force"
    )
    assert table.read_text() == "# mine\n"
    assert run(*command, "--force", cwd=made).status == 0
    assert table.read_text("utf-8").startswith("# Overrides for llama4 -> qwen3")
    (made / "link.toml").symlink_to("nowhere.toml")
    assert "is there already" in refused(*command[:-1], "link.toml", cwd=made)
    assert "cannot write: No such file" in refused(*command[:-1], "absent/table.toml", cwd=made)


def test_a_map_of_another_destination_is_refused(made):
    real_vocabulary("llama3")
    message = refused("overrides", "suggest", "map.arrow", "--dst", "llama3", cwd=made)
    assert "llama3 is not the destination of this map" in message


@pytest.mark.parametrize(
    "options",
    [["--unmapped"], ["--text", "a.txt"], ["--unmapped", "--text", "a.txt", "--limit", "0"]],
)
def test_options_that_do_not_go_together(made, options):
    (made / "a.txt").write_text("a")
    done = run("overrides", "suggest", "map.arrow", *options, cwd=made)
    assert (done.status, done.stdout) == (2, "")
    assert "--unmapped" in done.stderr or "--limit" in done.stderr


def test_the_unmapped_tokens_of_a_text(tmp_path):
    src, dst = real_vocabulary("llama3"), real_vocabulary("mistral-v1")
    token_map = build_map(src, dst)
    token_map.save(tmp_path / "map.arrow")
    (tmp_path / "text.txt").write_text("hello\n\n" * 7 + "hello\tif", encoding="utf-8")
    options = ("--unmapped", "--text", "text.txt", "--limit", "3")
    done = run("overrides", "suggest", "map.arrow", *options, cwd=tmp_path)
    assert (done.status, done.stderr) == (0, "")
    section = done.stdout.partition("matter most to the text")[2].split("# ---")[0]
    headings = re.findall(r"^ +# (.*)\): unmapped, uses in the text: (.*)$", section, re.MULTILINE)
    assert headings == [("271 \\n\\n (text", "7"), ("748 \\tif (text", "1")]
    assert (
        '# { src = "\\n\\n", dst = "\\n", note = "first piece" },  # 13 (byte), 67% alike'
        in section
    )
    assert read(tmp_path, done.stdout, src, dst) == {}
