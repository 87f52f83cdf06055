"""The tables of unlearning.py, and its section of results.md."""

from typing import Any

from results_document import Table, listed, measured
from transfer_setup import LAYERS
from unlearning_setup import APART, LOST, NEW_TOKENS, RETAINED


def text(found: dict[str, Any]) -> str:
    """The section of `results.md`."""
    rows = found["rows"]
    return "\n".join(
        [
            "## Unlearning carried to another vocabulary\n",
            measured(found, "python benchmarks/unlearning.py --data TOFU"),
            f"Subsampled: of TOFU's forget01 {rows} rows of the first author are to be forgotten, "
            f"as many of each of {RETAINED + APART} authors of `retain_perturbed` are to be "
            f"retained, and one of these (`apart`) is not in the deltas' training. "
            "SmolLM2-135M-Instruct and Gemma-3-270M each learn all of them: LoRA, merged, "
            f"{listed(found['learning'])}. The deltas, the first {LAYERS} layers of the tuned "
            "SmolLM2 under a square head that begins at zero, are trained beside that model:\n",
            *(f"- {name}: {_listed(options)}" for name, options in found["options"].items()),
            "",
            "Each is used at the weakest strength that makes the answers to be forgotten as "
            "unlikely as those about an author of whom no model learns, of the strengths that "
            f"cost what is to be retained {LOST} of its probability at most; where none does, at "
            "the one of these that forgets most. It is chosen on every other question. Figures "
            "are of the questions between these: TOFU's metrics, greedy answers "
            f"of at most {NEW_TOKENS} tokens, and for `leak` the best of {found['leak samples']} "
            "sampled ones. The forget quality is a p-value against the model that never saw the "
            "author, for each seed, as is the strength; else, of deltas: the mean over seeds ± "
            "half of its 95 % interval by Student's t.\n",
            *(table.markdown() for table in tables(found)),
        ]
    )


def _listed(options: dict[str, Any]) -> str:
    shown = ("epochs", "learning_rate", "batch_size", "alpha")
    return ", ".join(f"{name} {options[name]}" for name in shown)


def tables(found: dict[str, Any]) -> list[Table]:
    """For the document and for the terminal: a metric in each row."""
    methods = list(found["options"])
    header = ["that learned all", *methods, "that never saw the author"]
    names = {"template": "SmolLM2", "user": f"Gemma, {found['strategy']}"}
    return [
        Table(
            name,
            ["", *header],
            [
                [
                    metric,
                    *(
                        _cell(found[model][which].get(metric))
                        for which in ("alone", *methods, "retrained")
                    ),
                ]
                for metric in found[model][methods[0]]
            ],
        )
        for model, name in names.items()
    ]


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return "-"
    if "each" in figure:
        return ", ".join(f"{one:.2g}" for one in figure["each"])
    mean = f"{figure['mean']:.3g}"
    if figure["interval"] is None:
        return mean
    return f"{mean} ± {(figure['interval'][1] - figure['interval'][0]) / 2:.2g}"
