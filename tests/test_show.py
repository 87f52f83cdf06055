"""`pm-mined show`: matches, runners-up and readers, for people and as JSON."""

import json
import os
import shutil
import subprocess
from base64 import b64encode

import numpy as np
import pytest
import tiny_tokenizers as tiny
from command_line import COMMAND, refused, run
from conftest import real_vocabulary

from pm_mined import Kind, Vocabulary, build_map, load_map, load_vocabulary
from pm_mined.display import display_token
from pm_mined.kernels.tokens import Choices, Matches
from pm_mined.maps.token_map import TokenMap

SRC = "YQ== 0\nYWI= 1\nIGI= 2\n"  # a, ab, " b"
DST = "IGI= 0\nYQ== 1\nYWJj 2\neHl6 3\n"  # " b", a, abc, xyz


@pytest.fixture
def files(tmp_path):
    """A folder with a map and the two tiny rank files that it was built from."""
    (tmp_path / "src.tiktoken").write_text(SRC)
    (tmp_path / "dst.tiktoken").write_text(DST)
    made = build_map(*(load_vocabulary(tmp_path / f"{side}.tiktoken") for side in ("src", "dst")))
    made.save(tmp_path / "map.arrow")
    return tmp_path


def show(files, *arguments, **environ):
    """What is shown of a map, with the destination that lies beside it, if there is one."""
    beside = [name for name in ("dst.tiktoken", "dst.json") if (files / name).exists()]
    dst = ["--dst", beside[0]] if beside and "--dst" not in arguments else []
    done = run("show", "map.arrow", *arguments, *dst, cwd=files, **environ)
    assert done.status == 0, done
    return done


def lines_of(done):
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


def test_one_token(files):
    done = show(files, "ab")
    assert done.stderr == ""
    assert lines_of(done) == [
        "ab (1, text) maps to a (1): prefix, distance 1",
        "lost abc (2) extension, distance 1 same distance, higher id",
        "mapped from 2 tokens: a (0, exact), ab (1, prefix 1)",
    ]


def test_several_tokens_begin_with_a_table(files):
    lines = lines_of(show(files, "ab", "2", "0x61"))
    assert lines[1:5] == [
        "1 ab text prefix 1 1 a",
        "2 ␣b text exact 0 0 ␣b",
        "0 a text exact 0 1 a",
        "",
    ]
    assert [line for line in lines[5:] if " maps to " in line] == [
        "ab (1, text) maps to a (1): prefix, distance 1",
        "␣b (2, text) maps to ␣b (0): exact",
        "a (0, text) maps to a (1): exact",
    ]
    assert "mapped from no other token" in lines


def test_without_a_limit_there_is_the_table_alone(files):
    (files / "dst.tiktoken").unlink()  # it is not needed
    done = show(files, "ab", "--limit", "0")
    assert done.stderr == ""
    assert lines_of(done)[1:] == ["1 ab text prefix 1 1 a"]
    (row,) = json.loads(show(files, "ab", "--limit", "0", "--json").stdout)["rows"]
    assert row["runners_up"] is None
    assert row["read_by"] == {"count": 2, "first": []}


def test_the_limit_says_what_is_left_out(tmp_path):
    tokens = [b"a" * length for length in range(1, 9)]
    src = Vocabulary.from_tokens([b"a" * 20] * 3, [Kind.TEXT] * 3)
    build_map(src, Vocabulary.from_tokens(tokens, [Kind.TEXT] * 8)).save(tmp_path / "map.arrow")
    ranks = [f"{b64encode(token).decode()} {i}\n" for i, token in enumerate(tokens)]
    (tmp_path / "dst.tiktoken").write_text("".join(ranks))
    lines = lines_of(show(tmp_path, "0", "--dst", "dst.tiktoken", "--limit", "2"))
    assert len(lines) == 5
    assert lines[3] == "and 5 more"
    assert lines[4].endswith("and 1 more")


def test_json(files):
    (row,) = json.loads(show(files, "ab", "--json").stdout)["rows"]
    assert row == {
        "src_id": 1,
        "src_token": "ab",
        "src_token_hex": "6162",
        "src_kind": "text",
        "rule": "prefix",
        "distance": 1,
        "dst_id": 1,
        "dst_token": "a",
        "dst_token_hex": "61",
        "choices": [choice(1, b"a")],
        "by_rules": 1,
        "why": "",
        "encoding": None,
        "runners_up": [
            {
                "dst_id": 2,
                "token": "abc",
                "token_hex": "616263",
                "kind": "text",
                "relation": "extension",
                "distance": 1,
                "reason": "same distance, higher id",
            }
        ],
        "runners_up_count": 1,
        "nearest": [],
        "read_by": {
            "count": 2,
            "first": [
                reader(0, "a", "61", "exact", 0),
                reader(1, "ab", "6162", "prefix", 1),
            ],
        },
    }


def choice(dst_id, token, weight=None):
    return {**named(dst_id, token), "weight": weight}


def named(dst_id, token):
    known = token is not None
    return {
        "dst_id": dst_id,
        "dst_token": token.decode() if known else None,
        "dst_token_hex": token.hex() if known else None,
    }


def reader(src_id, token, digits, rule, distance, place=1, weight=None):
    return {
        "src_id": src_id,
        "src_token": token,
        "src_token_hex": digits,
        "src_kind": "text",
        "rule": rule,
        "distance": distance,
        "choice": place,
        "weight": weight,
    }


def test_unmapped(files):
    src = Vocabulary.from_tokens([b"xy", b"zyx"], [Kind.TEXT] * 2)
    build_map(src, load_vocabulary(files / "dst.tiktoken"), strategy="exact").save(
        files / "map.arrow"
    )
    assert lines_of(show(files, "xy"))[:3] == [
        "xy (0, text) is unmapped",
        "why no token has the same bytes, and strategy exact takes no others",
        "lost xyz (3) extension, distance 1 strategy exact takes the same bytes only",
    ]
    (line,) = (line for line in lines_of(show(files, "zyx")) if line.startswith("nearest"))
    assert line.endswith("spelled alike, but no candidates")
    assert json.loads(show(files, "zyx", "--json").stdout)["rows"][0]["read_by"] is None


def test_an_override_says_what_the_rules_choose(files):
    (files / "table.toml").write_text('[[override]]\nsrc = "ab"\ndst = "xyz"\n')
    pair = ("--src", "src.tiktoken", "--dst", "dst.tiktoken")
    run("build", *pair, "-o", "map.arrow", "--overrides", "table.toml", cwd=files)
    assert lines_of(show(files, "ab"))[:2] == [
        "ab (1, text) maps to xyz (3): override",
        "why an override decided; the rules alone choose a (1): prefix, distance 1",
    ]


def test_a_byte_token_is_said_to_be_one(tmp_path):
    dst = Vocabulary.from_tokens([b"\n"], [Kind.BYTE])
    build_map(Vocabulary.from_tokens([b"\n"], [Kind.TEXT]), dst).save(tmp_path / "map.arrow")
    assert lines_of(show(tmp_path, "0"))[0] == r"\n (0, text) maps to \n (0): byte"


def test_a_number_is_an_id_and_a_text(tmp_path):
    tokens = [b"x", b"0", b"\x1b[31m\xe2\x80\xae[bold]"]
    numbers = Vocabulary.from_tokens(tokens, [Kind.TEXT] * 3)
    build_map(numbers, numbers).save(tmp_path / "map.arrow")
    done = show(tmp_path, "0", "2")
    assert [line.split()[:2] for line in lines_of(done)[1:4]] == [
        ["0", "x"],
        ["1", "0"],
        ["2", r"\x1b[31m\u202e[bold]"],
    ]
    assert "\x1b" not in done.stdout
    assert r"\x1b[31m\u202e[bold] (2, text) maps to " in done.stdout


def test_the_token_with_a_space_is_named(files):
    message = refused("show", "map.arrow", "b", cwd=files)
    assert message == "src.tiktoken has no token 'b' (ids are 0 to 2); ␣b has id 2"


def test_a_limit_below_zero_is_a_usage_error(files):
    assert run("show", "map.arrow", "ab", "--limit", "-1", cwd=files).status == 2


# --- Several choices -----------------------------------------------------------------------------


@pytest.fixture
def weighted(files):
    """The same folder, with a map in which `ab` maps to `a` and `abc`, three to one."""
    pair = (load_vocabulary(files / f"{side}.tiktoken") for side in ("src", "dst"))
    made = build_map(*pair, strategy="prefixes")
    offsets, ids, weight = made.choices
    weight = np.where(ids == 2, 0.25, np.where(np.arange(4) == 1, 0.75, 1)).astype(np.float32)
    matches = Matches(made.dst_id, made.rule, made.distance)
    choices = Choices(offsets, ids, weight)
    dst = load_vocabulary(files / "dst.tiktoken")
    strategy = made.info.strategy
    TokenMap.from_matches(made.source, dst, matches, strategy=strategy, choices=choices).save(
        files / "map.arrow"
    )
    return files


def test_all_choices_are_shown_with_their_weights(weighted):
    assert lines_of(show(weighted, "ab")) == [
        "ab (1, text) maps to a (1): prefix, distance 1",
        "weights a (1) 0.75 prefix, distance 1",
        "abc (2) 0.25 extension, distance 1",
        "mapped from the first choice: 2 tokens: a (0, exact, weight 1), ab (1, prefix 1, weight "
        "0.75)",
    ]
    assert lines_of(show(weighted, "a"))[1:] == [
        "mapped from 2 tokens: a (0, exact, weight 1), ab (1, prefix 1, weight 0.75)"
    ]


def test_choices_in_the_table_of_several_tokens(weighted):
    lines = lines_of(show(weighted, "a", "ab", "--limit", "0"))
    assert lines == [
        "src id token kind rule distance dst id dst token all, by weight",
        "0 a text exact 0 1 a 1:1",
        "1 ab text prefix 1 1 a 1:0.75 2:0.25",
    ]


def test_choices_as_json(weighted):
    (row,) = json.loads(show(weighted, "ab", "--json").stdout)["rows"]
    assert row["choices"] == [choice(1, b"a", 0.75), choice(2, b"abc", 0.25)]
    assert row["runners_up"] == []
    assert row["read_by"]["first"][1] == reader(1, "ab", "6162", "prefix", 1, weight=0.75)


def test_without_the_destination_other_choices_have_no_name(weighted):
    (weighted / "dst.tiktoken").unlink()
    assert lines_of(show(weighted, "ab"))[1:3] == ["weights a (1) 0.75", "token 2 0.25"]
    (row,) = json.loads(show(weighted, "ab", "--json").stdout)["rows"]
    assert row["choices"] == [choice(1, b"a", 0.75), choice(2, None, 0.25)]


def test_reverse_counts_all_choices(weighted):
    assert lines_of(show(weighted, "--reverse", "abc", "a")) == [
        "abc (2, text) is mapped from 1 source token",
        "src id token kind rule distance choice weight",
        "1 ab text 2 0.25",
        "",
        "a (1, text) is mapped from 2 source tokens",
        "src id token kind rule distance choice weight",
        "0 a text exact 0 1 1",
        "1 ab text prefix 1 1 0.75",
    ]
    (token,) = json.loads(show(weighted, "--reverse", "abc", "--json").stdout)["tokens"]
    first = [reader(1, "ab", "6162", None, None, 2, 0.25)]
    assert token["read_by"] == {"count": 1, "first": first}
    (weighted / "dst.tiktoken").unlink()
    assert lines_of(show(weighted, "--reverse", "2"))[0] == "token 2 is mapped from 1 source token"


def test_many_choices_are_counted(tmp_path):
    tokens = [b"a" * length for length in range(1, 41)]
    dst = Vocabulary.from_tokens(tokens, [Kind.TEXT] * 40)
    src = Vocabulary.from_tokens([b"a" * 60], [Kind.TEXT])
    build_map(src, dst, strategy="prefixes", top_k=30, decay=1).save(tmp_path / "map.arrow")
    lines = lines_of(show(tmp_path, "0"))
    assert lines[1] == f"weights {'a' * 40} (39) 0.03333"
    assert lines[24:26] == ["token 16 0.03333", "and 6 more: --json lists them all"]
    assert len(json.loads(show(tmp_path, "0", "--json").stdout)["rows"][0]["choices"]) == 30
    assert lines_of(show(tmp_path, "0", "--limit", "0"))[1].endswith("33:0.03333 32:0.03333 ...")


@pytest.fixture
def tiny_pair(tmp_path):
    """A folder with two tokenizers that write each other's tokens."""
    for name, make in ("src", tiny.metaspace_bpe), ("dst", tiny.word_piece):
        make().save(str(tmp_path / f"{name}.json"))
    return tmp_path


def test_the_encoding_is_shown(tiny_pair):
    pair = (load_vocabulary(tiny_pair / f"{side}.json") for side in ("src", "dst"))
    made = build_map(*pair, strategy="decay")
    made.save(tiny_pair / "map.arrow")
    src_id = int(np.flatnonzero(made.choice_counts > 1)[0])
    (row,) = json.loads(show(tiny_pair, src_id, "--json").stdout)["rows"]
    written = [(one["dst_id"], one["dst_token"]) for one in row["encoding"]]
    assert [one["dst_id"] for one in row["choices"]] == [*dict.fromkeys(i for i, _ in written)]
    (line,) = (line for line in lines_of(show(tiny_pair, src_id)) if line.startswith("written"))
    assert line == "written " + ", ".join(
        f"{display_token(token.encode())} ({i})" for i, token in written
    )


def test_a_group_is_shown(tiny_pair):
    pair = (load_vocabulary(tiny_pair / f"{side}.json") for side in ("src", "dst"))
    made = build_map(*pair, strategy="both-ways")
    made.save(tiny_pair / "map.arrow")
    src_id = int(np.flatnonzero(made.choice_counts > 1)[0])
    first, second, *_ = made.choices.dst_id[made.choices.offsets[src_id] :].tolist()
    lines = lines_of(show(tiny_pair, src_id))
    assert lines[1].startswith("largest of ")
    assert f"({first})" in lines[1]
    assert f"({second})" in lines[2]
    assert lines[2].endswith("its own encoding begins with it")
    (row,) = json.loads(show(tiny_pair, src_id, "--json").stdout)["rows"]
    assert {one["weight"] for one in row["choices"]} == {None}
    assert lines_of(show(tiny_pair, "--reverse", second))[1] == (
        "src id token kind rule distance choice"
    )


# --- Where the destination vocabulary is ---------------------------------------------------------


def test_without_the_destination_the_map_alone_answers(files):
    (files / "dst.tiktoken").unlink()
    done = show(files, "ab")
    assert lines_of(done) == [
        "ab (1, text) maps to a (1): prefix, distance 1",
        "mapped from 2 tokens: a (0, exact), ab (1, prefix 1)",
    ]
    assert done.stderr.startswith("note: no runners-up: ")
    assert done.stderr.count("\n") == 1
    assert "--dst" in done.stderr
    (row,) = json.loads(show(files, "ab", "--json").stdout)["rows"]
    assert row["why"] is row["runners_up"] is row["nearest"] is None
    assert row["read_by"]["count"] == 2


def test_another_destination_is_only_used_if_it_is_the_one(files):
    shutil.move(files / "dst.tiktoken", files / "moved.tiktoken")
    done = show(files, "ab", "--dst", "moved.tiktoken")
    assert "lost" in done.stdout
    assert done.stderr == ""
    assert "is not the destination of this map" in refused(
        "show", "map.arrow", "ab", "--dst", "src.tiktoken", cwd=files
    )
    assert "no such file" in refused("show", "map.arrow", "ab", "--dst", "./absent", cwd=files)


def test_a_destination_that_has_changed_is_not_used(files):
    (files / "dst.tiktoken").write_text(DST.replace("eHl6", "eHl5"))
    said = refused("show", "map.arrow", "ab", "--dst", "dst.tiktoken", cwd=files)
    assert "is not the destination of this map" in said


def test_a_strategy_of_tomorrow_is_said_and_not_guessed(files):
    made = load_map(files / "map.arrow")
    info = {**vars(made.info), "strategy": {"name": "soft", "unit": "char"}, "tool_version": "\x1b"}
    TokenMap(type(made.info)(**info), made.to_arrow()).save(files / "map.arrow")
    done = show(files, "ab")
    assert lines_of(done)[0] == "ab (1, text) maps to a (1): prefix, distance 1"
    assert "lost" not in done.stdout
    assert "cannot explain strategy 'soft'" in done.stderr
    assert "\x1b" not in done.stderr


# --- The reverse ---------------------------------------------------------------------------------


def test_reverse(files):
    assert lines_of(show(files, "--reverse", "a", "0", "0x78797a")) == [
        "a (1, text) is mapped from 2 source tokens",
        "src id token kind rule distance",
        "0 a text exact 0",
        "1 ab text prefix 1",
        "",
        "␣b (0, text) is mapped from 1 source token",
        "src id token kind rule distance",
        "2 ␣b text exact 0",
        "",
        "xyz (3, text) is mapped from no source token",
    ]


def test_reverse_keeps_the_limit(files):
    lines = lines_of(show(files, "--reverse", "a", "--limit", "1"))
    assert lines[2:] == ["0 a text exact 0", "and 1 more: --limit 2 lists them all"]
    assert lines_of(show(files, "--reverse", "a", "--limit", "0")) == [
        "a (1, text) is mapped from 2 source tokens"
    ]


def test_reverse_json(files):
    document = json.loads(show(files, "--reverse", "a", "xyz", "--json").stdout)
    assert document == {
        "tokens": [
            {
                "dst_id": 1,
                "dst_kind": "text",
                "dst_token": "a",
                "dst_token_hex": "61",
                "read_by": {
                    "count": 2,
                    "first": [
                        reader(0, "a", "61", "exact", 0),
                        reader(1, "ab", "6162", "prefix", 1),
                    ],
                },
            },
            {
                "dst_id": 3,
                "dst_kind": "text",
                "dst_token": "xyz",
                "dst_token_hex": "78797a",
                "read_by": {"count": 0, "first": []},
            },
        ]
    }


def test_reverse_of_what_the_destination_lacks(files):
    def message(token):
        dst = ("--dst", "dst.tiktoken")
        return refused("show", "map.arrow", "--reverse", token, *dst, cwd=files)

    assert message("b") == "dst.tiktoken has no token 'b' (ids are 0 to 3); ␣b has id 0"
    assert message("4") == "dst.tiktoken has no token '4' (ids are 0 to 3)"
    assert message("xya").startswith(
        "dst.tiktoken has no token 'xya' (ids are 0 to 3); the nearest are xyz (3), "
    )


def test_reverse_without_the_destination(files):
    (files / "dst.tiktoken").unlink()
    done = show(files, "--reverse", "a", "3")
    assert lines_of(done)[0] == "a (1) is mapped from 2 source tokens"
    assert lines_of(done)[-1] == "token 3 is mapped from no source token"
    assert done.stderr.startswith("note: tokens that nothing maps to are not known: ")
    unread = run("show", "map.arrow", "--reverse", "xyz", cwd=files)
    assert unread.status == 1
    assert unread.stdout == ""
    assert "no source token maps to 'xyz' (ids are 0 to 3)" in unread.stderr
    (token,) = json.loads(show(files, "--reverse", "3", "--json").stdout)["tokens"]
    assert token["dst_token"] is token["dst_kind"] is None


# --- The real thing ------------------------------------------------------------------------------


def test_real_tokens_without_numba(tmp_path):
    build_map(real_vocabulary("llama3"), real_vocabulary("qwen3")).save(tmp_path / "map.arrow")
    code = "import sys; from pm_mined.cli import main; main()"
    watched = (
        f"import atexit, sys; atexit.register(lambda: print([m for m in "
        f"('numba', 'pandas', 'torch') if m in sys.modules], file=sys.stderr)); {code}"
    )
    tokens = [" Avrupa", "<|python_tag|>", "128002"]
    before = os.times()
    done = subprocess.run(
        [COMMAND[0], "-c", watched, "show", "map.arrow", *tokens],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    after = os.times()
    assert after.children_user - before.children_user < 5, "seconds of a core"
    assert done.stderr == "[]\n"
    lines = lines_of(done)
    assert any(line.startswith("␣ (220) prefix") for line in lines)
    assert "why unused tokens never match" in lines
    assert any("maps to <tool_call> (151657, text): special, same role" in line for line in lines)
