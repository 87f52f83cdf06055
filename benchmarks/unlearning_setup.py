"""Methods, rows and constants of unlearning.py."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from transfer_setup import AUTHOR, PROMPT_TEMPLATE, Setup

from cmc_runtime.data.examples import Example, Examples, Skipped, read_examples
from cmc_runtime.evaluation.tofu_files import Questions, read_tofu
from cmc_runtime.training.options import TrainingOptions

RETAINED, APART = 3, 1  # authors to retain: in the delta's training, and kept out of it
BATCH, NEW_TOKENS = 10, 48  # of an evaluation
LOST = 0.02  # of the retained answers' probability: a strength that costs more is not chosen


class Method(NamedTuple):
    """A way to forget: how its delta is trained, and the strengths to choose from."""

    options: TrainingOptions
    strengths: Sequence[float]


_OPTIONS = TrainingOptions(learning_rate=5e-4, prompt_template=PROMPT_TEMPLATE)
_ADDED, _SUBTRACTED = (0.5, 1.0, 1.5, 2.0, 3.0), (-0.2, -0.4, -0.6, -0.8, -1.0, -1.5)
METHODS = {
    "grad-diff": Method(replace(_OPTIONS, objective="grad-diff", num_train_epochs=6), _ADDED),
    "kl": Method(replace(_OPTIONS, objective="kl", num_train_epochs=6), _ADDED),
    # More and larger steps, for they cost little, and what is retained has to become uniform.
    "remember": Method(
        replace(_OPTIONS, objective="remember", num_train_epochs=30, learning_rate=1e-3),
        _SUBTRACTED,
    ),
}


@dataclass(frozen=True)
class UnlearningSetup(Setup):
    """Also the rows of a run, and how it goes about them."""

    data: Path
    rows: int  # of each author
    methods: Sequence[str]
    leak: int
    strategy: str

    @cached_property
    def forget(self) -> Examples:
        """The author to forget."""
        return read_examples(self.data / "forget01.json", limit=self.rows)

    @cached_property
    def _authors(self) -> list[list[Example]]:
        """The rows of each author to retain, and of one whom no model sees."""
        count = RETAINED + APART + 1
        every = read_examples(self.data / "retain_perturbed.json", limit=count * AUTHOR).rows
        starts = range(0, count * AUTHOR, AUTHOR)
        return [every[start : start + self.rows] for start in starts]

    @property
    def others(self) -> Examples:
        """All authors to retain."""
        return _together(self._authors[:-1])

    @property
    def retained(self) -> Examples:
        """Those that are in the delta's training."""
        return _together(self._authors[:RETAINED])

    @property
    def apart(self) -> Examples:
        """The one that is not."""
        return _together(self._authors[RETAINED:-1])

    @property
    def unseen(self) -> list[Example]:
        """Questions about an author of whom no model learns."""
        return self._authors[-1]

    def questions(self, start: int) -> Questions:
        """Two of TOFU's sets, for time, of an author each: every other row, from 0 or 1 on."""
        every = read_tofu(self.data, forget="forget01", limit=self.rows)
        return {"forget": every["forget"][start::2], "retain": every["retain"][start::2]}

    @property
    def choosing(self) -> Questions:
        """Those by which strengths are chosen."""
        return self.questions(0)

    @property
    def reported(self) -> Questions:
        """Those of which figures are reported."""
        return self.questions(1)


def _together(authors: list[list[Example]]) -> Examples:
    return Examples([row for rows in authors for row in rows], Skipped())
