"""Losses of responses, alone and with a delta model, against full logits token by token."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from eval_by_hand import losses_by_hand, run_eval
from tiny_models import CHAT, save_model
from torch import nn

import cmc_runtime
from cmc_runtime import load_delta, load_model
from cmc_runtime.data.examples import Example, read_examples
from cmc_runtime.data.samples import SampleMaker, fitting_samples
from cmc_runtime.delta_card import Card, read_card
from cmc_runtime.errors import DataError
from cmc_runtime.evaluation.evaluate import evaluate
from cmc_runtime.evaluation.scores import Fusion, confidence_interval, score_samples, token_rules
from cmc_runtime.evaluation.shifts import ShiftedModel, compare_shifts
from cmc_runtime.fusion.limits import EVERYWHERE, Limits
from cmc_runtime.maps.tensors import identity_map_tensors, load_map_tensors
from pm_mined import OptionError, Rule, build_map, load_vocabulary

PROMPT_TEMPLATE = "Q: {prompt}\nA: {response}"
ROWS = [
    Example("the quick brown", "fox jumps over", 1),
    Example("日本語", "日本語のテキスト 🙂", 2),
    Example("a", "x", 4),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("evaluation")
    save_model(made / "user", "byte-level", seed=0, chat_template=CHAT)
    save_model(made / "second", "metaspace", seed=3)
    save_model(made / "delta", "metaspace", seed=1, max_length=64)
    save_model(made / "same", "byte-level", seed=2, logits=410)
    (made / "folder.png").mkdir()
    rows = [{"prompt": row.prompt, "response": row.response} for row in ROWS]
    write(made / "data.jsonl", [*rows[:2], {"prompt": "no response"}, rows[2]])
    write(made / "long.jsonl", [*rows[:1], {"prompt": "a", "response": "the " * 300}])
    write(made / "prompts.jsonl", [{"prompt": "a"}])
    return made


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def load(path):
    return load_model(path, device="cpu", dtype=torch.float64)


@pytest.fixture(scope="module")
def user(folder):
    return load(folder / "user")


@pytest.fixture(scope="module")
def delta(folder, user):
    return load_delta(
        load(folder / "delta"),
        user.tokenizer,
        num_logits=user.num_logits,
        ends=user.ends,
        token_map="pm-mined",  # of one token each, for what is done by hand
        prompt_template=PROMPT_TEMPLATE,
    )


@pytest.fixture(scope="module")
def samples(user, delta):
    return fitting_samples(user, ROWS, PROMPT_TEMPLATE, delta).samples


FUSIONS = [(0.0, "zero"), (0.7, "zero"), (0.7, "keep"), (-1.5, "mean")]
LIMITS = [EVERYWHERE, Limits(plausible=0.7), Limits(0.7, gate=0.08)]


# --- In Python -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3])
def test_losses_are_those_of_full_logits(user, delta, samples, batch_size):
    fusions = [Fusion.of(delta, *how) for how in FUSIONS]
    fusions += [Fusion.of(replace(delta, limits=limits), -0.8) for limits in LIMITS]
    scores = score_samples(user, samples, delta, fusions, batch_size=batch_size)
    assert [one.fusion for one in scores] == [None, *fusions]
    for i, one in enumerate(scores):
        how = (delta, fusions[i - 1]) if i else ()
        by_row = [losses_by_hand(user, PROMPT_TEMPLATE, *row[:2], *how) for row in ROWS]
        for row, (loss, correct) in enumerate(by_row):
            own = one.sample_of == row
            np.testing.assert_allclose(one.loss[own], loss, atol=1e-9)
            assert one.correct[own].tolist() == correct.tolist()
    np.testing.assert_allclose(scores[1].loss, scores[0].loss, atol=1e-12)
    assert not np.allclose(scores[2].loss, scores[3].loss)
    differ = [(one.loss != scores[0].loss).mean() for one in scores[-2:]]
    assert differ[0] > differ[1] > 0.2


def test_the_figures_are_their_definitions(user, delta, samples):
    (alone, fused) = score_samples(user, samples, delta, batch_size=2)
    assert fused.fusion == Fusion(delta.tensors, 1.0, "keep")
    by_row = [losses_by_hand(user, PROMPT_TEMPLATE, *row[:2])[0] for row in ROWS]
    text = [loss[:-1] for loss in by_row]  # without the end
    characters = sum(len(row.response) + 1 for row in ROWS)  # with the space before it
    total = sum(map(sum, text))
    assert alone.loss_per_character == pytest.approx(total / characters)
    assert alone.loss_per_token == pytest.approx(total / sum(map(len, text)))
    assert alone.losses == pytest.approx([loss.sum() for loss in text])
    assert alone.mean_losses == pytest.approx([loss.mean() for loss in by_row])


def test_accuracy_is_the_share_of_the_likeliest(user):
    made = user.model.generate(
        **user.tokenizer("Q: a\nA:", return_tensors="pt"),
        max_new_tokens=5,
        do_sample=False,
        pad_token_id=0,
    )
    (sample,) = fitting_samples(user, ROWS[2:], PROMPT_TEMPLATE).samples
    written = made[0, sample.num_prompt :].tolist()
    ids = [*sample.ids[: sample.num_prompt], *written[:3], 7, *written[3:]]
    changed = type(sample)(1, ids, sample.num_prompt, 4, 1, None)
    (scores,) = score_samples(user, [changed])
    assert scores.correct[:4].tolist() == [True, True, True, written[3] == 7]
    assert scores.accuracy == pytest.approx(3 / 4 if written[3] != 7 else 1)


def test_chunks_of_tokens_change_nothing(user, delta, samples, monkeypatch):
    whole = score_samples(user, samples, delta, batch_size=3)
    monkeypatch.setitem(cmc_runtime.evaluation.scores._BYTES, "cpu", 4 * 420 * 2)
    for one, other in zip(whole, score_samples(user, samples, delta, batch_size=3), strict=True):
        np.testing.assert_allclose(one.loss, other.loss, atol=1e-12)


def test_a_fusion_by_another_map(folder, user, delta, samples):
    sides = load_vocabulary(folder / "user"), load_vocabulary(folder / "delta")
    other = build_map(*sides, strategy="exact")
    loaded = load_delta(
        delta.loaded,
        user.tokenizer,
        num_logits=user.num_logits,
        ends=user.ends,
        token_map=other,
        prompt_template=PROMPT_TEMPLATE,
    )
    tensors = load_map_tensors(loaded.token_map, num_src_logits=420, num_dst_logits=420)
    (_, own, found) = score_samples(
        user, samples, delta, [Fusion.of(delta, 0.7), Fusion(tensors, 0.7, "keep")]
    )
    (_, expected) = score_samples(user, samples, loaded, [Fusion.of(loaded, 0.7)])
    np.testing.assert_allclose(found.loss, expected.loss, atol=1e-9)
    assert not np.allclose(found.loss, own.loss)


def test_what_unmapped_tokens_get_where_nothing_is_said(folder, user, tmp_path):
    def policy(spec, **options):
        given = {"num_logits": user.num_logits, **options}
        return load_delta(spec, user.tokenizer, **given).unmapped

    assert (policy(folder / "user"), policy(folder / "delta")) == ("zero", "keep")
    carded = shutil.copytree(folder / "delta", tmp_path / "carded")
    card = Card(load_vocabulary(carded).fingerprint)
    card.save(carded)
    assert (read_card(carded).unmapped, policy(carded)) == (None, "keep")
    replace(card, unmapped="mean").save(carded)
    assert (policy(carded), policy(carded, unmapped="zero")) == ("mean", "zero")


def test_an_offset_of_a_carried_delta_changes_nothing(user, delta, samples):
    head = delta.loaded.model.get_output_embeddings()
    moved = nn.Linear(head.in_features, head.out_features, dtype=head.weight.dtype)
    moved.load_state_dict({"weight": head.weight, "bias": torch.full_like(moved.bias, -20.0)})
    (_, before) = score_samples(user, samples, delta)
    delta.loaded.model.set_output_embeddings(moved)
    try:
        (_, after) = score_samples(user, samples, delta)
    finally:
        delta.loaded.model.set_output_embeddings(head)
    np.testing.assert_allclose(after.loss, before.loss, atol=1e-9)


def test_a_delta_with_the_same_vocabulary(folder, user):
    same = load_delta(
        load(folder / "same"),
        user.tokenizer,
        num_logits=user.num_logits,
        ends=user.ends,
        prompt_template=PROMPT_TEMPLATE,
    )
    made = fitting_samples(user, ROWS, PROMPT_TEMPLATE, same).samples
    (_, fused) = score_samples(user, made, same, batch_size=3)
    expected = [
        losses_by_hand(user, PROMPT_TEMPLATE, *row[:2], same, fused.fusion)[0] for row in ROWS
    ]
    np.testing.assert_allclose(fused.loss, np.concatenate(expected), atol=1e-9)
    rules = token_rules(same, np.array([0, 409, 410, 419]))
    assert rules.tolist() == [Rule.EXACT, Rule.EXACT, Rule.NONE, Rule.NONE]


def test_rules_are_those_of_the_map(folder, delta):
    built = build_map(load_vocabulary(folder / "user"), load_vocabulary(folder / "delta"))
    ids = np.arange(420)
    expected = [Rule.SPECIAL, *built.rule[1:], *[Rule.NONE] * (420 - len(built))]
    assert token_rules(delta, ids[::-1]).tolist() == expected[::-1]


def test_long_rows_are_skipped_and_counted(folder, user, delta):
    long = Example("a", "the quick " * 40, 9)  # 80 tokens of the user model
    rows = [*ROWS, long, Example("a", "the " * 300, 10)]
    made = fitting_samples(user, rows, PROMPT_TEMPLATE)
    assert [sample.row for sample in made.samples] == [1, 2, 4, 9]
    assert str(made.skipped) == "1 row skipped: 1 of more than 256 tokens (row 10)"
    made = fitting_samples(user, rows, PROMPT_TEMPLATE, delta)
    assert "1 of more than 64 tokens of the delta model (row 9)" in str(made.skipped)
    made = fitting_samples(user, rows, PROMPT_TEMPLATE, max_length=12)
    assert all(len(sample.ids) <= 12 for sample in made.samples)
    assert "of more than 12 tokens" in str(made.skipped)
    with pytest.raises(DataError, match=r"no usable row for .*user: 1 row skipped: 1 of more than"):
        fitting_samples(user, [long], PROMPT_TEMPLATE, max_length=12)


def test_the_delta_model_has_its_own_limit(user, delta):
    """Its prompts are longer here than the user model's."""
    rows = [Example("a", "quick " * count, count) for count in range(1, 80)]
    maker = SampleMaker(user, "{prompt}", delta)
    made = [maker.make(*row[:3]) for row in rows]
    fits = [sample.row for sample in made if sample.tree.longest <= delta.window]
    assert fits != [sample.row for sample in made if len(sample.ids) <= delta.window]
    samples = fitting_samples(user, rows, "{prompt}", delta).samples
    assert [sample.row for sample in samples] == fits
    score_samples(user, samples[-1:], delta)


def test_the_bytes_of_responses(user):
    made = fitting_samples(user, ROWS, PROMPT_TEMPLATE)
    assert made.num_bytes == sum(len(f" {row.response}".encode()) for row in ROWS)


@pytest.mark.parametrize(("sums", "counts"), [([3.0, 6.0], [1, 2]), ([5.0], [2])])
def test_the_interval_of_what_does_not_vary(sums, counts):
    ratio = sums[0] / counts[0]
    assert confidence_interval(sums, counts) == (ratio, ratio)


def test_the_interval_is_near_that_of_the_normal_distribution():
    random = np.random.default_rng(5)
    values = random.normal(3, 2, 2000)
    low, high = confidence_interval(values, np.ones(2000))
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.01)
    assert high - low == pytest.approx(2 * 1.96 * 2 / math.sqrt(2000), rel=0.1)
    assert confidence_interval(values, np.ones(2000)) == (low, high)


def test_what_cannot_be_evaluated(user, delta, samples):
    refused = [
        (lambda: score_samples(user, []), "no samples"),
        (lambda: score_samples(user, samples), "do not belong together"),
        (
            lambda: score_samples(
                user, fitting_samples(user, ROWS, PROMPT_TEMPLATE).samples, delta
            ),
            "together",
        ),
        (lambda: score_samples(user, samples, delta, batch_size=0), "batch_size is 0"),
        (lambda: score_samples(user, samples, None, [Fusion.of(delta)]), "no delta model"),
        (lambda: score_samples(user, samples, delta, [Fusion.of(delta, math.nan)]), "alpha is nan"),
        (lambda: fitting_samples(user, ROWS, PROMPT_TEMPLATE, max_length=0), "max_length is 0"),
        (lambda: score_samples(user, chains(user, delta), delta), "reencode=False"),
    ]
    for call, message in refused:
        with pytest.raises(OptionError, match=message):
            call()


def chains(user, delta):
    maker = SampleMaker(user, PROMPT_TEMPLATE, delta, reencode=False)
    return [maker.make(*row[:3]) for row in ROWS]


@pytest.mark.parametrize("whose", ["user", "delta"])
def test_logits_that_are_no_numbers(folder, samples, whose):
    models = {name: load(folder / name) for name in ("user", "delta")}
    with torch.no_grad():
        models[whose].model.get_output_embeddings().weight[5] = math.nan
    user = models["user"]
    delta = load_delta(
        models["delta"],
        user.tokenizer,
        num_logits=user.num_logits,
        ends=user.ends,
        prompt_template=PROMPT_TEMPLATE,
    )
    said = "user: logits of row" if whose == "user" else "user with the delta model: logits of row"
    with pytest.raises(cmc_runtime.ModelError, match=said):
        score_samples(user, samples, delta)


def test_out_of_memory(user, samples, delta, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cmc_runtime.evaluation.scores, "tree_states", fail)
    for batch_size, hint in ((3, "3 rows at once: use a smaller"), (1, "limit the length of rows")):
        with pytest.raises(cmc_runtime.ModelError, match=hint):
            score_samples(user, samples, delta, batch_size=batch_size)


# --- The command ---------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys, folder):
    """`cmc-runtime eval`: what it prints."""

    def command(*arguments):
        status, out, err = run_eval(monkeypatch, capsys, folder, *arguments)
        assert status == 0, err
        return out, err

    return command


MODELS = ["--model", "user", "--model", "second", "--delta", "delta", "--data", "data.jsonl"]


def test_json_has_the_figures_of_every_model(run, folder):
    out, err = run(*MODELS, "--alpha", 0.5, "--alpha", 1, "--unmapped", "keep", "--json")
    document = json.loads(out)
    assert list(document) == ["delta", "file", "models"]
    assert document["file"]["rows"] == 3
    assert document["file"]["skipped"] == {"without a response": 1}
    assert "data.jsonl: 1 row skipped: 1 without a response (row 3)" in err
    for name, found in zip(("user", "second"), document["models"], strict=True):
        user = load_model(folder / name, device="cpu")
        delta = load_delta(
            load_model(folder / "delta", device="cpu"),
            user.tokenizer,
            num_logits=user.num_logits,
            ends=user.ends,
        )
        made = fitting_samples(user, ROWS, "{prompt}", delta)
        expected = score_samples(
            user, made.samples, delta, [Fusion.of(delta, alpha, "keep") for alpha in (0.5, 1)]
        )
        assert (found["model"], found["form"]) == (name, "{prompt}")
        data = found["data"]
        assert data["samples"] == 3
        assert data["tokens"] == sum(sample.num_text for sample in made.samples)
        assert data["characters"] == sum(len(row.response) for row in ROWS)
        assert data["bytes"] == sum(len(row.response.encode()) for row in ROWS)
        assert sum(data["places"].values()) == sum(one.num_targets for one in made.samples)
        assert [one["alpha"] for one in data["results"]] == [None, 0.5, 1.0]
        assert [one["unmapped"] for one in data["results"]] == [None, "keep", "keep"]
        for result, scores in zip(data["results"], expected, strict=True):
            assert result["loss_per_character"] == pytest.approx(scores.loss_per_character)
            assert result["interval"] == pytest.approx(scores.interval)
            assert result["loss_per_token"] == pytest.approx(scores.loss_per_token)
            assert result["accuracy"] == scores.accuracy
            assert result["ending_loss"] == pytest.approx(scores.loss[~scores.is_text].mean())
            bits = scores.losses.sum() / math.log(2) / data["bytes"]
            assert result["bits_per_byte"] == pytest.approx(bits)
            check_rules(result["rules"], scores, token_rules(delta, scores.targets))
    first, second = document["models"]
    assert first["strategy"]["name"] == "first-token"
    assert second["strategy"] is None
    assert first["data"]["places"]["reencoded"] > 0 == second["data"]["places"]["reencoded"]


def test_the_table_has_the_loss_of_the_ends(run, folder):
    arguments = ["--model", "user", "--delta", "delta", "--data", "data.jsonl"]
    table, _ = run(*arguments)
    data = json.loads(run(*arguments, "--json")[0])["models"][0]["data"]
    expected = [f"{one['ending_loss']:.4f}" for one in data["results"]]
    (row,) = [line.split() for line in table.splitlines() if "(ends)" in line]
    assert row == ["user", "(ends)", *expected]


def test_one_call_has_the_figures_of_the_command(run, folder):
    user, loaded = (load_model(folder / name, device="cpu") for name in ("user", "delta"))
    delta = load_delta(loaded, user.tokenizer, num_logits=user.num_logits, ends=user.ends)
    data = read_examples(folder / "long.jsonl")
    template = ["--prompt-template", PROMPT_TEMPLATE]
    with_delta = ["--delta", "delta", "--alpha", 0.5, "--alpha", 1, *template]
    how = ["--model", "user", "--data", "long.jsonl", "--json"]
    alone, both = (json.loads(run(*how, *more)[0]) for more in ([], with_delta))
    assert evaluate(user, data).to_json() == alone["models"][0]["data"]
    found = evaluate(user, data, delta, alphas=[0.5, 1], prompt_template=PROMPT_TEMPLATE)
    assert found.to_json() == both["models"][0]["data"]
    assert found.skipped.to_json() == {"of more than 256 tokens": 1}
    losses = [f"{one.loss_per_character:.4f}" for one in found.scores]
    name = str(folder / "user")
    assert repr(found) == (
        f"Evaluation({name!r}, 1 sample, loss per character {losses[0]} alone, "
        f"{losses[1]} at alpha 0.5, {losses[2]} at alpha 1)"
    )
    for one in ("at alpha 0.5", *losses):
        assert f">{one}<" in found._repr_html_()


def test_without_a_delta_nothing_says_how_it_steers(user, folder):
    data = read_examples(folder / "data.jsonl")
    for given in ({"alphas": [1]}, {"unmapped": "keep"}):
        with pytest.raises(OptionError, match="give delta too"):
            evaluate(user, data, **given)


def check_rules(found, scores, rules):
    for name, one in found.items():
        chosen = [
            i for i, rule in enumerate(rules) if rule == Rule[name.upper()] and scores.is_text[i]
        ]
        assert one["tokens"] == len(chosen)
        assert one["loss_per_token"] == pytest.approx(np.mean(scores.loss[chosen]))
        assert one["accuracy"] == pytest.approx(np.mean(scores.correct[chosen]))
    assert sum(one["tokens"] for one in found.values()) == scores.is_text.sum()
    assert sum(one["share"] for one in found.values()) == pytest.approx(1)


def test_tables_and_a_picture(run, folder):
    pytest.importorskip("matplotlib")
    out, _ = run(
        *MODELS, "--alpha", 0.5, "--prompt-template", PROMPT_TEMPLATE, "--plot", "losses.png"
    )
    lines = [line.split() for line in out.splitlines()]
    found = json.loads(
        run(*MODELS, "--alpha", 0.5, "--prompt-template", PROMPT_TEMPLATE, "--json")[0]
    )
    for model in found["models"]:
        alone, steered = (f"{one['loss_per_character']:.4f}" for one in model["data"]["results"])
        assert [model["model"], "alone", alone] in [line[:3] for line in lines]
        assert [model["model"], "0.5", steered] in [line[:3] for line in lines]
        exact = [one["rules"]["exact"] for one in model["data"]["results"]]
        row = [f"{one['loss_per_token']:.4f}" for one in exact]
        assert [model["model"], "exact", f"{exact[0]['tokens']}", *row] in [
            [*line[:3], *line[4:]] for line in lines
        ]
    assert (folder / "losses.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_alone(run):
    document = json.loads(run("--model", "user", "--data", "data.jsonl", "--json")[0])
    (model,) = document["models"]
    (result,) = model["data"]["results"]
    assert document["delta"] is model["strategy"] is model["data"]["places"] is None
    assert result["alpha"] is result["rules"] is None
    assert "user" in run("--model", "user", "--data", "data.jsonl")[0]


def test_limits(run):
    out, err = run("--model", "user", "--data", "long.jsonl", "--json")
    assert json.loads(out)["models"][0]["data"]["skipped"] == {"of more than 256 tokens": 1}
    assert "note: user: 1 row skipped: 1 of more than 256 tokens (row 2)" in err
    out, _ = run("--model", "user", "--data", "data.jsonl", "--limit", 1, "--json")
    assert json.loads(out)["models"][0]["data"]["samples"] == 1


def test_each_model_takes_its_map(run, folder):
    sides = load_vocabulary(folder / "user"), load_vocabulary(folder / "delta")
    build_map(*sides, strategy="exact").save(folder / "maps-are-not-looked-for-here")
    build_map(*[sides[1]] * 2, strategy="mined").save(folder / "second-map")
    given = ["--map", "second-map", "--map", "maps-are-not-looked-for-here"]
    document = json.loads(run(*MODELS, *given, "--json")[0])
    assert [one["strategy"]["name"] for one in document["models"]] == ["exact", "mined"]
    document = json.loads(run(*MODELS, *given[2:], "--json")[0])
    assert document["models"][1]["strategy"] is None


def test_a_map_is_built_by_the_strategy_that_is_named(run, folder):
    out, err = run(*MODELS, "--map", "both-ways", "--json")
    found = json.loads(out)["models"]
    assert found[0]["strategy"]["name"] == "both-ways"
    assert found[1]["strategy"] is None  # it has the delta's vocabulary
    assert "built here by both-ways" in err
    sides = load_vocabulary(folder / "user"), load_vocabulary(folder / "delta")
    build_map(*sides, strategy="both-ways").save(folder / "written")
    by_file = json.loads(run(*MODELS, "--map", "written", "--json")[0])["models"]
    assert found[0]["data"]["results"] == by_file[0]["data"]["results"]


def test_answers_in_the_form_of_alpaca_eval(run, folder):
    alpaca = [
        {"dataset": "x", "instruction": row.prompt, "output": "?", "generator": "y"} for row in ROWS
    ]
    (folder / "alpaca.json").write_text(json.dumps(alpaca))
    options = ["--model", "user", "--delta", "delta", "--alpha", 0.5, "--max-new-tokens", 6]
    out, _ = run(*options, "--data", "alpaca.json", "--outputs", "answers.json")
    assert out == "3 answers of user + 0.5 delta written to answers.json\n"
    written = json.loads((folder / "answers.json").read_text("utf-8"))
    user = load_model(folder / "user", device="cpu")
    delta = load_delta(
        load_model(folder / "delta", device="cpu"),
        user.tokenizer,
        num_logits=user.num_logits,
        ends=user.ends,
    )
    prompts = [row.prompt for row in ROWS]
    made = cmc_runtime.generate(user, prompts, delta, alpha=0.5, sampling=cmc_runtime.Sampling(6))
    assert written == [
        {
            "instruction": one.prompt,
            "output": one.text.strip(),
            "generator": "user + 0.5 delta",
        }
        for one in made
    ]


def test_each_model_has_its_form(run):
    document = json.loads(
        run(*MODELS, "--prompt-template", "chat", "--prompt-template", r"Q:\n{prompt}", "--json")[0]
    )
    assert [one["form"] for one in document["models"]] == ["chat", "Q:\n{prompt}"]


@pytest.mark.parametrize("tuned", [False, True])
def test_how_alike_models_are_shifted(run, folder, tuned):
    pytest.importorskip("geomloss")
    how = [
        "--alpha",
        0.5,
        "--unmapped",
        "mean",
        "--max-length",
        12,
        "--prompt-template",
        PROMPT_TEMPLATE,
        "--shifts",
    ]
    given = ["--model", "./user", *MODELS[2:], *how]
    if tuned:
        save_model(folder / "same", "byte-level", seed=2)
        given += ["--tuned", "./same"]
    out, err = run(*given, "--json")
    found = [one["shifts"] for one in json.loads(out)["models"]]
    first, second = (load_model(folder / name, device="cpu") for name in ("user", "second"))
    delta = load_model(folder / "delta", device="cpu")
    deltas = [
        load_delta(delta, user.tokenizer, num_logits=user.num_logits, ends=user.ends)
        for user in (first, second)
    ]
    shifted = [
        ShiftedModel(user, one, PROMPT_TEMPLATE, Fusion.of(one, 0.5, "mean"))
        for user, one in zip((first, second), deltas, strict=True)
    ]
    by = load_model(folder / "same", device="cpu") if tuned else shifted[0].by
    reference = replace(shifted[0], by=by)
    sides = load_vocabulary(folder / "user"), load_vocabulary(folder / "second")
    tensors = load_map_tensors(build_map(*sides), num_src_logits=420, num_dst_logits=420)
    expected, _ = compare_shifts(reference, shifted[1], ROWS[2:], tensors)
    assert found[1].pop("skipped") == {"of more than 12 tokens": 2}
    assert found[1] == pytest.approx(
        {
            "reference": "./user",
            "by": "./same" if tuned else "delta",
            "alpha": 0.5,
            "unmapped": "mean",
            "plausible": 0.0,
            "gate": 1.0,
            "rows": 1,
            "sinkhorn": expected.sinkhorn,
            "correlation": expected.correlation,
            "lacking": expected.unmapped,
        }
    )
    assert "note: second: shifts: 2 rows skipped: 2 of more than 12 tokens (first: row 1)" in err
    if tuned:
        itself, _ = compare_shifts(reference, shifted[0], ROWS[::2], identity_map_tensors(420))
        assert found[0]["sinkhorn"] == pytest.approx(itself.sinkhorn)
        assert f"{expected.correlation:.3f}" in run(*given)[0]
    else:
        assert found[0] is None


def test_where_no_shifts_can_be_compared_the_losses_stay(run):
    pytest.importorskip("geomloss")
    out, err = run(*MODELS, "--shifts", "--alpha", 0, "--json")
    assert [one["shifts"] for one in json.loads(out)["models"]] == [None, None]
    assert "note: second: shifts: one of the models shifts no token against another" in err


def test_a_tuned_model_of_another_one_is_refused_at_once(monkeypatch, capsys, folder):
    pytest.importorskip("geomloss")
    later = ["--batch-size", 0]  # refused when a model is evaluated
    status, out, err = run_eval(
        *(monkeypatch, capsys, folder, *MODELS, "--shifts", "--tuned", "second", *later)
    )
    assert (status, out) == (2, "")
    assert err.endswith("cmc-runtime: second has another tokenizer than user\n")


@pytest.mark.parametrize(
    ("option", "package"),
    [("--plot", "matplotlib"), ("--tofu", "rouge_score"), ("--retrained", "scipy")],
)
def test_packages_that_are_missing(monkeypatch, capsys, folder, option, package):
    monkeypatch.setattr(
        "cmc_runtime.cli.eval.find_spec", lambda name: None if name == package else name
    )
    arguments = ["--model", "user", "--data", "data.jsonl", "--tofu", "tofu", option, "a.png"]
    status, out, err = run_eval(monkeypatch, capsys, folder, *arguments)
    assert (status, out) == (1, "")
    assert err == f"cmc-runtime: {option} needs {package}: run `pip install 'pm-mined[eval]'`\n"


BASIC = ["--model", "user", "--data", "data.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--model", "user"], 2, "nothing to evaluate: give --data FILE or --tofu FOLDER"),
        ([*BASIC, "--alpha", "1"], 2, "need --delta"),
        ([*BASIC, "--retrained", "x.json"], 2, "--retrained needs --tofu"),
        ([*BASIC, "--plot", "losses.doc"], 2, "expected a file ending in .png"),
        ([*BASIC, "--plot", "no/losses.png"], 1, "cannot write: there is no folder no"),
        ([*BASIC, "--outputs", "no/answers.json"], 1, "there is no folder no"),
        ([*BASIC, "--outputs", "user"], 1, "user: cannot write: it is a folder"),
        ([*BASIC, "--plot", "folder.png"], 1, "folder.png: cannot write: it is a folder"),
        ([*BASIC, "--model", "second", "--outputs", "a.json"], 2, "--outputs is of one model"),
        ([*BASIC, "--plot", "a.png", "--outputs", "a.json"], 2, "goes without --outputs"),
        (["--model", "user", "--data", "none.jsonl"], 1, "none.jsonl: cannot read: No such file"),
        (["--model", "user", "--data", "prompts.jsonl"], 1, "no usable row: 1 row skipped: 1 with"),
        ([*BASIC, "--prompt-template", "Q:"], 2, "the prompt template is 'Q:'"),
        ([*BASIC, *["--prompt-template", "chat"] * 2], 2, "2 --prompt-template for 1 --model"),
        ([*BASIC, "--delta", "delta", "--shifts"], 2, "give a second --model, or --tuned"),
        ([*BASIC, "--shifts", "--tuned", "same"], 2, "--shifts needs --delta and --data"),
        ([*MODELS, "--shifts", *["--alpha", 1] * 2], 2, "--shifts is of one strength"),
        ([*BASIC, "--delta", "delta", "--tuned", "same"], 2, "--tuned needs --shifts"),
        ([*BASIC, "--limit", "0"], 2, "limit is 0"),
        ([*BASIC, "--batch-size", "0"], 2, "batch_size is 0"),
        ([*BASIC, "--max-length", "2"], 1, "no usable row for user: 3 rows skipped"),
        (["--model", "nowhere/", "--data", "data.jsonl"], 1, "nowhere/: no such file or folder"),
        ([*BASIC, "--delta", "delta", "--map", "none"], 2, "none: no such file, and none of the"),
        ([*BASIC, "--delta", "delta", "--map", "no.arrow"], 1, "no.arrow: cannot read"),
        (
            [*BASIC, "--delta", "delta", *["--map", "exact", "--map", "mined"]],
            *(2, "exact, mined are all strategies"),
        ),
        ([*BASIC, "--delta", "delta", "--map", "swapped"], 2, "swapped: a map from"),
        ([*BASIC, "--delta", "delta", *["--map", "one", "--map", "two"]], 2, "one, two are all"),
        ([*BASIC, "--delta", "delta", "--alpha", "nan"], 2, "alpha is nan"),
    ],
)
def test_what_the_command_refuses(monkeypatch, capsys, folder, arguments, status, message):
    if "--map" in arguments:
        sides = load_vocabulary(folder / "user"), load_vocabulary(folder / "delta")
        build_map(*sides[::-1]).save(folder / "swapped")
        for name in ("one", "two"):
            build_map(*sides).save(folder / name)
    found, out, err = run_eval(monkeypatch, capsys, folder, *arguments, "--max-new-tokens", 2)
    assert (found, out) == (status, "")
    (line,) = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert line.startswith("cmc-runtime: ")
    assert message in line
