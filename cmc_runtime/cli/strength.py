"""The strength of a command that writes text: a number, or one that fits."""

from pathlib import Path
from typing import TYPE_CHECKING

from pm_mined import OptionError
from pm_mined.cli.output import note, working

from .options import AUTO

if TYPE_CHECKING:
    from cmc_runtime.data.examples import Examples
    from cmc_runtime.delta import Delta
    from cmc_runtime.models.load import LoadedModel


def rows_for_auto(rows: Path | None, alphas: "str | list[str] | None") -> "Examples | None":
    """The rows of `--rows`, if they are given.

    Raises:
        OptionError: no strength is `auto`.
        DataError: they cannot be read.
    """
    if rows is None:
        return None
    if AUTO not in ([alphas] if isinstance(alphas, str) else alphas or ()):
        raise OptionError(f"--rows needs --alpha {AUTO}")
    from cmc_runtime.data.examples import read_examples

    found = read_examples(rows)
    if found.skipped:
        note(f"{rows}: {found.skipped}")
    return found


def strength(
    alpha: str | None,
    rows: "Examples | None",
    user: "LoadedModel",
    delta: "Delta | None",
    prompt_template: str,
) -> float | None:
    """A strength as it was given, or the one that fits, which is noted; None is the delta's own."""
    if alpha is None or delta is None:
        return None
    if alpha != AUTO:
        return float(alpha)
    from cmc_runtime.evaluation.fit_alpha import fit_alpha

    with working("Choosing alpha"):
        fitted = fit_alpha(user, delta, rows, prompt_template=prompt_template, note=note)
    note(str(fitted))
    return fitted.alpha
