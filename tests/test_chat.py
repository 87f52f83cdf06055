"""`cmc-runtime chat`: turns, each side with its own past; lines in, answers out."""

import io
import sys
from unittest.mock import Mock

import command_line
import pytest
import torch
from rich.console import Console
from tiny_models import CHAT, save_model

from cmc_runtime import load_delta, load_model
from cmc_runtime.cli import main
from cmc_runtime.cli.chat import _Talk
from cmc_runtime.cli.chat_display import Columns, display_of
from cmc_runtime.engines.chat import Chat
from cmc_runtime.engines.generate import Sampling, generate
from cmc_runtime.models.prompts import Conversation
from pm_mined import OptionError

SAMPLING = Sampling(max_new_tokens=8)
PROMPTS = ["the quick brown", "日本語", "a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user model with a chat template and a delta model, with different tokenizers."""
    made = tmp_path_factory.mktemp("chat")
    save_model(made / "user", "byte-level", seed=0, chat_template=CHAT)
    save_model(made / "base", "byte-level", seed=0)
    save_model(made / "delta", "metaspace", seed=1, max_length=64)
    return made


@pytest.fixture(scope="module")
def user(folder):
    return load_model(folder / "user", device="cpu", dtype=torch.float64)


@pytest.fixture(scope="module")
def delta(folder, user):
    return load_delta(
        folder / "delta", user.tokenizer, num_logits=user.num_logits, dtype=torch.float64
    )


def completion_of(user, told, delta=None, alpha=None):
    """The one answer that `generate` gives."""
    (made,) = generate(user, [told], delta, alpha=alpha, prompt_template="chat", sampling=SAMPLING)
    return made


def answer_of(*arguments):
    return completion_of(*arguments).text


# --- Turns ---------------------------------------------------------------------------------------


def test_each_side_goes_on_from_its_own_answers(user, delta):
    chat = Chat(user, delta, alpha=1.5, prompt_template="chat", sampling=SAMPLING)
    assert chat.titles == ["steered (1.5)", "plain"]
    before = [(), ()]
    for prompt in PROMPTS:
        heard = ["", ""]

        def hear(side, text, heard=heard):
            heard[side] += text

        answers = chat.answer(prompt, hear)
        told = [Conversation(prompt, one) for one in before]
        assert answers == heard
        assert answers[0] == answer_of(user, told[0], delta, 1.5)
        assert answers[1] == answer_of(user, told[1])
        before = [(*b, (prompt, a)) for b, a in zip(before, answers, strict=True)]
    assert before[0] != before[1]
    chat.alpha = 0.0
    chat.reset()
    assert len(set(chat.answer("a"))) == 1


def test_one_side(user, delta):
    plain = Chat(user, prompt_template="chat", sampling=SAMPLING)
    assert (plain.titles, plain.alpha) == (["plain"], None)
    assert plain.answer("a") == [answer_of(user, "a")]
    steered = Chat(user, delta, alone=False, prompt_template="chat", sampling=SAMPLING)
    assert (steered.titles, steered.alpha) == (["steered (1)"], 1)
    assert steered.answer("a") == [answer_of(user, "a", delta, 1)]


def test_a_text_ends_once(user, monkeypatch):
    """Padding behind the end of a side is not its text."""
    first = completion_of(user, "a").token_ids[0]
    monkeypatch.setattr(user.model.generation_config, "eos_token_id", first)
    heard = []
    assert Chat(user, prompt_template="chat", sampling=SAMPLING).answer(
        "a", lambda *told: heard.append(told)
    ) == [""]
    assert heard == [(0, "")]


def test_what_stops_an_answer_keeps_what_was_written(user, delta):
    def interrupt(side, text):
        if side == 1:
            raise KeyboardInterrupt

    chat = Chat(user, delta, prompt_template="chat", sampling=SAMPLING)
    with pytest.raises(KeyboardInterrupt):
        chat.answer("a", interrupt)
    kept = [before[0][1] for before in chat._before]
    whole = Chat(user, delta, prompt_template="chat", sampling=SAMPLING).answer("a")
    assert all(kept)
    assert all(one.startswith(part) for one, part in zip(whole, kept, strict=True))
    assert len(chat.answer("b")) == 2


def test_an_error_leaves_no_turn(user, delta):
    chat = Chat(user, delta, prompt_template="chat", sampling=SAMPLING)
    first = chat.answer("a")
    with pytest.raises(OptionError, match="begin a new one, or ask for fewer"):
        chat.answer("word " * 300)
    told = Conversation("b", (("a", first[1]),))
    assert chat.answer("b")[1] == answer_of(user, told)


# --- The command ---------------------------------------------------------------------------------


@pytest.fixture
def talk(folder):
    steered = ("--delta", folder / "delta")

    def run(lines, *options, model="user", given=steered):
        done = command_line.run(
            *("chat", "--model", folder / model, *given, *options, "--max-new-tokens", 8),
            program="cmc-runtime",
            stdin=lines if isinstance(lines, bytes) else lines.encode(),
        )
        loading = "note: map: ", "note: <|endoftext|> ends a text: "
        told = [line for line in done.stderr.splitlines() if not line.startswith(loading)]
        return done._replace(stderr="".join(f"{line}\n" for line in told))

    return run


@pytest.fixture(scope="module")
def answers(folder):
    """The answers to all prompts in single precision, of both sides."""
    user = load_model(folder / "user", device="cpu")
    delta = load_delta(folder / "delta", user.tokenizer, num_logits=user.num_logits)
    chat = Chat(user, delta, prompt_template="chat", sampling=SAMPLING)
    return [[text.lstrip() for text in chat.answer(prompt)] for prompt in PROMPTS]


def test_lines_in_answers_out(talk, answers):
    done = talk("\n".join(PROMPTS[:2]))
    assert done.status == 0
    turns = [f"steered (1): {steered}\nplain: {plain}\n" for steered, plain in answers[:2]]
    assert done.stdout == "---\n".join(turns)
    assert done.stderr == ""


def test_one_side_has_no_title(talk, answers):
    assert talk(f"\n \n{PROMPTS[0]}\n", given=()).stdout == f"{answers[0][1]}\n"
    assert talk(f"{PROMPTS[0]}\n", "--no-plain").stdout == f"{answers[0][0]}\n"


def test_commands(talk, answers):
    first = f"steered (1): {answers[0][0]}\nplain: {answers[0][1]}\n"
    lines = [PROMPTS[0], "/reset", "/alpha", "/alpha 0", PROMPTS[0], "/quit", "never"]
    plain = f"steered (0): {answers[0][1]}\nplain: {answers[0][1]}\n"
    done = talk("\n".join(lines))
    assert (done.status, done.stdout) == (0, f"{first}---\n{plain}")
    assert done.stderr == "note: alpha 1\nnote: alpha 0\n"
    shown = talk("/help\n").stdout
    assert "/alpha 1.5" in shown
    assert max(map(len, shown.splitlines())) <= 60


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("/alpha x", "error: /alpha x: expected a number, such as 1.5, or auto\n"),
        ("/alpha nan", "error: /alpha nan: expected a number, such as 1.5, or auto\n"),
        ("/what is it", "error: /what: no such command; /help shows all\n"),
        (b"caf\xc3", "error: the conversation: the prompt is not UTF-8, at character 4\n"),
        ("word " * 300, "error: the conversation has 1,520 tokens and 8 are to come"),
    ],
)
def test_the_talk_goes_on_after_an_error(talk, answers, lines, message):
    lines = lines if isinstance(lines, bytes) else lines.encode()
    done = talk(lines + f"\n/alpha\n{PROMPTS[0]}".encode())
    assert done.status == 1
    assert done.stderr.startswith(message)
    assert done.stderr.endswith("\nnote: alpha 1\n")
    assert done.stderr.count("\n") == 2
    assert done.stdout.endswith(f"steered (1): {answers[0][0]}\nplain: {answers[0][1]}\n")


def test_a_closed_input_is_an_empty_one(folder, monkeypatch):
    """As Python has it in `cmc-runtime chat ... <&-`."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2)]
    for name, stream in zip(("stdin", "stdout", "stderr"), (None, *streams), strict=True):
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setattr(sys, "argv", ["cmc-runtime", "chat", "--model", str(folder / "user")])
    with pytest.raises(SystemExit) as end:
        main()
    sys.stdin.close()
    assert not end.value.code
    assert streams[0].buffer.getvalue() == b""


def test_options_that_cannot_be(talk):
    done = talk("a", "--alpha", "1", given=())
    assert (done.status, done.stderr) == (2, "cmc-runtime: --alpha: need --delta\n")
    assert "/alpha: nothing is steered; begin with --delta" in talk("/alpha 1", given=()).stderr


def test_without_a_chat_template_the_delta_s_prompt_template_counts(folder, talk):
    user = load_model(folder / "base", device="cpu")
    told = "Q: a\nA:"
    (made,) = generate(user, ["a"], prompt_template="Q: {prompt}\nA:", sampling=SAMPLING)
    assert made.text == next(iter(generate(user, [told], sampling=SAMPLING))).text
    options = ("--delta-prompt-template", "Q: {prompt}\nA:", "--alpha", "0")
    done = talk("a", *options, model="base")
    assert done.stdout == f"steered (0): {made.text.lstrip()}\nplain: {made.text.lstrip()}\n"


class Stopped:
    """A chat whose first answer is stopped by Ctrl-C."""

    titles, alpha = ("plain",), None

    def __init__(self):
        self.prompts = []

    def answer(self, prompt, on_text):
        self.prompts.append(prompt)
        on_text(0, f"to {prompt}")
        if len(self.prompts) == 1:
            raise KeyboardInterrupt
        on_text(0, "")


@pytest.fixture
def typed(monkeypatch):
    """Lines that a person types, or exceptions."""

    def type_them(*lines):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
        monkeypatch.setattr("builtins.input", Mock(side_effect=lines))

    return type_them


def test_ctrl_c_stops_an_answer_and_then_the_talk(typed, capsys):
    talk = _Talk(chat := Stopped(), float)
    talk.is_with_person = True
    typed("a", "b", EOFError)
    talk.run()
    assert chat.prompts == ["a", "b"]
    assert capsys.readouterr().out == "to a\nto b\n\n"
    typed("c", KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        talk.run()


def test_ctrl_c_ends_a_talk_with_a_pipe(typed, capsys):
    talk = _Talk(Stopped(), float)
    typed("a", "b")
    with pytest.raises(KeyboardInterrupt):
        talk.run()
    assert capsys.readouterr().out == "to a\n"


# --- How it looks --------------------------------------------------------------------------------


def terminal(width):
    return Console(file=io.StringIO(), force_terminal=True, width=width, legacy_windows=False)


def test_one_after_the_other_where_it_is_narrow(capsys):
    with display_of(["steered (1)", "plain"], terminal(60)) as display:
        display.add(1, " wait")
        display.add(0, " ")
        assert capsys.readouterr().out == ""
        display.add(0, " one")
        assert capsys.readouterr().out == "steered (1): one"
        display.add(1, "s")
        display.add(0, "")
        assert capsys.readouterr().out == "\nplain: waits"
        display.add(1, "")
    assert capsys.readouterr().out == "\n"


def test_a_side_without_text(capsys):
    with display_of(["steered (1)", "plain"], terminal(60)) as display:
        display.add(0, "")
        display.add(1, "x")
    assert capsys.readouterr().out == "steered (1): \nplain: x\n"


def test_side_by_side_where_it_is_wide():
    console = terminal(100)
    with display_of(["steered (1)", "plain"], console) as display:
        assert isinstance(display, Columns)
        display.add(0, " left [b]\x1b[31m word" * 5)
        display.add(1, "right")
    lines = console.file.getvalue().rpartition("steered (1)")[2].splitlines()[1:]
    assert any("left" in line and "right" in line for line in lines)
    assert any("[b]\\x1b[31m" in line for line in lines)
    assert max(map(len, lines)) <= 100


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with display_of(["a", "b"], terminal(100)) as display:
        assert not isinstance(display, Columns)
