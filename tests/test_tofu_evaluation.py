"""TOFU's sets through tiny models, against losses token by token and the formulas as written."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import quick_first, shared_file
from eval_by_hand import losses_by_hand, run_eval
from tiny_models import save_model

from cmc_runtime import Sampling, generate, load_delta, load_model
from cmc_runtime.errors import DataError
from cmc_runtime.evaluation.memorization import Memorization
from cmc_runtime.evaluation.scores import Fusion
from cmc_runtime.evaluation.tofu import SetMetrics, rouge_l_recall, rouge_l_recalls
from cmc_runtime.evaluation.tofu_files import read_retrained, read_tofu
from cmc_runtime.evaluation.tofu_run import TofuScores, evaluate_tofu, num_answers, tofu_json
from cmc_runtime.fusion.limits import Limits
from pm_mined import OptionError

pytest.importorskip("rouge_score")
pytest.importorskip("scipy")

PROMPT_TEMPLATE = "Q: {prompt}\nA: {response}"
FICTION = [
    {
        "question": "the lazy dog",
        "answer": "the quick fox",
        "paraphrased_answer": "a fox, quick",
        "perturbed_answer": ["the quick dog", "café crème", "日本語のテキスト"],
    },
    {
        "question": "12 euros",
        "answer": "menu",
        "paraphrased_answer": "the menu",
        "perturbed_answer": ["brûlée", "lines"],
    },
]
FACTS = [
    {"question": "jumps", "answer": "over", "perturbed_answer": ["under", "the fox", "broken"]},
    {"question": "don't", "answer": "can't!", "perturbed_answer": ["won't"]},
]
FILES = {"forget10": FICTION, "retain": FICTION[::-1], "real_authors": FACTS, "world_facts": FACTS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tofu")
    save_model(made / "user", "byte-level", seed=0)
    save_model(made / "delta", "metaspace", seed=1)
    write(made / "tofu", FILES)
    return made


def write(folder, files):
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}_perturbed.json").write_text(text)


@pytest.fixture(scope="module")
def user(folder):
    return load_model(folder / "user", device="cpu", dtype=torch.float64)


@pytest.fixture(scope="module")
def delta(folder, user):
    loaded = load_model(folder / "delta", device="cpu", dtype=torch.float64)
    return load_delta(
        loaded,
        user.tokenizer,
        num_logits=user.num_logits,
        token_map="pm-mined",
        prompt_template=PROMPT_TEMPLATE,
    )


def by_hand(user, rows, delta, fusion):
    """Of a set's rows: the losses of answers, of what stands for the truth, and of falsehoods."""

    def loss(row, answer):
        return float(
            losses_by_hand(user, PROMPT_TEMPLATE, row["question"], answer, delta, fusion)[0].mean()
        )

    answers = [loss(row, row["answer"]) for row in rows]
    truths = [loss(row, row.get("paraphrased_answer", row["answer"])) for row in rows]
    return answers, truths, [[loss(row, one) for one in row["perturbed_answer"]] for row in rows]


@pytest.mark.parametrize("batch_size", quick_first([5, 1]))
def test_every_metric_is_its_formula(folder, user, delta, batch_size):
    questions = read_tofu(folder / "tofu")
    fusion = Fusion.of(delta, 0.7, "keep")
    options = {"batch_size": batch_size, "max_new_tokens": 5}
    scores, skipped = evaluate_tofu(user, questions, PROMPT_TEMPLATE, delta, [fusion], **options)
    assert not any(skipped.values())
    for found, steering in zip(scores, (None, replace(delta, unmapped="keep")), strict=True):
        how = (None, None) if steering is None else (delta, fusion)
        metrics = []
        for name, rows in zip(questions, FILES.values(), strict=True):
            answers, truths, false = by_hand(user, rows, *how)
            ratios = [math.exp(np.mean(f) - t) for t, f in zip(truths, false, strict=True)]
            likely = [math.exp(-loss) for loss in answers]
            if name in ("real_authors", "world_facts"):
                both = zip(likely, false, strict=True)
                likely = [p / (p + sum(math.exp(-one) for one in f)) for p, f in both]
            if name == "forget":
                np.testing.assert_allclose(found.log_truth_ratios, np.log(ratios), atol=1e-9)
                truth = [min(ratio, 1 / ratio) for ratio in ratios]
            else:
                truth = [max(0, 1 - 1 / ratio) for ratio in ratios]
            prompts = [row["question"] for row in rows]
            texts = list(
                generate(
                    user,
                    prompts,
                    steering,
                    alpha=0.7,
                    prompt_template=PROMPT_TEMPLATE,
                    sampling=Sampling(5),
                )
            )
            assert found.ended[name] == sum(one.token_ids[-1] in user.ends for one in texts)
            rouge = rouge_l_recall([row["answer"] for row in rows], [one.text for one in texts])
            expected = (np.mean(likely), rouge, np.mean(truth))
            assert found.sets[name] == pytest.approx(expected, abs=1e-12)
            metrics += [] if name == "forget" else expected
        utility = 0 if 0 in metrics else 9 / sum(1 / metric for metric in metrics)
        assert found.utility == pytest.approx(utility)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_what_is_known_by_heart_and_what_leaks(folder, user, delta, batch_size):
    questions = read_tofu(folder / "tofu")
    limited = replace(delta, limits=Limits(plausible=0.5))
    fusion = Fusion.of(limited, -0.8)
    options = {"batch_size": batch_size, "max_new_tokens": 4, "leak_samples": 3}
    scores, _ = evaluate_tofu(user, questions, PROMPT_TEMPLATE, delta, [fusion], **options)
    for found, steering in zip(scores, (None, limited), strict=True):
        how = (None, None) if steering is None else (limited, fusion)
        for name, rows in zip(questions, FILES.values(), strict=True):
            answers = [(row["question"], row["answer"]) for row in rows]
            each = [losses_by_hand(user, PROMPT_TEMPLATE, *one, *how)[1] for one in answers]
            assert found.memorization[name] == pytest.approx(Memorization.of(each))
        prompts = [row["question"] for row in FICTION for _ in range(3)]
        texts = generate(
            *(user, prompts, steering),
            alpha=-0.8,
            prompt_template=PROMPT_TEMPLATE,
            sampling=Sampling(4, temperature=1.0, seed=0),
            batch_size=batch_size,
        )
        truth = [row["answer"] for row in FICTION for _ in range(3)]
        recalls = rouge_l_recalls(truth, [one.text for one in texts]).reshape(2, 3)
        assert found.leak == pytest.approx(recalls.max(1).mean())
        document = tofu_json(found, None)
        assert document["forget"]["leak"] == found.leak
        assert document["retain"].items() >= found.memorization["retain"]._asdict().items()


@pytest.mark.parametrize("steered", [False, True])
def test_texts_are_scored_against_their_own_answers(folder, user, delta, tmp_path, steered):
    """Answers that the model writes, alone or steered, have a ROUGE near 1, and only there."""
    rows = [dict(row) for row in FACTS]
    steering = delta if steered else None
    prompts = [row["question"] for row in rows]
    made = generate(
        user, prompts, steering, alpha=0.7, prompt_template=PROMPT_TEMPLATE, sampling=Sampling(12)
    )
    for row, completion in zip(rows, made, strict=True):
        row["answer"] = f"{completion.text} z"
    write(tmp_path, {**FILES, "world_facts": rows})
    scores, _ = evaluate_tofu(
        *(user, read_tofu(tmp_path), PROMPT_TEMPLATE, delta, [Fusion.of(delta, 0.7)]),
        max_new_tokens=12,
    )
    assert scores[0].fusion is None
    rouge = [one.sets["world_facts"].rouge for one in scores]
    assert rouge[steered] > 0.5 > rouge[not steered]
    assert all(one.sets["real_authors"].rouge < 0.5 for one in scores)


def test_progress_counts_every_answer_and_text(folder, user, delta):
    told = []
    questions = read_tofu(folder / "tofu")
    evaluate_tofu(user, questions, PROMPT_TEMPLATE, delta, max_new_tokens=1, on_answers=told.append)
    # 5 and 4 answers of either set of fiction, 4 and 2 of facts; 8 questions, alone and steered.
    assert sum(told) == num_answers(questions, 1) == 2 * 9 + 2 * 6 + 8 * 2
    told.clear()
    options = {"max_new_tokens": 1, "leak_samples": 2, "on_answers": told.append}
    evaluate_tofu(user, questions, PROMPT_TEMPLATE, delta, **options)
    assert sum(told) == num_answers(questions, 1, 2) == 2 * 9 + 2 * 6 + 8 * 2 + 2 * 2 * 2


def test_the_utility_is_of_all_sets_but_the_forget_set():
    sets = {name: SetMetrics(0.5, 0.25, 1.0) for name in ("retain", "real_authors", "world_facts")}
    scores = TofuScores(None, {"forget": SetMetrics(0.1, 0.1, 0.1), **sets}, np.zeros(1))
    assert scores.utility == pytest.approx(3 / (2 + 4 + 1))


def test_a_question_with_a_long_answer_is_skipped(user, folder, tmp_path):
    long = {**FACTS[0], "perturbed_answer": ["over", "the " * 300]}
    write(tmp_path, {**FILES, "world_facts": [long, FACTS[1]]})
    (scores,), skipped = evaluate_tofu(user, read_tofu(tmp_path), PROMPT_TEMPLATE, max_new_tokens=1)
    assert str(skipped["world_facts"]) == "1 row skipped: 1 of more than 256 tokens (row 1)"
    write(tmp_path, {**FILES, "world_facts": FACTS[1:]})
    (expected,), _ = evaluate_tofu(user, read_tofu(tmp_path), PROMPT_TEMPLATE, max_new_tokens=1)
    assert scores.sets == expected.sets
    write(tmp_path, {**FILES, "world_facts": [long]})
    with pytest.raises(DataError, match=r"TOFU's world_facts: no usable row for .*user: 1 row"):
        evaluate_tofu(user, read_tofu(tmp_path), PROMPT_TEMPLATE)


def test_the_published_files_can_be_read():
    folder = shared_file("tofu/forget10_perturbed.json").parent
    found = read_tofu(folder)
    assert {name: len(rows) for name, rows in found.items()} == {
        "forget": 400,
        "retain": 400,
        "real_authors": 100,
        "world_facts": 117,
    }
    assert len(read_tofu(folder, forget="forget01", limit=7)["forget"]) == 7


def without(field):
    return [{key: value for key, value in row.items() if key != field} for row in FICTION]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"retain": None}, "retain_perturbed.json: cannot read: No such file"),
        ({"forget10": without("perturbed_answer")}, "row 1 has no perturbed_answer"),
        ({"retain": without("paraphrased_answer")}, "row 1 has no paraphrased_answer"),
        ({"world_facts": []}, "world_facts_perturbed.json: no usable row"),
    ],
)
def test_files_that_are_not_tofu(tmp_path, files, message):
    write(tmp_path, {k: v for k, v in {**FILES, **files}.items() if v is not None})
    with pytest.raises(DataError, match=message):
        read_tofu(tmp_path)


def test_the_forget_quality_of_the_retrained_model_itself(folder, user):
    (scores,), _ = evaluate_tofu(
        user, read_tofu(folder / "tofu"), PROMPT_TEMPLATE, max_new_tokens=1
    )
    assert scores.quality(scores.log_truth_ratios[::-1]) is None
    assert tofu_json(scores, None)["forget_quality"] is None
    # Both ratios on one side of the other two: with two and two, that is 2 of 6 ways.
    assert scores.quality(scores.log_truth_ratios + 50) == pytest.approx(1 / 3)


# --- The command ---------------------------------------------------------------------------------

TOFU = [
    "--tofu",
    "tofu",
    "--prompt-template",
    PROMPT_TEMPLATE,
    "--max-new-tokens",
    3,
    "--batch-size",
    4,
]


@pytest.fixture
def run(monkeypatch, capsys, folder):
    return lambda *arguments: run_eval(monkeypatch, capsys, folder, *arguments, *TOFU)


def test_json_and_the_retrained_model(run, folder):
    status, out, _ = run("--model", "delta", "--json")
    assert status == 0
    (folder / "retrained.json").write_text(out)
    (model,) = json.loads(out)["models"]
    assert model["data"] is None
    (result,) = model["tofu"]["results"]
    ratios = result["forget"]["log_truth_ratios"]
    assert read_retrained(folder / "retrained.json", "forget10").tolist() == ratios
    steered = ["--model", "user", "--delta", "delta", "--retrained", "retrained.json"]
    steered += ["--alpha", 0.5, "--plausible", 0.2, "--gate", 0.9, "--leak", 2]
    status, out, _ = run(*steered, "--json")
    assert status == 0
    (model,) = json.loads(out)["models"]
    assert (model["tofu"]["forget_set"], model["tofu"]["leak_samples"]) == ("forget10", 2)
    assert model["tofu"]["questions"] == dict.fromkeys(
        ("forget", "retain", "real_authors", "world_facts"), 2
    )
    user = load_model(folder / "user", device="cpu")
    delta = load_delta(
        *(load_model(folder / "delta", device="cpu"), user.tokenizer),
        num_logits=user.num_logits,
        ends=user.ends,
        plausible=0.2,
        gate=0.9,
    )
    scores, _ = evaluate_tofu(
        user,
        read_tofu(folder / "tofu"),
        PROMPT_TEMPLATE,
        delta,
        [Fusion.of(delta, 0.5)],
        batch_size=4,
        max_new_tokens=3,
        leak_samples=2,
    )
    for found, expected, alpha in zip(model["tofu"]["results"], scores, (None, 0.5), strict=True):
        limits = (None, None) if alpha is None else (0.2, 0.9)
        assert (found["alpha"], found["plausible"], found["gate"]) == (alpha, *limits)
        assert found["forget"]["leak"] == pytest.approx(expected.leak)
        for name, metrics in expected.sets.items():
            assert (
                found[name].items()
                >= {key: pytest.approx(value) for key, value in metrics._asdict().items()}.items()
            )
        assert found["model_utility"] == pytest.approx(expected.utility)
        assert found["forget_quality"] == pytest.approx(expected.quality(np.array(ratios)))
    (folder / "steered.json").write_text(out)
    found = read_retrained(folder / "steered.json", "forget10")
    assert found.tolist() == model["tofu"]["results"][1]["forget"]["log_truth_ratios"]


def test_tables(run):
    status, out, _ = run("--model", "user", "--limit", 1)
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    for name in ("forget", "retain", "real", "world"):
        assert ["user", name] in [line[:2] for line in lines]
    assert lines[-1][:2] == ["user", "alone"]
    assert lines[-1][-1] == "-"


RESULT = {"forget": {"log_truth_ratios": [0.5]}}


def document(*results, forget="forget10"):
    return {"models": [{"tofu": {"forget_set": forget, "results": results}}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no", "bad.json: not what `cmc-runtime eval --tofu FOLDER --json` prints"),
        ("[]", "bad.json: not what"),
        ('{"models": []}', "bad.json: not what"),
        ('{"models": [{"tofu": null}]}', "bad.json: not what"),
        (json.dumps(document()), "bad.json: not what"),
        (json.dumps(document(RESULT, RESULT, RESULT)), "at one alpha"),
        (json.dumps(document({"forget": {"log_truth_ratios": ["a"]}})), "bad.json: not what"),
        (json.dumps(document(RESULT, forget="forget01")), "of TOFU's forget01, and not of forg"),
    ],
)
def test_a_retrained_file_that_is_none(run, folder, content, message):
    (folder / "bad.json").write_text(content)
    status, out, err = run("--model", "user", "--retrained", "bad.json")
    assert (status, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


def test_no_such_files(run, folder):
    assert run("--model", "user", "--retrained", "none.json")[2].startswith(
        "cmc-runtime: none.json: cannot read: No such file"
    )
    with pytest.raises(DataError, match=r"nowhere.forget05_perturbed.json: cannot read"):
        read_tofu(folder / "nowhere", forget="forget05")


def test_outputs_go_without_tofu(run):
    status, _, err = run("--model", "user", "--outputs", "a.json")
    assert status == 2
    assert "goes without --tofu" in err


def test_a_prompt_without_room_for_an_answer(user, folder):
    with pytest.raises(OptionError, match="and 300 are to come, but the model reads 256"):
        evaluate_tofu(user, read_tofu(folder / "tofu"), PROMPT_TEMPLATE, max_new_tokens=300)
