"""TOFU's questions, and the truth ratios of a retrained model, from their files."""

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cmc_runtime.data.examples import Example, read_examples
from cmc_runtime.errors import DataError

SetName: TypeAlias = Literal["forget", "retain", "real_authors", "world_facts"]
Questions: TypeAlias = Mapping[SetName, Sequence[Example]]

SETS: tuple[SetName, ...] = ("forget", "retain", "real_authors", "world_facts")
OF_CHOICES = ("real_authors", "world_facts")  # the probability is among the answers


def read_tofu(
    folder: str | PathLike[str], *, forget: str = "forget10", limit: int | None = None
) -> dict[SetName, list[Example]]:
    """TOFU's questions from its `..._perturbed.json`; with `limit`, the first of each set.

    Raises:
        DataError: a file is missing or cannot be read, or a row lacks the answers it needs.
        OptionError: the limit is not a whole number, 1 or more.
    """
    stems = {name: name if name != "forget" else forget for name in SETS}
    paths = {name: Path(folder, f"{stem}_perturbed.json") for name, stem in stems.items()}
    return {name: _read_set(name, path, limit) for name, path in paths.items()}


def _read_set(name: SetName, path: Path, limit: int | None) -> list[Example]:
    rows = read_examples(path, limit=limit).rows
    for row in rows:
        if not row.perturbed:
            raise DataError(f"{path}: row {row.row} has no perturbed_answer")
        if name not in OF_CHOICES and row.paraphrased is None:
            raise DataError(f"{path}: row {row.row} has no paraphrased_answer")
    return rows


def read_retrained(path: str | PathLike[str], forget: str) -> NDArray[np.float64]:
    """float64 [questions]: the log truth ratios of the forget set, of a retrained model.

    From what `cmc-runtime eval --tofu FOLDER --json` printed for that one model, alone or with one
    delta model at one strength: then the ratios are those with it.

    Raises:
        DataError: the file cannot be read, is something else, or of another forget set.
    """
    try:
        (model,) = json.loads(Path(path).read_text("utf-8"))["models"]
        tofu = model["tofu"]
        _, *more = tofu["results"]
        (result,) = more or tofu["results"]
        ratios = np.array(result["forget"]["log_truth_ratios"], np.float64)
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: not what `cmc-runtime eval --tofu FOLDER --json` prints for one model, alone "
            "or with a delta model at one alpha"
        ) from error
    if tofu.get("forget_set") != forget:
        raise DataError(f"{path}: of TOFU's {tofu.get('forget_set')}, and not of {forget}")
    return ratios
