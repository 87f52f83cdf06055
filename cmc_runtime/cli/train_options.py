"""Options of `cmc-runtime train` that set how training goes, by transformers' names.

Their first names stay as second ones.
"""

from typing import Annotated

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
