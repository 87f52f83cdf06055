"""The data of `cmc-runtime eval`, read before any model is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmc_runtime.data.examples import Examples, Prompts, read_examples, read_prompts

from .reporter import Reporter
from .tofu_files import Questions, read_retrained, read_tofu


@dataclass(frozen=True)
class Inputs:
    """The data that the models are run on; None for each part that was not asked for."""

    data: Path | None
    examples: Examples | None
    prompts: Prompts | None
    outputs: Path | None
    questions: Questions | None
    forget: str
    retrained: NDArray[np.float64] | None

    def file_json(self) -> dict[str, Any] | None:
        """The file of examples, for JSON."""
        if self.examples is None:
            return None
        return {
            "path": str(self.data),
            "rows": len(self.examples.rows),
            "sha256": self.examples.digest,
            "skipped": self.examples.skipped.to_json(),
        }


def read_inputs(
    data: Path | None,
    tofu: Path | None,
    forget: str,
    retrained: Path | None,
    outputs: Path | None,
    limit: int | None,
    reporter: Reporter,
) -> Inputs:
    """Read all files before any model is loaded."""
    examples = read_examples(data, limit=limit) if data and not outputs else None
    prompts = read_prompts(data, limit=limit) if data and outputs else None
    for read in (examples, prompts):
        if read is not None and read.skipped:
            reporter.note(f"{data}: {read.skipped}")
    return Inputs(
        data,
        examples,
        prompts,
        outputs,
        questions=None if tofu is None else read_tofu(tofu, forget=forget, limit=limit),
        forget=forget,
        retrained=None if retrained is None else read_retrained(retrained, forget),
    )
