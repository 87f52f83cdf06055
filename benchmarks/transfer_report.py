"""The report of transfer.py: tables, a section of `results.md`, and a picture."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results_document import Table, listed, measured, put_section
from transfer_setup import LAYERS

from pm_mined.atomic_file import write_atomically

COMMAND = "python benchmarks/transfer.py --data forget10.json"
PICTURE = "transfer.svg"


def write(found: dict[str, Any], output: Path) -> None:
    """Write the results of transfer.py to `results.md` in a folder, and draw them."""
    put_section(output / "results.md", "transfer.py", _text(found))
    write_atomically(output / PICTURE, _picture(found))


# --- The tables ----------------------------------------------------------------------------------

_FIGURES = ("loss/char", "95 % over authors", "± over seeds", "95 % over seeds", "accuracy")


def _cells(figures: dict[str, Any]) -> list[str]:
    """The figures that `_FIGURES` names."""
    loss = figures["loss_per_character"]
    return [
        f"{loss['mean']:.4f}",
        _interval(figures["authors_interval"]),
        "-" if loss["deviation"] is None else f"{loss['deviation']:.4f}",
        "-" if loss["interval"] is None else _interval(loss["interval"]),
        f"{figures['accuracy']['mean']:.3f}",
    ]


def _interval(pair: Sequence[float]) -> str:
    return "{:.4f} to {:.4f}".format(*pair)


def _text(found: dict[str, Any]) -> str:
    rows = found["rows"]
    template = found["options"]["prompt_template"].replace("\n", "\\n")
    return "\n".join(
        [
            "## A delta carried to another vocabulary\n",
            measured(found, COMMAND),
            f"The first {rows['learned']} rows of forget10 with the prompt template `{template}`. "
            f"The delta: the first {LAYERS} layers of SmolLM2-135M-Instruct under a square head "
            f"that begins at zero, trained beside that model: {listed(found['options'])}. "
            f"LoRA: {listed(found['lora'])}.\n",
            "Both models are 4-bit GGUF files, computed in float32; Gemma is not tuned for "
            "instructions. Losses are of the answers' text, in nats; `over authors` is a bootstrap "
            "interval of the mean over seeds, in which authors are drawn with all of their rows; "
            "`± over seeds` a standard deviation and `95 % over seeds` the interval of the mean by "
            "Student's t. Seeds differ in the order of the rows, for the delta begins as layers of "
            "the model. Accuracy is greedy and of the next token. `less than pm-mined` is the "
            "difference with the same seeds. LoRA and proxy-tuning ran with one seed; for time, so "
            "did weighted strategies, and all strengths and policies.\n",
            f"![Loss per character of Gemma-3-270M by strategy]({PICTURE})\n",
            *(table.markdown() for table in tables(found)),
        ]
    )


def tables(found: dict[str, Any]) -> list[Table]:
    """For the document and for the terminal."""
    rows = found["rows"]
    learned = f"the {rows['learned']} rows that were trained on"
    held_out = f"{rows['held_out']} rows of other authors that nothing was trained on"
    user = found["user"]
    return [
        Table(f"Models, {learned}", ["", *_FIGURES], _model_rows(found, "learned")),
        Table(
            f"Strategies on Gemma-3-270M at alpha 1, unmapped `zero`, {learned}",
            [
                *("strategy", *_FIGURES, "seeds", "less than pm-mined", "95 % over authors"),
                "ms to fuse a step",
            ],
            [_strategy_row(*one) for one in _strategies(user)],
        ),
        Table(
            f"Loss per token where the same bytes are a token of SmolLM2's "
            f"({user['exact_share']:.1%} of the target tokens), and where not",
            ["strategy", "exact", "not exact"],
            [_split_row("Gemma alone", user["alone"]["learned"])]
            + [_split_row(*one) for one in _strategies(user)],
        ),
        Table(
            f"Strength and unmapped tokens, first seed, {learned}",
            ["strategy", "alpha", "unmapped", "loss/char", "95 % over authors", "other authors"],
            [_sweep_row(one) for one in user["sweep"]],
        ),
        Table(
            "How much less loss/char a strategy has than another, in the same rows and seeds",
            ["", "trained on", "95 % over authors", "other authors", "95 % over authors"],
            [_pair_row(one) for one in user["pairs"]],
        ),
        Table(f"Models, {held_out}", ["", *_FIGURES], _model_rows(found, "held_out")),
    ]


def _model_rows(found: dict[str, Any], rows: str) -> list[list[str]]:
    """Every model on some rows."""
    own, user = found["template"][rows], found["user"]
    carried = user["strategies"] if rows == "learned" else user["held_out"]
    listed = [
        ("SmolLM2 alone", own["alone"]),
        ("SmolLM2 + delta", own["delta"]),
        ("SmolLM2, LoRA (the expert)", user["proxy"]["expert"][rows]),
        ("Gemma alone", user["alone"][rows]),
        *((f"Gemma + delta, {name}", carried[name]) for name in user["held_out"]),
        ("Gemma + proxy-tuning, pm-mined", user["proxy"][rows]),
        ("Gemma, LoRA on itself", found["lora_on_user"][rows]),
    ]
    return [[name, *_cells(figures)] for name, figures in listed]


def _strategies(user: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The best first."""
    return sorted(
        user["strategies"].items(),
        key=lambda item: -float(item[1]["less_than_pm_mined"]["mean"]),
    )


def _strategy_row(name: str, one: dict[str, Any]) -> list[str]:
    less = one["less_than_pm_mined"]
    gain = ["-", "-"]
    if name != "pm-mined":
        gain = [f"{less['mean']:.4f}", _interval(less["interval"])]
    return [name, *_cells(one), str(one["seeds"]), *gain, f"{one['step'][0] * 1e3:.2f}"]


def _sweep_row(one: dict[str, Any]) -> list[str]:
    loss, interval, *_ = _cells(one)[:2]
    held_out = one["held_out"]
    fresh = "-" if held_out is None else _cells(held_out)[0]
    return [one["strategy"], f"{one['alpha']:g}", one["unmapped"], loss, interval, fresh]


def _pair_row(one: dict[str, Any]) -> list[str]:
    cells = [f"{one['strategy']} than {one['other']}"]
    for rows in ("learned", "held_out"):
        cells += [f"{one[rows]['mean']:.4f}", _interval(one[rows]["interval"])]
    return cells


def _split_row(name: str, one: dict[str, Any]) -> list[str]:
    return [name, *(f"{one[side]['mean']:.3f}" for side in ("exact", "inexact"))]


def _picture(found: dict[str, Any]) -> bytes:
    """Bars of the loss per character, with the intervals over authors, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    user = found["user"]
    listed = [("Gemma alone", user["alone"]["learned"]), *reversed(_strategies(user))]
    listed.append(("SmolLM2 + delta, no map", found["template"]["learned"]["delta"]))
    means = [one["loss_per_character"]["mean"] for _, one in listed]
    ends = [one["authors_interval"] for _, one in listed]
    errors = [
        [max(0.0, mean - low) for mean, (low, _) in zip(means, ends, strict=True)],
        [max(0.0, high - mean) for mean, (_, high) in zip(means, ends, strict=True)],
    ]
    with matplotlib.rc_context({"svg.hashsalt": "transfer"}):  # the same file every time
        figure = Figure(figsize=(8, 4.5), layout="constrained", facecolor="white")
        axes = figure.subplots()
        axes.barh([name for name, _ in listed], means, xerr=errors, capsize=3, color="#2f81c8")
        axes.set_xlabel("loss per character of the answers, nats")
        axes.spines[["top", "right"]].set_visible(False)
        made = io.BytesIO()
        figure.savefig(made, format="svg", metadata={"Date": None})
    return made.getvalue()
