"""Options that several commands share."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from pm_mined import OptionError

Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(help="Of the models' weights; that of their files if not given."),
]

Device = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, ...; a GPU if there is one."),
]

DeviceMap = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="auto: spread the large model over all GPUs, main memory and disk.",
    ),
]

UserModel = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="The model that writes: a folder, a .gguf file, a Hub repository, smollm2-135m or "
        "gemma3-270m.",
    ),
]

SteeringDelta = Annotated[
    str | None,
    typer.Option(
        "--delta",
        metavar="MODEL",
        help="The delta model that steers it, likewise; or a PEFT adapter of a small model.",
    ),
]

MaxNewTokens = Annotated[int, typer.Option(metavar="N", help="Tokens to write at most.")]

Temperature = Annotated[
    float, typer.Option(metavar="T", help="0 takes the likeliest token each time.")
]

TopP = Annotated[
    float, typer.Option(metavar="P", help="Sample from the likeliest with P together.")
]

TopK = Annotated[int, typer.Option(metavar="K", help="Sample from the K likeliest; 0: from all.")]

Seed = Annotated[int | None, typer.Option(metavar="S", help="For the same sample in every run.")]

AUTO = "auto"


def check_alpha(given: str | list[str] | None) -> str | list[str] | None:
    """Refuse strengths that are neither numbers nor `auto`.

    Raises:
        OptionError: one is.
    """
    for value in [given] if isinstance(given, str) else given or ():
        if not is_alpha(value):
            raise OptionError(f"alpha is {value}; expected a finite number, or {AUTO}")
    return given


def is_alpha(value: str) -> bool:
    """True for a finite number, and for `auto`."""
    with suppress(ValueError):
        return value == AUTO or math.isfinite(float(value))
    return False


ALPHA_HELP = (
    "How strongly the delta steers: a number, or auto, which fits it to the model by the rows in "
    "the delta's folder; as in its training, or 1, if not given"
)

Alpha = Annotated[
    str | None, typer.Option(metavar="A", callback=check_alpha, help=f"{ALPHA_HELP}.")
]

Rows = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="For --alpha auto: prompts with responses such as the delta learned, or such as it is "
        "to leave alone if it forgets; those in its folder if not given.",
    ),
]

Unmapped = Annotated[
    Literal["zero", "keep", "mean"] | None,
    typer.Option(
        help="What unmapped tokens get: nothing, what keeps their probability, or the mean; as the "
        "delta's card says, or keep."
    ),
]

Plausible = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Steer only tokens with at least this share of the likeliest token's probability, 0 "
        "to 1; as the delta's card says, or 0.",
    ),
]

Gate = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Steer only where the model gives its likeliest token a probability below this.",
    ),
]

Map = Annotated[
    str | None,
    typer.Option(
        "--map",
        metavar="MAP",
        help="Map from the model's tokens to the delta's: a file, or a strategy of `pm-mined "
        "build`. Else the file that lies in the delta's folder or here and fits, or pm-mined, and "
        "first-token for an adapter.",
    ),
]


def with_newlines(prompt_template: str | None) -> str | None:
    r"""Take the `\n` of a shell's quotes for a new line, in a prompt template."""
    return None if prompt_template is None else prompt_template.replace("\\n", "\n")


DeltaPromptTemplate = Annotated[
    str | None,
    typer.Option(
        "--delta-prompt-template",
        "--delta-form",
        metavar="TEXT",
        callback=with_newlines,
        help="Text around the delta's prompts; as in its training, or {prompt}.",
    ),
]

AdapterBase = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="The base model of a delta that is an adapter; the one that it names if not given.",
    ),
]

DeltaWindow = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="The delta reads the last N tokens at most; its position limit if not given.",
    ),
]

BatchSize = Annotated[int, typer.Option(metavar="N", help="Rows that run at once.")]

PromptTemplate = Annotated[
    str | None,
    typer.Option(
        "--prompt-template",
        "--form",
        metavar="TEXT",
        callback=with_newlines,
        help="Text around the model's prompts: chat, or text with {prompt} in it and perhaps "
        "{response} at its end; the delta's if not given, without a delta {prompt}.",
    ),
]

MaxLength = Annotated[
    int | None,
    typer.Option(metavar="N", help="Skip rows of more tokens; the position limit if not given."),
]

Limit = Annotated[int | None, typer.Option(metavar="ROWS", help="Use the first rows only.")]


def refuse_without_delta(delta: str | None, **options: object) -> None:
    """Refuse options that say how a delta steers, where there is none."""
    given = [f"--{name.replace('_', '-')}" for name, one in options.items() if one is not None]
    if delta is None and given:
        raise OptionError(f"{', '.join(given)}: need --delta")
