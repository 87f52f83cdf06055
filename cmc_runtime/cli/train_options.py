"""Options of `cmc-runtime train` that set how training goes, by transformers' names.

Their first names stay as second ones.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

NumTrainEpochs = Annotated[
    int, typer.Option("--num-train-epochs", "--epochs", help="How often each row is seen.")
]

LearningRate = Annotated[
    float, typer.Option("--learning-rate", "--lr", help="Learning rate at its peak.")
]

WarmupRatio = Annotated[
    float,
    typer.Option(
        "--warmup-ratio", "--warmup", metavar="SHARE", help="Share of the steps in which it rises."
    ),
]

WeightDecay = Annotated[float, typer.Option(help="Of AdamW.")]

TrainBatchSize = Annotated[
    int,
    typer.Option(
        "--per-device-train-batch-size",
        "--batch-size",
        metavar="N",
        help="Rows that run at once, in each process.",
    ),
]

AccumulationSteps = Annotated[
    int,
    typer.Option(
        "--gradient-accumulation-steps",
        "--accumulate",
        metavar="N",
        help="Batches that make a step together.",
    ),
]

Bf16 = Annotated[bool, typer.Option("--bf16", help="Multiply matrices in bfloat16.")]

GradientCheckpointing = Annotated[
    bool,
    typer.Option(
        "--gradient-checkpointing", "--checkpointing", help="Save memory: make activations twice."
    ),
]

SaveSteps = Annotated[
    int | None,
    typer.Option(
        "--save-steps",
        "--save-every",
        metavar="STEPS",
        help="Between checkpoints; else once an epoch.",
    ),
]

EvalData = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Rows to validate on, likewise: the mean loss of their tokens, ends included.",
    ),
]

EvalSplit = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE", help="Validate on so much of the data, drawn by --seed, and not train."
    ),
]

EvalSteps = Annotated[
    int | None,
    typer.Option(metavar="STEPS", help="Between validations; else with each checkpoint."),
]

EarlyStoppingPatience = Annotated[
    int | None,
    typer.Option(metavar="N", help="Stop after N validations in a row without a better one."),
]

LoadBestModelAtEnd = Annotated[
    bool,
    typer.Option(
        "--load-best-model-at-end",
        help="Keep the best checkpoint, not the last; there is one of each validation then.",
    ),
]

MetricForBestModel = Annotated[
    Literal["loss", "accuracy"],
    typer.Option(help="What is better: a lower loss, or more likeliest tokens."),
]

ReportTo = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Report also to tensorboard, wandb or another integration of transformers, or to all "
        "that are installed; may be given several times.",
    ),
]

KeepRows = Annotated[
    int,
    typer.Option(
        metavar="ROWS",
        help="Keep up to so many rows of the data in DIR, by which `--alpha auto` can choose a "
        "strength later; never what is to be forgotten, but what is to be retained; 0: none.",
    ),
]
