"""`cmc_runtime.generate` and `cmc-runtime generate`: prompts in, steered text out."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import command_line
import pytest
import torch
from conftest import quick_first
from tiny_models import CHAT, save_model

import cmc_runtime
from cmc_runtime import Sampling, SteeringProcessor, generate, load_delta, load_model
from cmc_runtime.engines.token_text import text_of
from cmc_runtime.fusion.limits import Limits
from cmc_runtime.maps.choose import find_or_build_map
from cmc_runtime.models.prompts import Conversation, encode_prompt
from pm_mined import (
    Kind,
    MapFileError,
    OptionError,
    Vocabulary,
    VocabularyError,
    build_map,
    load_vocabulary,
)

PROMPTS = ["the quick brown", "日本語", "a", "The naïve café's menu: 12 euros"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user model and a delta model, with different tokenizers."""
    made = tmp_path_factory.mktemp("generate")
    save_model(made / "user", "byte-level", seed=0, chat_template=CHAT)
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


def texts(*arguments, **options):
    return [completion.token_ids for completion in generate(*arguments, **options)]


# --- In Python -----------------------------------------------------------------------------------


def test_it_is_generate_of_transformers(user):
    sampling = Sampling(max_new_tokens=12)
    for found, prompt in zip(generate(user, PROMPTS, sampling=sampling), PROMPTS, strict=True):
        ids = user.tokenizer(prompt, return_tensors="pt")
        made = user.model.generate(**ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
        expected = made[0, ids["input_ids"].shape[1] :].tolist()
        assert found.prompt == prompt
        assert found.token_ids == expected
        assert found.text == user.tokenizer.decode(expected, skip_special_tokens=True)
        assert found.seconds > 0


@pytest.mark.parametrize("batch_size", quick_first([3, 2, 4]))
def test_batches_change_nothing(user, delta, batch_size):
    for steering in (None, delta, replace(delta, unmapped="keep")):
        options = {"steering": steering, "alpha": 0.7, "sampling": Sampling(16)}
        one_by_one = texts(user, PROMPTS, **options)
        assert texts(user, PROMPTS, batch_size=batch_size, **options) == one_by_one


@pytest.mark.parametrize("sampling", [Sampling(12), Sampling(12, 0.8, 0.9, 50, seed=3)], ids=str)
def test_alpha_zero_is_the_model_alone(user, delta, sampling):
    alone = texts(user, PROMPTS, sampling=sampling, batch_size=2)
    assert texts(user, PROMPTS, delta, alpha=0.0, sampling=sampling, batch_size=2) == alone
    assert texts(user, PROMPTS, delta, alpha=2.0, sampling=sampling, batch_size=2) != alone


def test_steered_text_is_fusing_by_hand(user, delta):
    (found,) = generate(user, PROMPTS[:1], delta, alpha=0.7, sampling=Sampling(10))
    prompt_ids, generated = user.tokenizer(PROMPTS[0])["input_ids"], []
    index = delta.tensors.index.long()
    for _ in found.token_ids:
        base = user.model(torch.tensor([[*prompt_ids, *generated]])).logits[0, -1]
        context = delta.new_context(encode_prompt(delta.loaded.tokenizer, PROMPTS[0]))
        for token_id in generated:
            context.append(token_id)
        read = delta.loaded.model(torch.tensor([context.ids])).logits[0, -1]
        fused = base + 0.7 * torch.where(index >= 0, read[index.clamp(min=0)], 0.0)
        generated.append(int(fused.argmax()))
    assert found.token_ids == generated


def test_the_two_lines_around_generate(user, delta):
    inputs = user.tokenizer(PROMPTS[:1], return_tensors="pt")
    processor = SteeringProcessor(delta, inputs["input_ids"], PROMPTS[:1], 0.7)
    made = user.model.generate(
        **inputs, max_new_tokens=10, do_sample=False, pad_token_id=0, logits_processor=[processor]
    )
    ids = made[0, inputs["input_ids"].shape[1] :].tolist()
    assert [ids] == texts(user, PROMPTS[:1], delta, alpha=0.7, sampling=Sampling(10))


def test_a_seed_gives_the_same_text_and_leaves_chance_alone(user):
    sampling = Sampling(8, temperature=1.0, seed=5)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    once = texts(user, PROMPTS, sampling=sampling)
    assert torch.equal(torch.rand(3), expected)
    assert texts(user, PROMPTS, sampling=sampling) == once
    assert texts(user, PROMPTS, sampling=Sampling(8, temperature=1.0, seed=6)) != once


def test_a_text_ends_where_the_model_says(user):
    (whole,) = texts(user, PROMPTS[:1], sampling=Sampling(8))
    user.model.generation_config.eos_token_id = [whole[3], 7]
    try:
        (found, _) = texts(user, PROMPTS[:2], sampling=Sampling(8), batch_size=2)
    finally:
        user.model.generation_config.eos_token_id = 0
    assert found == whole[: whole.index(whole[3]) + 1]


def test_each_step_is_told(user):
    steps = []
    made = list(
        generate(user, PROMPTS[:2], sampling=Sampling(6), batch_size=2, on_step=steps.append)
    )
    for row, completion in enumerate(made):
        assert [step[row] for step in steps][: len(completion.token_ids)] == completion.token_ids


def test_a_delta_with_the_same_vocabulary_adds_its_logits(folder, user):
    save_model(folder / "same", "byte-level", seed=2)
    same = load_delta(
        folder / "same", user.tokenizer, num_logits=user.num_logits, dtype=torch.float64
    )
    assert same.tensors.is_identity
    (found,) = generate(user, PROMPTS[:1], same, alpha=0.5, sampling=Sampling(10))
    ids = user.tokenizer(PROMPTS[0])["input_ids"]
    for token_id in found.token_ids:
        base, added = (m.model(torch.tensor([ids])).logits[0, -1] for m in (user, same.loaded))
        assert int((base + 0.5 * added).argmax()) == token_id
        ids = [*ids, token_id]


def test_a_context_longer_than_the_delta_reads_slides(user, delta):
    assert delta.window == 64
    (found,) = generate(user, ["the quick " * 15], delta, sampling=Sampling(80))
    assert found.token_ids


# --- Text of tokens, prompts ---------------------------------------------------------------------


def test_text_keeps_its_first_space(folder, user):
    vocabulary = load_vocabulary(folder / "delta")
    ids = load_model(folder / "delta", device="cpu").tokenizer(" the")["input_ids"]
    assert text_of(vocabulary, [*ids, len(vocabulary) + 3]).endswith(" the")


def test_a_chat_is_what_its_form_says(user):
    ids = encode_prompt(user.tokenizer, "a {b}", "chat")
    assert user.tokenizer.decode(ids) == "<|user|>a {b}\n<|assistant|>"
    written = encode_prompt(user.tokenizer, "a {b}", 'Q: "{x}" {prompt}\nA:')
    assert user.tokenizer.decode(written) == 'Q: "{x}" a {b}\nA:'


TOLD = Conversation("And c?", (("a b?", " x."), ("d", "y")))


def test_a_conversation_is_all_its_turns(user):
    ids = encode_prompt(user.tokenizer, TOLD, "chat")
    turns = ["<|user|>a b?", "<|assistant|> x.", "<|user|>d", "<|assistant|>y", "<|user|>And c?"]
    assert user.tokenizer.decode(ids) == "".join(f"{turn}\n" for turn in turns) + "<|assistant|>"
    for template, text in (
        ("Q: {prompt}\nA: {response}", "Q: a b?\nA: x.\n\nQ: d\nA:y\n\nQ: And c?\nA:"),
        ("Q: {prompt} ", "Q: a b?  x.\n\nQ: d y\n\nQ: And c? "),
        ("{prompt}", "a b? x.\n\ndy\n\nAnd c?"),
    ):
        assert encode_prompt(user.tokenizer, TOLD, template) == user.tokenizer(text)["input_ids"]
    assert encode_prompt(user.tokenizer, Conversation("d"), "chat") == encode_prompt(
        user.tokenizer, "d", "chat"
    )


def test_a_delta_follows_a_conversation_in_its_own_template(folder, user):
    ready = load_delta(
        folder / "delta",
        user.tokenizer,
        num_logits=user.num_logits,
        prompt_template="Q: {prompt}\nA: {response}",
    )
    as_one_prompt = "a b?\nA: x.\n\nQ: d\nA:y\n\nQ: And c?"
    assert ready.context(TOLD).ids == ready.context(as_one_prompt).ids
    assert ready.context(TOLD).ids == encode_prompt(
        ready.loaded.tokenizer, TOLD, ready.prompt_template
    )


def test_each_prompt_has_its_own_strength(user, delta):
    """In one batch as each by itself."""
    sampling = Sampling(max_new_tokens=12)
    alphas = [1.5, 0.0, 0.5, 0.0]
    together = texts(user, PROMPTS, delta, alpha=alphas, sampling=sampling, batch_size=3)
    for found, prompt, alpha in zip(together, PROMPTS, alphas, strict=True):
        assert [found] == texts(user, [prompt], delta, alpha=alpha, sampling=sampling)
    with pytest.raises(OptionError, match="4 prompts, but 1 strengths"):
        generate(user, PROMPTS, delta, alpha=[1.0])


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; expected 1 or more"),
        ({"temperature": -1.0}, "temperature is -1.0; expected 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0; expected more than 0, at most 1"),
        ({"top_k": -1}, "top_k is -1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_numbers_out_of_their_range(options, message):
    with pytest.raises(OptionError, match=message):
        Sampling(**options)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([""], {}, "prompt 1: the prompt is empty, and nothing is put before it"),
        (
            ["a", "the " * 300],
            {},
            "prompt 2 has 3.. tokens and 128 are to come, but the model reads 256",
        ),
        (["a"], {"prompt_template": "Q:"}, "the prompt template is 'Q:'; expected"),
        (["a", "a\udcff"], {}, "prompt 2: the prompt is not UTF-8, at character 2"),
        (
            ["\udcff"],
            {"prompt_template": "chat"},
            "prompt 1: the prompt is not UTF-8, at character 1",
        ),
        (
            ["a"],
            {"prompt_template": "\udcff{prompt}"},
            "the prompt template is not UTF-8, at character 1",
        ),
        (["a"], {"batch_size": 0}, "batch_size is 0; expected 1 or more"),
    ],
)
def test_prompts_that_cannot_be(user, prompts, options, message):
    with pytest.raises(OptionError, match=message):
        generate(user, prompts, **options)


def test_a_chat_without_a_form(user, delta):
    with pytest.raises(OptionError, match="has no chat template; give the prompt template"):
        encode_prompt(delta.loaded.tokenizer, "a", "chat")


def test_logits_that_are_no_numbers(folder, user):
    for whose, number in (("user", float("nan")), ("delta", float("inf"))):
        models = [load_model(folder / name, device="cpu") for name in ("user", "delta")]
        broken = models[whose == "delta"].model
        with torch.no_grad():
            broken.get_output_embeddings().weight[5] = number
        bad = load_delta(models[1], models[0].tokenizer, num_logits=models[0].num_logits)
        with pytest.raises(cmc_runtime.ModelError, match=f"the {whose} model's logits are NaN"):
            list(generate(models[0], PROMPTS[:1], bad))


def test_logits_that_are_no_numbers_and_no_delta(folder):
    broken = load_model(folder / "user", device="cpu")
    with torch.no_grad():
        broken.model.get_output_embeddings().weight[5] = float("nan")
    with pytest.raises(cmc_runtime.ModelError, match="the model's logits are NaN or infinite"):
        list(generate(broken, PROMPTS[:1], sampling=Sampling(4, temperature=1.0)))


def test_out_of_memory(user, monkeypatch):
    def fail(**_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(user.model, "generate", fail)
    with pytest.raises(cmc_runtime.ModelError, match="out of memory for 2 prompts at once: use a"):
        list(generate(user, PROMPTS[:2], batch_size=2))


# --- Which map -----------------------------------------------------------------------------------


@pytest.fixture
def maps(folder, tmp_path, monkeypatch):
    """An empty current folder, and both maps between the models."""
    monkeypatch.chdir(tmp_path)
    sides = load_vocabulary(folder / "user"), load_vocabulary(folder / "delta")
    return build_map(*sides, strategy="exact"), build_map(*sides[::-1])


def origin(folder, user, **options):
    said = []
    loaded = load_delta(
        folder / "delta", user.tokenizer, num_logits=user.num_logits, note=said.append, **options
    )
    return loaded, said


def test_a_map_is_built_where_none_is_found(folder, user, maps):
    loaded, said = origin(folder, user)
    (line,) = said
    assert "built here by first-token" in line
    expected = build_map(
        *(load_vocabulary(folder / name) for name in ("user", "delta")), strategy="first-token"
    )
    assert loaded.token_map.dst_id.tolist() == expected.dst_id.tolist()


def test_a_map_is_built_by_spelling_where_a_tokenizer_cannot_be_asked(maps):
    said = []
    sides = (
        Vocabulary.from_tokens([b"a", b" cat"], [Kind.TEXT] * 2),
        Vocabulary.from_tokens([b"a", b" ca", b"b"], [Kind.TEXT] * 3),
    )
    made = find_or_build_map(*sides, [Path()], said.append, default="both-ways")
    assert made.info.strategy["name"] == "pm-mined"
    assert made.dst_id.tolist() == [0, 1]
    first, second = said
    assert first.startswith("map: not by both-ways, the better one here: ")
    assert "built here by PM-MinED" in second


def test_a_map_that_fits_is_found(folder, user, maps, tmp_path):
    maps[0].save(tmp_path / "mine.arrow")
    maps[1].save(tmp_path / "other-way.arrow")
    (tmp_path / "broken.arrow").write_bytes(b"ARROW1")
    loaded, said = origin(folder, user)
    assert said[-1] == "map: mine.arrow, found"
    assert "broken.arrow" in said[0]
    assert said[0].endswith("passed over")
    assert loaded.tensors.index[: len(maps[0])].tolist() == maps[0].dst_id.tolist()


def test_several_maps_that_fit(folder, user, maps, tmp_path):
    maps[0].save(tmp_path / "a.arrow")
    maps[0].save(tmp_path / "b.arrow")
    with pytest.raises(OptionError, match=r"2 maps fit .*: a.arrow, b.arrow; say which"):
        origin(folder, user)
    _, said = origin(folder, user, token_map="b.arrow")
    assert said == []


def test_a_strategy_that_is_named(folder, user, maps, tmp_path):
    (tmp_path / "exact").mkdir()  # no map
    loaded, (line,) = origin(folder, user, token_map="exact")
    assert line.endswith("built here by exact")
    assert loaded.token_map.dst_id.tolist() == maps[0].dst_id.tolist()
    maps[0].save(tmp_path / "mined")
    assert origin(folder, user, token_map="mined")[0].token_map.info.strategy["name"] == "exact"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("first_token", OptionError, "no such file, and none of the strategies pm-mined, exact,"),
        ("./first_token", MapFileError, "cannot read: No such file"),
        ("x" * 300, MapFileError, "cannot read: File name too long"),
    ],
)
def test_neither_a_map_nor_a_strategy(folder, user, maps, given, error, message):
    with pytest.raises(error, match=f"^{given}: {message}"):
        origin(folder, user, token_map=given)


def test_a_map_the_wrong_way_round(folder, user, maps):
    with pytest.raises(VocabularyError, match="source and destination are swapped"):
        origin(folder, user, token_map=maps[1])


# --- The command ---------------------------------------------------------------------------------


run = partial(command_line.run, program="cmc-runtime")


MODELS = ["--model", "user", "--delta", "delta", "--max-new-tokens", 8]


def test_json_is_an_object_a_line(folder, user, delta):
    prompts = [word for text in PROMPTS[:3] for word in ("--prompt", text)]
    options = ["--alpha", 0.7, "--plausible", 0.1, "--gate", 0.5]
    done = run("generate", *MODELS, *prompts, *options, "--json", cwd=folder)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    keys = ["prompt", "text", "token_ids", "seconds", "ended", "alpha"]
    assert [list(row) for row in rows] == [keys] * 3
    assert {row["alpha"] for row in rows} == {0.7}
    limited = replace(delta, limits=Limits(plausible=0.1, gate=0.5))
    expected = texts(user, PROMPTS[:3], limited, alpha=0.7, sampling=Sampling(8))
    assert [row["token_ids"] for row in rows] == expected
    assert "tokens/s" in done.stderr
    assert "note: user has a chat template; --prompt-template chat" in done.stderr


def test_streamed_text_is_the_text(folder):
    (folder / "prompts.txt").write_text("\n".join(PROMPTS[:2]))
    options = [
        *MODELS,
        "--file",
        "prompts.txt",
        "--form",
        "chat",
        "--delta-prompt-template",
        r"A:\n{prompt}",
    ]
    streamed = run("generate", *options, "--stream", cwd=folder)
    assert streamed.status == 0
    assert streamed.stdout == run("generate", *options, cwd=folder).stdout
    assert streamed.stdout.count("\n---\n") == 1
    assert "chat template" not in streamed.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--model", "user"], 2, "nothing to complete: give --prompt TEXT or --file FILE"),
        (["--model", "user", "--prompt", "a", "--stream", "--json"], 2, "leave out --json"),
        (["--model", "nowhere/", "--prompt", "a"], 1, "nowhere/: no such file or folder"),
        ([*MODELS, "--prompt", "a", "--alpha", "nan"], 2, "alpha is nan; expected a finite number"),
        ([*MODELS, "--prompt", "a", "--gate", "1.5"], 2, "gate is 1.5; expected a number from 0"),
        ([*MODELS, "--prompt", "a", "--plausible", "-1"], 2, "plausible is -1.0; expected"),
        (["--model", "user", "--prompt", "a", "--gate", 0.5], 2, "--gate: need --delta"),
        ([*MODELS, "--prompt", "a", "--map", "no.arrow"], 1, "no.arrow: cannot read"),
        ([*MODELS, "--prompt", ""], 2, "prompt 1: the prompt is empty"),
        (
            [*MODELS, "--prompt", "a", "--delta-prompt-template", ""],
            2,
            "the prompt template is ''; expected",
        ),
        ([*MODELS, "--prompt", "a", "--delta-window", "65"], 2, "the window is 65 ids"),
        (["--model", "user", "--file", "none.jsonl"], 1, "none.jsonl"),
        (["--model", "", "--prompt", "a"], 1, "no model of that name, and no such file"),
        (["--model", "user", "--prompt", "a", "--alpha", 0.5], 2, "need --delta"),
    ],
)
def test_what_the_command_refuses(folder, arguments, status, message):
    done = run("generate", *arguments, cwd=folder)
    assert (done.status, done.stdout) == (status, "")
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert line.startswith("cmc-runtime: ")
    assert message in line


@pytest.mark.parametrize("command", ["generate", "chat", "train", "eval"])
def test_without_torch_one_line_says_what_to_install(tmp_path, command):
    """As on a machine that has the core only."""
    needed = {
        "generate": ["--model", "a"],
        "chat": ["--model", "a"],
        "train": ["--template", "a", "--data", "b", "--output", "c"],
        "eval": ["--model", "a"],
    }
    code = (
        "import sys, cmc_runtime.cli.packages as packages; packages.find_spec = lambda _: None; "
        "from cmc_runtime.cli import main; main()"
    )
    arguments = [sys.executable, "-c", code, command, *needed[command]]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "cmc-runtime: this needs torch, transformers, accelerate: run `pip install "
        "'pm-mined[runtime]'`, or `pip install '.[runtime]'` in a clone\n"
    )


def test_help_loads_no_torch(tmp_path):
    code = (
        "import atexit, sys; sys.argv = ['cmc-runtime', 'generate', '--help']; atexit.register("
        "lambda: print([m for m in ('torch', 'transformers', 'numba') if m in sys.modules])); "
        "import cmc_runtime.__main__"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


# --- The documentation ---------------------------------------------------------------------------


def test_the_code_of_the_runtime_s_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model("user", "byte-level", seed=0)
    for seed, name in enumerate(("tiny-delta", "tuned", "plain"), 1):
        save_model(name, "metaspace", seed=seed)
    user = load_model("user", device="cpu")
    user.tokenizer.pad_token_id = 0
    user.model.generation_config.max_new_tokens = 6
    user.model.generation_config.pad_token_id = 0
    names = {
        "cmc_runtime": cmc_runtime,
        "model": user.model,
        "tokenizer": user.tokenizer,
        "prompts": PROMPTS[:2],
        "logits": torch.randn(2, user.num_logits).double(),
    }
    page = (Path(__file__).parents[1] / "docs" / "runtime.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for code in blocks:
        exec(compile(code, "runtime.md", "exec"), names)
    ids = torch.zeros(2, 4, dtype=torch.int64)
    scores = torch.randn(2, user.num_logits)
    assert names["processor"](ids, scores).shape == scores.shape
