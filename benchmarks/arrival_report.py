"""The section of `results.md` that arrival.py writes, and its tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results_document import Table, put_section

from cmc_runtime.evaluation.scores import confidence_interval

_WAYS = {
    "alone": "alone",
    "delta": "delta",
    "adapter": "portable adapter",
    "lora": "LoRA on the model itself",
}
_TITLES = {
    "facts": "Facts: ROUGE-L recall of the answers",
    "skill": "Skill: loss per character of new answers, nats",
    "ifeval": "IFEval after the skill: share of prompts followed",
}


def write(found: dict[str, Any], output: Path) -> None:
    """Put the section into `results.md`."""
    put_section(output / "results.md", "arrival.py", text(found))


def text(found: dict[str, Any]) -> str:
    """The section."""
    machine = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    rows = found["rows"]
    said = (
        f"`python benchmarks/arrival.py`, {found['threads']} threads; machine and versions: "
        f"{machine}. Each behaviour is learned from {rows['train']} prompts beside "
        f"{found['models'][0]} and tried on {rows['try']} others; texts are the likeliest, with "
        "what `generate` does by default. In brackets: the 95 % interval by bootstrap over "
        "prompts, of the mean over seeds; behind them, how many seeds.\n"
    )
    return "\n".join(
        ["## What arrives in the text\n", said, *(one.markdown() for one in tables(found))]
    )


def tables(found: dict[str, Any]) -> list[Table]:
    """For each task one: a way in each row, a model in each column."""
    tasks = dict.fromkeys(name.split(".")[0] for name in found["figures"])
    behaviours = [one for one in tasks if one not in _TITLES]
    together = _of_ways(found, "All behaviours together that were measured", behaviours, "each")
    return [*(_table(found, task) for task in tasks), together, _ended(found)]


def _table(found: dict[str, Any], task: str) -> Table:
    title = _TITLES.get(task, f"{task}: share of texts that end and are as learned")
    return _of_ways(found, title, [task], "each")


def _ended(found: dict[str, Any]) -> Table:
    """Of behaviours and facts, for which all texts should end."""
    tasks = dict.fromkeys(name.split(".")[0] for name in found["figures"])
    ending = [one for one in tasks if one not in ("skill", "ifeval")]
    return _of_ways(found, "Texts that end, of all that should", ending, "ended")


def _of_ways(found: dict[str, Any], title: str, tasks: Sequence[str], what: str) -> Table:
    rows = []
    for way, shown in _WAYS.items():
        cells = [_cell(found, tasks, way, model, what) for model in found["models"]]
        if any(cells):
            rows.append([shown, *cells])
    return Table(title, ["", *found["models"]], rows)


def _cell(found: dict[str, Any], tasks: Sequence[str], way: str, model: str, what: str) -> str:
    """Mean and interval; nothing where nothing was measured."""
    by_task = [_over_seeds(found, task, way, model, what) for task in tasks]
    each = [value for values in by_task for value in values]
    if not each:
        return ""
    low, high = confidence_interval(np.array(each), np.ones(len(each)))
    seeds = max(len(_of_seeds(found, task, way, model)) for task in tasks)
    return f"{np.mean(each):.3f} [{low:.3f}, {high:.3f}] {seeds}"


def _over_seeds(
    found: dict[str, Any], task: str, way: str, model: str, what: str
) -> Sequence[float]:
    """For each prompt, or for all, the mean over the seeds that were measured."""
    figures = _of_seeds(found, task, way, model)
    return np.mean([np.atleast_1d(one[what]) for one in figures], axis=0) if figures else []


def _of_seeds(found: dict[str, Any], task: str, way: str, model: str) -> list[dict[str, Any]]:
    named = (found["figures"].get(f"{task}.{way}.{model}.{seed}") for seed in found["seeds"])
    return [one for one in named if one]
