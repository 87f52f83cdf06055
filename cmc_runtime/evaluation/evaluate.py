"""The evaluation of a model on responses, alone and with a delta model, as one result."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmc_runtime.data.examples import Examples, Skipped
from cmc_runtime.data.samples import FittingSamples, fitting_samples
from cmc_runtime.delta import Delta
from cmc_runtime.fusion.arguments import Unmapped
from cmc_runtime.models.load import LoadedModel
from cmc_runtime.models.prompts import PLAIN
from pm_mined import OptionError, Rule
from pm_mined.notebook import html_table

from .reporter import Reporter
from .scores import Fusion, Scores, score_samples, settings_json, token_rules


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The scores of a model on data; see `evaluate`, which makes it.

    Attributes:
        model: The name of the model, as it was given.
        scores: Of the model alone, and then with the delta model at each alpha.
        skipped: The rows that were too long for a model.

    >>> evaluate(user, data, delta)  # doctest: +SKIP
    Evaluation('smollm2-135m', 160 samples, loss per character 0.5340 alone, 0.0492 at alpha 1)
    """

    model: str
    scores: list[Scores]
    skipped: Skipped
    _fitting: FittingSamples
    _delta: Delta | None

    def to_json(self) -> dict[str, Any]:
        """The figures, with the keys that `cmc-runtime eval --json` has as a model's data."""
        first = self.scores[0]
        rules = None if self._delta is None else token_rules(self._delta, first.targets)
        num_bytes = self._fitting.num_bytes
        return {
            "samples": len(first.samples),
            "tokens": int(first.is_text.sum()),
            "characters": int(first.num_chars.sum()),
            "bytes": num_bytes,
            "skipped": self.skipped.to_json(),
            "places": None if self._delta is None else self._places(),
            "results": [_result(one, num_bytes, rules) for one in self.scores],
        }

    def _places(self) -> dict[str, int]:
        """The number of tokens, end tokens included, predicted from each kind of context."""
        trees = [one.tree for one in self._fitting.samples if one.tree is not None]
        return {
            "exact": sum(tree.num_exact for tree in trees),
            "reencoded": sum(tree.num_reencoded for tree in trees),
        }

    def __repr__(self) -> str:
        """The model and its losses."""
        losses = ", ".join(f"{one.loss_per_character:.4f} {_at(one)}" for one in self.scores)
        count = len(self.scores[0].samples)
        samples = f"{count:,} sample{'s' * (count != 1)}"
        return f"Evaluation({self.model!r}, {samples}, loss per character {losses})"

    def _repr_html_(self) -> str:
        """The table that a notebook shows."""
        rows = [("", "loss per character", "accuracy")]
        rows += [
            (_at(one), f"{one.loss_per_character:.4f}", f"{one.accuracy:.4f}")
            for one in self.scores
        ]
        return html_table(f"Evaluation of {self.model}", rows)


def evaluate(
    user: LoadedModel,
    data: Examples,
    delta: Delta | None = None,
    *,
    alphas: Sequence[float] | None = None,
    unmapped: Unmapped | None = None,
    prompt_template: str | None = None,
    batch_size: int = 1,
    max_length: int | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Measure how well a model predicts responses, alone and with a delta model.

    Args:
        user: The model.
        data: Prompts with responses: see `read_examples`.
        delta: A delta model for it: see `load_delta`.
        alphas: How strongly the delta steers, once for each result; by default as in its
            training.
        unmapped: What the tokens without counterpart get: see `fuse_logits`; by default as in the
            delta's training.
        prompt_template: That of the model: see `encode_prompt`; by default the delta's, and
            without a delta the prompt alone.
        batch_size: How many rows run at once, those of the same length together.
        max_length: The most tokens of a row; longer ones are skipped. By default the model's
            position limit.
        reporter: Told how it goes; by default nobody is.

    Raises:
        OptionError: `alphas` or `unmapped` is given without a delta; a number or template is out
            of range; a prompt has no tokens.
        DataError: no row is short enough.
        ModelError: logits are not finite, or there is not enough memory.
        ContextError: a row is too long for the delta model.

    >>> user = load_model("gemma3-270m")  # doctest: +SKIP
    >>> delta = load_delta(
    ...     "my-delta", user.tokenizer, num_logits=user.num_logits
    ... )  # doctest: +SKIP
    >>> result = evaluate(
    ...     user, read_examples("rows.jsonl"), delta, alphas=[0.5, 1]
    ... )  # doctest: +SKIP
    >>> [one.accuracy for one in result.scores]  # doctest: +SKIP
    [0.41, 0.45, 0.48]
    """
    reporter = reporter or Reporter()
    fusions = _fusions(delta, alphas, unmapped)
    if prompt_template is None:
        prompt_template = PLAIN if delta is None else delta.prompt_template
    with reporter.working("Encoding"):
        fitting = fitting_samples(user, data.rows, prompt_template, delta, max_length=max_length)
    if fitting.skipped:
        reporter.note(f"{user.spec}: {fitting.skipped}")
    with reporter.progress(str(user.spec), len(fitting.samples)) as advance:
        scores = score_samples(
            *(user, fitting.samples, delta, fusions), batch_size=batch_size, on_samples=advance
        )
    return Evaluation(str(user.spec), scores, fitting.skipped, fitting, delta)


def _fusions(
    delta: Delta | None, alphas: Sequence[float] | None, unmapped: Unmapped | None
) -> list[Fusion]:
    if delta is None:
        if alphas is not None or unmapped is not None:
            raise OptionError("alphas and unmapped say how a delta model steers: give delta too")
        return []
    return [Fusion.of(delta, alpha, unmapped) for alpha in alphas or [delta.alpha]]


def _at(scores: Scores) -> str:
    return "alone" if scores.fusion is None else f"at alpha {scores.fusion.alpha:g}"


def _result(scores: Scores, num_bytes: int, rules: NDArray[np.int8] | None) -> dict[str, Any]:
    return {
        **settings_json(scores.fusion),
        "loss_per_character": scores.loss_per_character,
        "interval": list(scores.interval),
        "loss_per_token": scores.loss_per_token,
        "bits_per_byte": float(scores.losses.sum() / np.log(2) / num_bytes),
        "accuracy": scores.accuracy,
        "ending_loss": scores.ending_loss,
        "rules": None if rules is None else _by_rule(scores, rules),
    }


def _by_rule(scores: Scores, rules: NDArray[np.int8]) -> dict[str, dict[str, Any]]:
    """Of the text's tokens, by the rule that maps each."""
    found = {}
    for rule in Rule:
        chosen = scores.is_text & (rules == rule)
        if chosen.any():
            found[rule.name.lower()] = {
                "tokens": int(chosen.sum()),
                "share": float(chosen.sum() / scores.is_text.sum()),
                "loss_per_token": float(scores.loss[chosen].mean()),
                "accuracy": float(scores.correct[chosen].mean()),
            }
    return found
