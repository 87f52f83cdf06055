"""The commands on what nobody gives them on purpose: text, maps, files and streams."""

import json
import os
import random
import signal
import subprocess
import tomllib

import numpy as np
import pytest
import tiny_tokenizers as tiny
from command_line import COMMAND, run
from conftest import quick_first, real_vocabulary

from pm_mined import Kind, PmMinedError, Vocabulary, build_map, load_map
from pm_mined.maps.export.formats import FORMATS
from pm_mined.maps.lookup import sources_of
from pm_mined.maps.verify import check_map
from pm_mined.reports import usage
from pm_mined.reports.audit import Audit
from pm_mined.reports.compare import Comparison
from pm_mined.reports.page import render_page
from pm_mined.reports.usage import count_uses
from pm_mined.tokenizer.encoders.libraries import by_tokenizers
from pm_mined.tokenizer.encoders.load import load_encoder

# --- Counting ------------------------------------------------------------------------------------

_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def _pieces(draw):
    """One piece of each hostile text; a text is many of them, end to end."""
    some = draw.randint
    return {
        "Han without signs": draw.choice("人生而自由在尊严和权利上一律平等他们赋有理性和良心"),
        "Han": "人" * some(1, 30) + draw.choice("，。！？、"),
        "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาค"[some(0, 15) : some(16, 36)],
        "marks": "a" + "".join(draw.choices("\u0301\u0308\u0323\u0327", k=some(0, 3))),
        "Jamo": draw.choice("ᄀᄂᄃ") + draw.choice("ᅡᅢᅣ") + draw.choice(["", "ᆨ"]),
        "ZWJ": draw.choice(["👩‍👩‍👧‍👦", "👨🏽‍🚀", "🇺🇳", "1\ufe0f\u20e3", "a"]),
        "CRLF": " ".join(draw.choices(["the", "x1", "don't"], k=some(1, 9))) + "\r\n" * some(1, 3),
        "code": " " * draw.choice([0, 4, 8]) + draw.choice(["if a[i] == b:\n", "x+=1;\n\n"]),
        "JSON": json.dumps({"id": some(0, 10**9), "v": some(0, 99)}, separators=(",", ":")) + ",",
        "base64": "".join(draw.choices(_BASE64, k=76)) + "\n",
        "one line of base64": draw.choice(_BASE64),
        "spaces": draw.choice(["a", "b", "\n", " " * some(1, 900), "\t" * some(1, 90)]),
        "one word": "a",
        "long words": "a" * some(1, 400) + draw.choice(".,-'"),
        "contractions": "the" * some(1, 130) + "'s" + draw.choice("bA,"),
        "digits": "0" * some(1, 400) + draw.choice(".,%"),
        "NUL": draw.choice(["\0" * some(1, 200), "b ", "c.d"]),
        "bars": "=" * some(1, 400) + "\n" + draw.choice("ab"),
        "line ends": "a" + "\n" * some(1, 300),
        "any ASCII": chr(some(32, 126)),
        "added tokens": draw.choice(["<think>", "</think>", "<|eot_id|>", "[INST]", "a ", "▁▁"]),
    }


_KINDS_OF_TEXT = list(_pieces(random.Random(0)))


def hostile_text(kind, size=12_000):
    draw = random.Random(kind)
    text = ""
    while len(text) < size:
        text += _pieces(draw)[kind]
    return text


def _encoder(name):
    made = {"byte-level": tiny.byte_level_bpe, "metaspace": tiny.metaspace_bpe}
    if name in made:
        return by_tokenizers(made[name]())
    real_vocabulary(name)
    return load_encoder(name)


@pytest.mark.parametrize(
    "name", quick_first(["byte-level", "mistral-v1", "metaspace", "llama3", "qwen3.5"])
)
def test_a_count_without_doubtful_cuts_is_that_of_the_whole_text(name, monkeypatch):
    monkeypatch.setattr(usage, "BLOCK", 1000)
    encode = _encoder(name)
    for kind in _KINDS_OF_TEXT:
        text = hostile_text(kind)
        counted = count_uses([iter([text])], encode, 260_000)
        assert counted.characters == len(text), kind
        if not counted.unverified_cuts:
            (whole,) = encode([text])
            assert np.array_equal(counted.uses, np.bincount(whole, minlength=260_000)), kind


# --- Maps of every shape -------------------------------------------------------------------------

_EVIL = "\x1b[31mred\x1b[0m\u202eevil\a"


def _vocabulary(*entries, name="toy", source="memory"):
    tokens, kinds = zip(*entries, strict=True) if entries else ((), ())
    return Vocabulary.from_tokens(tokens, kinds, name=name, source=source)


_NOTHING = _vocabulary()
_ONE = _vocabulary((b"a", Kind.TEXT))
_NO_SPECIAL = _vocabulary((b"a", Kind.TEXT), (b"b", Kind.TEXT), (b"ab", Kind.TEXT))
_HOSTILE = _vocabulary(
    (b"\x1b[31mred", Kind.TEXT),
    ("\u202eabc\u2028".encode(), Kind.TEXT),
    (b"[bold]x[/bold]\r\n", Kind.TEXT),
    (b"<|\x1b]0;title\a|>", Kind.SPECIAL),
    (b"", Kind.UNUSED),
    (b"\xff\xfe", Kind.FRAGMENT),
    (b"=cmd()", Kind.TEXT),
    (b"</script><!--", Kind.TEXT),
    (b"a" * 4_000, Kind.TEXT),
    name=_EVIL,
    source=f"file:{_EVIL}",
)
_PAIRS = {
    "nothing": (_NOTHING, _NOTHING),
    "nothing to one": (_NOTHING, _ONE),
    "one to nothing": (_ONE, _NOTHING),
    "one": (_ONE, _ONE),
    "no special": (_NO_SPECIAL, _NO_SPECIAL),
    "hostile": (_HOSTILE, _NO_SPECIAL),
    "hostile to hostile": (_HOSTILE, _HOSTILE),
}


def _use(token_map):
    """All that the commands make of a map, short of printing it."""
    check_map(token_map)
    Audit(token_map).to_json()
    Comparison(token_map, token_map).to_json()
    sources_of(token_map, 0)
    for made in FORMATS.values():
        made.contents(token_map)


@pytest.mark.parametrize("pair", _PAIRS)
def test_a_map_of_any_shape_is_a_map(pair, tmp_path):
    path = tmp_path / "map.arrow"
    build_map(*_PAIRS[pair]).save(path)
    token_map = load_map(path)
    _use(token_map)
    page = render_page(Audit(token_map)).decode()
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_damage_anywhere_is_said_and_never_more(tmp_path):
    path = tmp_path / "map.arrow"
    build_map(_HOSTILE, _NO_SPECIAL).save(path)
    whole, draw = path.read_bytes(), random.Random(1)
    said = []
    for turn in range(100):
        damaged = bytearray(whole if turn % 3 else whole[: draw.randrange(len(whole))])
        if turn % 3:
            # Not among the 4,000 letters of one token.
            place = draw.choice([draw.randrange(4096), -1 - draw.randrange(4096)])
            damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            _use(load_map(path))
        except PmMinedError as error:
            said.append(str(error))
    assert len(said) > 50
    assert all(line.startswith(f"{path}: damaged") for line in said), set(said)


_SRC = ("--src", "toy.json")
_COMMANDS = {
    "audit": ("audit", "MAP"),
    "audit --html": ("audit", "MAP", "--html", "page.html"),
    "show": ("show", "MAP", "0", "1", "2", "3", "5", "--limit", "0"),
    "show --reverse": ("show", "MAP", "--reverse", "0", "1"),
    "verify": ("verify", "MAP"),
    "compare": ("compare", "MAP", "other.arrow"),
    "export": ("export", "MAP", "--format", "csv"),
    "suggest": ("overrides", "suggest", "MAP", "--dst", "toy.json"),
}


def command(name, map_file="map.arrow"):
    return [map_file if part == "MAP" else part for part in _COMMANDS[name]]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with a map onto itself of a tokenizer beside it, another map, and texts."""
    folder = tmp_path_factory.mktemp("toy")
    tiny.byte_level_bpe().save(str(folder / "toy.json"))
    for name, strategy in [("map", "pm-mined"), ("other", "exact")]:
        pair = ("--src", "toy.json", "--dst", "toy.json", "--strategy", strategy)
        assert run("build", *pair, "-o", f"{name}.arrow", cwd=folder).status == 0
    build_map(_HOSTILE, _HOSTILE).save(folder / "hostile.arrow")
    (folder / "text.txt").write_text("the quick brown fox, naïve\n", "utf-8")
    return folder


@pytest.mark.parametrize("name", ["audit", "show", "show --reverse", "verify", "compare"])
def test_names_and_tokens_are_shown_and_not_obeyed(name, toy):
    arguments = [a.replace("other", "hostile") for a in command(name, "hostile.arrow")]
    done = run(*arguments, cwd=toy)
    assert done.status == 0, done
    for shown in (done.stdout, done.stderr):
        assert not {"\x1b", "\a", "\r", "\u202e", "\u2028"} & set(shown)
    assert "\\x1b[31mred" in done.stdout


# --- Streams and files ---------------------------------------------------------------------------


def in_shell(line, cwd):
    """A line of shell, `pm-mined` being the command."""
    script = f'pm-mined() {{ {" ".join(COMMAND)} "$@"; }}\n{line}'
    return subprocess.run(
        ["/bin/bash", "-c", script],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("name", ["audit", "show", "verify", "suggest"])
def test_a_full_disk_behind_stdout(name, toy):
    done = in_shell(f"pm-mined {' '.join(command(name))} > /dev/full", toy)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize("name", ["audit", "show"])
def test_a_closed_stdout(name, toy):
    done = in_shell(f"pm-mined {' '.join(command(name))} >&-", toy)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("line", ["audit map.arrow", "audit map.arrow --json --limit 400"])
def test_a_reader_that_goes_away_is_no_error(line, toy):
    done = in_shell(f"pm-mined {line} | head -c 1", toy)
    assert (len(done.stdout), done.stderr) == (1, "")


@pytest.fixture
def interruptible():
    """A child hears Ctrl-C, even if the tests run in the background, where a shell mutes it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("more", [("--text", "-"), ("--text", "-", "--field", "text")])
def test_an_interrupt_while_text_is_read(more, toy):
    arguments = ["audit", "map.arrow", *_SRC, *more, "--html", "interrupted.html"]
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=toy,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    process.stdin.write(b'{"text": "the quick brown fox"}\n' * 20_000)  # more than a pipe holds
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout, stderr) == (130, b"", b"pm-mined: interrupted\n")
    assert not (toy / "interrupted.html").exists()
    assert not list(toy.glob(".pm-mined-*"))


@pytest.mark.slow
def test_four_at_once_write_one_whole_page(toy):
    line = "pm-mined audit map.arrow --html four.html >/dev/null"
    assert in_shell(" & ".join([line] * 4) + "; wait", toy).returncode == 0
    assert in_shell("pm-mined audit map.arrow --html one.html", toy).returncode == 0
    assert (toy / "four.html").read_bytes() == (toy / "one.html").read_bytes()
    assert not list(toy.glob(".pm-mined-*"))


@pytest.mark.parametrize("name", ["audit", "compare", "export"])
@pytest.mark.parametrize("what", ["text.txt", ".", "/dev/zero", "absent"])
def test_what_is_no_map_is_refused_in_one_line(name, what, toy):
    done = run(*command(name, what), cwd=toy)
    assert done.status == (2 if name == "compare" else 1)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"pm-mined: {what}: ")


@pytest.mark.parametrize(
    ("content", "field", "said"),
    [
        ("a\n".encode("utf-16"), None, "not UTF-8 text: invalid start byte at byte 0, in line 1"),
        (b"\xef\xbb\xbf", None, "no text in"),
        (b'{"t": NaN}', "t", "line 1: field 't' holds a float, not a text"),
        (b'\xef\xbb\xbf{"t": ""}\r\n\r\n', "t", "no text in"),
        (b'{"t": "x"}\n{"u": ""}', "t", "line 2: no field 't'; there are 'u'"),
        (b'{"t": "' + b"x" * 10**7, "t", "line 1: not a row of JSON Lines: Unterminated string"),
        (b"9" * 5000, "t", "line 1: not a row of JSON Lines"),
        ('{"t": "x"}\n'.encode("utf-16"), "t", "line 1: not a row of JSON Lines"),
    ],
)
def test_text_that_is_none(content, field, said, toy, tmp_path):
    path = tmp_path / "text"
    path.write_bytes(content)
    more = () if field is None else ("--field", field)
    text = ("--text", path, *more)
    done = run("audit", "map.arrow", *_SRC, *text, "--html", tmp_path / "page", cwd=toy)
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert len(done.stderr) < 500 + len(str(path))
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize("content", [b" ", b"\0" * 200_000, b" \n\t" * 100_000, b"x" * 300_000])
def test_text_that_hardly_is_one_is_counted(content, toy, tmp_path):
    (tmp_path / "text").write_bytes(content)
    done = run("audit", "map.arrow", *_SRC, "--text", tmp_path / "text", "--json", cwd=toy)
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["text"]["characters"] == len(content)


def test_a_text_file_whose_name_is_no_utf8(toy, tmp_path):
    path = os.fsencode(tmp_path) + b"/t\xff\x1b.txt"
    try:
        with open(path, "wb") as file:
            file.write(b"the fox")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    name = os.fsdecode(path)
    for more in ((), ("--json",), ("--html", tmp_path / "page.html")):
        done = run("audit", "map.arrow", *_SRC, "--text", name, *more, cwd=toy)
        assert done.status == 0, done.stderr
        assert "\x1b" not in done.stdout
    done = run("audit", "map.arrow", *_SRC, "--text", name, "--json", cwd=toy)
    assert json.loads(done.stdout)["text"]["files"] == [name]


def test_a_limit_without_end_and_a_limit_of_nothing(toy):
    for limit, length in [(0, 0), (10**30, 3)]:
        done = run("audit", "hostile.arrow", "--json", "--limit", limit, cwd=toy)
        assert len(json.loads(done.stdout)["most_read"][:3]) == length
        done = run("show", "map.arrow", "the", "--json", "--limit", limit, cwd=toy)
        assert (json.loads(done.stdout)["rows"][0]["read_by"]["first"] != []) == bool(limit)


def test_a_source_that_the_map_names_is_asked_for(toy):
    asked = (
        "came from file:toy.json, and a map does not decide what is opened: say where it is with"
    )
    done = run("audit", "map.arrow", "--text", "text.txt", cwd=toy)
    assert (done.status, done.stdout) == (1, "")
    assert f"{asked} --src" in done.stderr
    done = run("overrides", "suggest", "map.arrow", cwd=toy)
    assert (done.status, done.stdout) == (1, "")
    assert f"{asked} --dst" in done.stderr
    done = run("audit", "map.arrow", "--text", "text.txt", *_SRC, cwd=toy)
    assert done.status == 0, done.stderr
    done = run("show", "map.arrow", "the", cwd=toy)
    assert done.status == 0
    assert asked in done.stderr


def test_a_table_of_suggestions_for_hostile_tokens_is_toml(toy, tmp_path):
    vocabulary = {"a": 0, "<|\x1b]0;\a\u202e'\"\\|>": 1, '"]\noverride = 3 #': 2}
    special = [tiny.added(i, token, special=True) for token, i in vocabulary.items() if i]
    document = tiny.bpe_document(vocabulary, added_tokens=special)
    (tmp_path / "src.json").write_text(json.dumps(document))
    build = ("build", "--src", "src.json", "--dst", toy / "toy.json", "-o", "map.arrow")
    assert run(*build, cwd=tmp_path).status == 0
    done = run("overrides", "suggest", "map.arrow", "--dst", toy / "toy.json", cwd=tmp_path)
    assert done.status == 0, done.stderr
    assert tomllib.loads(done.stdout) == {"override": []}
    assert not {"\x1b", "\a", "\u202e"} & set(done.stdout)
    uncommented = done.stdout.replace("# {", "{").splitlines()
    rows = [line for line in uncommented if line.strip().startswith("{") and "false" in line]
    named = [tomllib.loads(f"row = {row.rpartition(',')[0]}")["row"]["src"] for row in rows]
    assert named == [token for token in vocabulary if token != "a"]
