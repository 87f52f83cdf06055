"""A strength that fits a user model, chosen by the loss of a few rows.

One forward of each model serves all strengths that are tried. What was chosen is kept in the
user's cache, for the very same models, map, rows and settings.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from cmc_runtime.data.examples import Examples
from cmc_runtime.data.kept_rows import read_kept_rows
from cmc_runtime.data.samples import fitting_samples
from cmc_runtime.delta import Delta
from cmc_runtime.delta_card import read_card
from cmc_runtime.models.load import LoadedModel
from pm_mined import OptionError

from .kept_alphas import alpha_key, keep_alpha, kept_alpha
from .scores import Fusion, score_samples

FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
"""The strengths that are tried, in parts of the one that the delta was trained with."""

MOST_LOST = 0.02
"""The share by which the loss of retained rows may rise, where something is to be forgotten."""

_BATCH = 4


class Tried(NamedTuple):
    """A strength that was tried."""

    alpha: float
    loss: float  # the mean of all tokens of the rows, ends among them, in nats


@dataclass(frozen=True)
class FittedAlpha:
    """A strength that fits a user model; `fit_alpha` chooses it.

    Attributes:
        alpha: The strength.
        tried: All that were tried, and 0, which is the model alone.
        rows: How many rows they were tried on.
        forgets: True if these rows are to be retained, while others are forgotten.
        is_kept: True if it was chosen before, and kept.

    >>> FittedAlpha(1.5, (Tried(0.0, 2.5), Tried(1.0, 0.9), Tried(1.5, 0.8)), 16, False)
    FittedAlpha(alpha 1.5: loss 0.8 on 16 rows, 2.5 alone; tried 1 to 1.5)
    """

    alpha: float
    tried: tuple[Tried, ...]
    rows: int
    forgets: bool
    is_kept: bool = False

    def to_json(self) -> dict[str, Any]:
        """The same as an object of JSON."""
        return asdict(self) | {"tried": [one._asdict() for one in self.tried]}

    def __str__(self) -> str:
        """The choice and its reason, in a line."""
        losses = dict(self.tried)
        (_, alone), (first, _), *_, (last, _) = self.tried
        return (
            f"alpha {self.alpha:g}: loss {losses[self.alpha]:.4g} on {self.rows} rows"
            f"{' to retain' * self.forgets}, {alone:.4g} alone; tried {first:g} to {last:g}"
            f"{', before' * self.is_kept}"
        )

    def __repr__(self) -> str:
        """The same with its name."""
        return f"{type(self).__name__}({self})"


def fit_alpha(
    user: LoadedModel,
    delta: Delta,
    rows: Examples | None = None,
    *,
    prompt_template: str | None = None,
    keep: bool = True,
    note: Callable[[str], object] = lambda _: None,
) -> FittedAlpha:
    """Choose how strongly a delta is to steer a user model.

    It is the strength at which the mean loss of the rows' responses and their ends is least. Where
    something is to be forgotten, the rows are to be retained: it is then the greatest strength at
    which their loss rises by no more than `MOST_LOST` of what it is without the delta.

    Args:
        user: The user model.
        delta: A delta for it.
        rows: Rows such as the delta learned, or for one that makes a model forget, such as it
            retains; by default, those that were kept in its folder when it was trained.
        prompt_template: That of the user model: see `encode_prompt`; by default the delta's.
        keep: Keep the choice in the user's cache, and take it from there if it was made before.
        note: Told, in a line, why a choice cannot be kept, and of rows that cannot be used.

    Raises:
        OptionError: the delta keeps no rows, and none are given; all strengths take too much.
        CardError: the rows in its folder are not those that it keeps.
        DataError: no row is short enough.
        ModelError, ContextError: as `evaluate`.

    >>> fitted = fit_alpha(user, load_delta("my-delta", ...))  # doctest: +SKIP
    >>> fitted  # doctest: +SKIP
    FittedAlpha(alpha 1.25: loss 0.4121 on 16 rows, 2.612 alone; tried 0.25 to 3)
    >>> generate(user, prompts, delta, alpha=fitted.alpha)  # doctest: +SKIP
    """
    template = delta.prompt_template if prompt_template is None else prompt_template
    rows, forgets = _rows_of(delta, rows)
    fitting = fitting_samples(user, rows.rows, template, delta)
    if fitting.skipped:
        note(f"alpha: {fitting.skipped}")
    unit = delta.alpha or 1.0
    fusions = [Fusion.of(delta, unit * factor) for factor in FACTORS]

    def choose() -> FittedAlpha:
        case = user, fitting.samples, delta, fusions
        scores = score_samples(*case, batch_size=_BATCH)
        alphas = [0.0 if one.fusion is None else one.fusion.alpha for one in scores]
        losses = [float(one.loss.mean()) for one in scores]
        tried = tuple(map(Tried, alphas, losses))
        return FittedAlpha(choice(tried, forgets=forgets), tried, len(fitting.samples), forgets)

    if not keep:
        return choose()
    key, found = alpha_key(user, delta, fitting.samples, fusions, forgets=forgets), None
    with suppress(OSError):  # then it cannot be written either
        found = _read(kept_alpha(key))
    if found is None:
        found = choose()
        try:
            keep_alpha(key, found.to_json())
        except OSError as error:
            note(f"alpha is not kept for the next time: {error.filename}: {error.strerror}")
    return found


def _rows_of(delta: Delta, given: Examples | None) -> tuple[Examples, bool]:
    """The rows to choose by, and whether they are to be retained while others are forgotten."""
    folder = Path(delta.loaded.spec)
    card = read_card(folder)
    rows = given or read_kept_rows(folder, None if card is None else card.rows_sha256)
    if rows is None:
        raise OptionError(
            f"{delta.loaded.spec}: it keeps no rows to choose alpha by: give some by --rows, such "
            "as it learned, or a number"
        )
    return rows, delta.alpha < 0 or (card is not None and card.forgets)


def choice(tried: Sequence[Tried], *, forgets: bool) -> float:
    """The strength that fits, of those that were tried, from 0 to the greatest: see `fit_alpha`.

    Raises:
        OptionError: something is to be forgotten, and every strength takes too much.

    >>> choice([Tried(0.0, 2.0), Tried(1.0, 0.5), Tried(2.0, 0.7)], forgets=False)
    1.0
    >>> choice([Tried(0.0, 2.0), Tried(-1.0, 2.03), Tried(-2.0, 2.2)], forgets=True)
    -1.0
    """
    if not forgets:
        return min(tried, key=lambda one: one.loss).alpha
    alone, *steered = tried
    most = alone.loss * (1 + MOST_LOST)
    harmless = list(takewhile(lambda one: one.loss <= most, steered))
    if not harmless:
        raise OptionError(
            f"alpha {steered[0].alpha:g} raises the loss of what is to be retained from "
            f"{alone.loss:.4g} to {steered[0].loss:.4g} already: give a number"
        )
    return harmless[-1].alpha


def _read(kept: dict[str, Any] | None) -> FittedAlpha | None:
    """A choice of the user's cache; None if it is damaged."""
    try:
        fields = dict(kept or {})
        fields["tried"] = tuple(Tried(**one) for one in fields["tried"])
        found = FittedAlpha(**fields | {"is_kept": True})
        return found if found.alpha in dict(found.tried) else None
    except (KeyError, TypeError):
        return None
