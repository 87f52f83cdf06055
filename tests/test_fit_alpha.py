"""Strengths chosen for a user model: the least loss of a few rows, kept, and never a stale one."""

import json
from dataclasses import replace

import command_line
import numpy as np
import pytest
import torch
from eval_by_hand import losses_by_hand
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import CHAT, save_model
from training_runs import OPTIONS, PROMPT_TEMPLATE, run, save_rows

from cmc_runtime import fit_alpha, generate, load_delta, load_model
from cmc_runtime.data.examples import Example, Examples, Skipped, read_examples
from cmc_runtime.data.kept_rows import FILE, MAX_CHARACTERS, draw_rows
from cmc_runtime.delta_card import read_card
from cmc_runtime.evaluation import fit_alpha as module
from cmc_runtime.evaluation import kept_alphas
from cmc_runtime.evaluation.fit_alpha import FACTORS, MOST_LOST, FittedAlpha, Tried, choice
from cmc_runtime.evaluation.scores import Fusion
from pm_mined import OptionError
from pm_mined.errors import PmMinedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models with different tokenizers; beside the first one a delta has learned."""
    made = tmp_path_factory.mktemp("alpha")
    save_model(made / "template", "byte-level", seed=0)
    save_model(made / "user", "metaspace", seed=5, chat_template=CHAT)
    save_rows(made / "data.jsonl", 12)
    save_rows(made / "retain.jsonl", 7, shift=1)
    template = load_model(made / "template", device="cpu")
    run(made, template, made / "delta", OPTIONS(keep_rows=5))
    options = OPTIONS("remember", keep_rows=4)
    run(made, template, made / "forget", options, objective="remember")
    return made


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/pm-mined/alphas"


def load(path):
    return load_model(path, device="cpu", dtype=torch.float64)


@pytest.fixture(scope="module")
def user(folder):
    return load(folder / "user")


def delta_of(folder, name, user, **options):
    return load_delta(
        load(folder / name),
        user.tokenizer,
        num_logits=user.num_logits,
        ends=user.ends,
        token_map="first-token",
        **options,
    )


@pytest.fixture(scope="module")
def delta(folder, user):
    return delta_of(folder, "delta", user)


def losses_of(user, delta, rows, prompt_template=PROMPT_TEMPLATE):
    """The mean loss at each strength, token by token; strength 0 is the model alone."""
    found = {}
    for alpha in (0.0, *(factor * delta.alpha for factor in FACTORS)):
        case = (None, None) if alpha == 0 else (delta, Fusion.of(delta, alpha))
        each = [losses_by_hand(user, prompt_template, *row[:2], *case)[0] for row in rows]
        found[alpha] = np.concatenate(each).mean()
    return found


# --- The choice ----------------------------------------------------------------------------------


def test_it_is_the_strength_of_the_least_loss(folder, user, delta):
    rows = read_examples(folder / "delta" / FILE).rows
    expected = losses_of(user, delta, rows)
    found = fit_alpha(user, delta)
    assert dict(found.tried) == pytest.approx(expected, rel=1e-9)
    assert found.alpha == min(expected, key=expected.get) != 0
    assert (found.rows, found.forgets, found.is_kept) == (5, False, False)


def test_what_is_retained_bounds_a_delta_that_is_subtracted(folder, user):
    delta = delta_of(folder, "forget", user)
    assert delta.alpha == -0.8
    expected = losses_of(user, delta, read_examples(folder / "forget" / FILE).rows)
    found = fit_alpha(user, delta)
    assert dict(found.tried) == pytest.approx(expected, rel=1e-9)
    harmless = [one for one in expected if expected[one] <= expected[0.0] * (1 + MOST_LOST)]
    assert found.alpha == min(harmless) < 0
    assert found.forgets


@pytest.mark.parametrize("template", ["chat", "{prompt}"])
def test_rows_and_templates_may_be_others(folder, user, delta, template):
    given = Examples(read_examples(folder / "retain.jsonl").rows[:2], Skipped())
    found = fit_alpha(user, delta, given, prompt_template=template)
    expected = losses_of(user, delta, given.rows, template)
    assert dict(found.tried) == pytest.approx(expected, rel=1e-9)
    assert found.rows == 2


def test_settings_of_the_delta_count(folder, user):
    delta = delta_of(folder, "delta", user, unmapped="keep", plausible=0.1)
    rows = read_examples(folder / "delta" / FILE).rows
    assert dict(fit_alpha(user, delta).tried) == pytest.approx(losses_of(user, delta, rows))


@given(st.lists(st.floats(0.1, 9), min_size=2, max_size=9), st.booleans())
def test_choices_of_any_losses(losses, forgets):
    tried = [Tried(float(i), loss) for i, loss in enumerate(losses)]
    most = losses[0] * (1 + MOST_LOST)
    if not forgets:
        assert losses[int(choice(tried, forgets=False))] == min(losses)
    elif losses[1] > most:
        with pytest.raises(OptionError, match="alpha 1 raises the loss of what is to be retained"):
            choice(tried, forgets=True)
    else:
        last = int(choice(tried, forgets=True))
        assert max(losses[1 : last + 1]) <= most
        assert losses[last + 1 :] == [] or losses[last + 1] > most


def test_it_says_what_it_chose():
    found = FittedAlpha(-0.4, (Tried(0.0, 2.0), Tried(-0.2, 2.0), Tried(-0.4, 2.01)), 3, True, True)
    says = "alpha -0.4: loss 2.01 on 3 rows to retain, 2 alone; tried -0.2 to -0.4, before"
    assert str(found) == says
    assert found.to_json()["tried"][1] == {"alpha": -0.2, "loss": 2.0}
    json.dumps(found.to_json())


# --- The rows ------------------------------------------------------------------------------------


def test_training_keeps_rows_of_what_is_learned(folder):
    kept = read_examples(folder / "delta" / FILE).rows
    data = [row[:2] for row in read_examples(folder / "data.jsonl").rows]
    places = [data.index(row[:2]) for row in kept]
    assert len(kept) == 5
    assert places == sorted(set(places))
    assert read_card(folder / "delta").training["options"]["keep_rows"] == 5


def test_nothing_that_is_to_be_forgotten_is_kept(folder):
    kept = {row[:2] for row in read_examples(folder / "forget" / FILE).rows}
    retained = {row[:2] for row in read_examples(folder / "retain.jsonl").rows}
    assert len(kept) == 4
    assert kept <= retained


@pytest.mark.parametrize(("objective", "count"), [("sft", 0), ("grad-ascent", 16)])
def test_none_are_kept(folder, tmp_path, objective, count):
    template, notes = load_model(folder / "template", device="cpu"), []
    options = OPTIONS(objective, num_train_epochs=1, keep_rows=count)
    delta = run(folder, template, tmp_path / "out", options, objective=objective, note=notes.append)
    assert not (tmp_path / "out" / FILE).exists()
    assert read_card(tmp_path / "out").rows_sha256 is None
    assert notes == []
    with pytest.raises(OptionError) as caught:
        fit_alpha(template, delta_of(tmp_path, "out", load(folder / "template")))
    assert str(caught.value) == (
        f"{tmp_path / 'out'}: it keeps no rows to choose alpha by: give some by --rows, such as it "
        "learned, or a number"
    )
    assert delta.alpha == 1


def test_they_are_few_short_and_those_of_the_seed():
    rows = [Example("p" * (50 * i), "r", i) for i in range(1, 101)]
    drawn = draw_rows(rows, 16, seed=3)
    assert drawn == draw_rows(rows, 16, seed=3) != draw_rows(rows, 16, seed=4)
    assert 0 < sum(len(row.prompt) + 1 for row in drawn) <= MAX_CHARACTERS
    assert [row.row for row in drawn] == sorted({row.row for row in drawn})
    assert len(draw_rows(rows[:4], 16, seed=0)) == 4
    assert draw_rows([Example("p" * MAX_CHARACTERS, "r", 1)], 16, seed=0) == []


def test_rows_that_were_changed_are_refused(folder, user, tmp_path):
    for path in (folder / "delta").iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    delta = delta_of(tmp_path, ".", user)
    changed = (tmp_path / FILE).read_text("utf-8").replace("fox", "dog")
    (tmp_path / FILE).write_text(changed, "utf-8")
    with pytest.raises(PmMinedError, match=r"rows\.jsonl: not the rows that were kept"):
        fit_alpha(user, delta)
    (tmp_path / FILE).unlink()
    with pytest.raises(OptionError, match="it keeps no rows"):
        fit_alpha(user, delta)


# --- The cache -----------------------------------------------------------------------------------


def never(*_, **__):
    raise AssertionError("the models run again")


def test_what_was_chosen_is_taken_at_once(user, delta, cache, monkeypatch):
    first = fit_alpha(user, delta)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(module, "score_samples", never)
    assert fit_alpha(user, delta) == replace(first, is_kept=True)
    with pytest.raises(AssertionError):
        fit_alpha(user, delta, keep=False)


def changed_weight(loaded):
    """The same model, one weight of which is another in the last place."""
    other = load(loaded.spec)
    weight = next(iter(other.model.parameters())).data.view(-1)
    weight[7] = torch.nextafter(weight[7], weight[7] + 1)
    return other


def test_whatever_changes_a_loss_is_chosen_for_anew(folder, user, delta, cache):
    rows = read_examples(folder / "delta" / FILE)
    fewer = Examples(rows.rows[:-1], Skipped())
    cases = [
        (user, delta),
        (changed_weight(user), delta),
        (user, replace(delta, loaded=changed_weight(delta.loaded))),
        (user, delta_of(folder, "delta", user, unmapped="mean")),
        (user, delta_of(folder, "delta", user, plausible=0.2)),
        (user, delta_of(folder, "delta", user, gate=0.9)),
        (user, delta_of(folder, "delta", user, prompt_template="{prompt}")),
        (user, replace(delta, alpha=0.9)),
        (user, delta, fewer),
    ]
    for count, case in enumerate(cases, 1):
        assert not fit_alpha(*case, prompt_template=PROMPT_TEMPLATE).is_kept
        assert len(list(cache.iterdir())) == count
    assert not fit_alpha(user, delta, prompt_template="chat").is_kept
    assert fit_alpha(user, delta, rows, prompt_template=PROMPT_TEMPLATE).is_kept


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"alpha": 1', '{"alpha": 9, "tried": []}'])
def test_a_damaged_choice_is_made_anew(user, delta, cache, content):
    first = fit_alpha(user, delta)
    (path,) = cache.iterdir()
    path.write_text(content)
    assert fit_alpha(user, delta) == first
    assert fit_alpha(user, delta) == replace(first, is_kept=True)


def test_a_cache_that_cannot_be_used_is_noted(user, delta, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    notes = []
    assert fit_alpha(user, delta, note=notes.append) == fit_alpha(user, delta, keep=False)
    (noted,) = notes
    assert noted.startswith("alpha is not kept for the next time: ")


def test_old_choices_make_room(user, delta, cache, monkeypatch):
    monkeypatch.setattr(kept_alphas, "MOST", 2)
    for alpha in (1.0, 1.1, 1.2):
        fit_alpha(user, replace(delta, alpha=alpha))
    assert len(list(cache.iterdir())) == 2
    assert fit_alpha(user, replace(delta, alpha=1.2)).is_kept


# --- The commands --------------------------------------------------------------------------------


def command(folder, *arguments, **more):
    return command_line.run(*arguments, cwd=folder, program="cmc-runtime", **more)


STEERED = ("--model", "user", "--delta", "delta", "--map", "first-token", "--device", "cpu")


def test_generate_chooses_and_says_so(folder, user, delta):
    asked = ("--prompt", "0 the quick brown fox?", "--max-new-tokens", 4)
    done = command(folder, "generate", *STEERED, "--alpha", "auto", "--json", *asked)
    fitted = fit_alpha(load_model(folder / "user"), load_delta_in_float32(folder))
    printed = json.loads(done.stdout)
    assert printed["alpha"] == fitted.alpha
    assert f"alpha {fitted.alpha:g}: loss " in done.stderr
    (expected,) = generate(
        user, [asked[1]], delta, alpha=fitted.alpha, prompt_template=PROMPT_TEMPLATE
    )
    assert expected.text.startswith(printed["text"])
    plain = command(folder, "generate", "--model", "user", "--json", *asked)
    assert json.loads(plain.stdout)["alpha"] is None
    own = command(folder, "generate", *STEERED, "--json", *asked)
    assert json.loads(own.stdout)["alpha"] == 1


def load_delta_in_float32(folder):
    user = load_model(folder / "user", device="cpu")
    return load_delta(
        folder / "delta",
        user.tokenizer,
        num_logits=user.num_logits,
        ends=user.ends,
        device="cpu",
        token_map="first-token",
    )


def test_eval_chooses_for_each_model(folder):
    arguments = (*STEERED, "--model", "template", "--data", "data.jsonl")
    done = command(folder, "eval", *arguments, "--alpha", 1, "--alpha", "auto", "--json")
    models = json.loads(done.stdout)["models"]
    for model in models:
        chosen = model["fitted_alpha"]
        assert chosen["alpha"] == min(chosen["tried"], key=lambda one: one["loss"])["alpha"]
        assert [one["alpha"] for one in model["data"]["results"]] == [None, 1, chosen["alpha"]]
    assert len({model["fitted_alpha"]["alpha"] for model in models}) == 2
    plain = command(folder, "eval", *arguments, "--json")
    assert [one["fitted_alpha"] for one in json.loads(plain.stdout)["models"]] == [None, None]


def test_chat_takes_it_at_any_time(folder):
    expected = fit_alpha(
        load_model(folder / "user"), load_delta_in_float32(folder), prompt_template="chat"
    )
    done = command(folder, "chat", *STEERED, stdin=b"/alpha auto\n/alpha\n")
    assert done.stderr.count(f"alpha {expected.alpha:g}") == 3
    assert f"tried {FACTORS[0]:g} to {FACTORS[-1]:g}, before\n" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--alpha", "x"], 2, "alpha is x; expected a finite number, or auto"),
        (["--alpha", "inf"], 2, "alpha is inf; expected a finite number, or auto"),
        (["--rows", "data.jsonl"], 2, "--rows needs --alpha auto"),
        (["--rows", "none.jsonl", "--alpha", "auto"], 1, "none.jsonl: cannot read: No such file"),
    ],
)
def test_what_is_wrong_is_said(folder, arguments, status, says):
    done = command(folder, "generate", *STEERED, "--prompt", "a", *arguments)
    assert done.status == status
    assert says in " ".join(done.stderr.split())
