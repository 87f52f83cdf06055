"""Scores of the ways to carry a delta over, and figures from them, for transfer.py."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transfer_setup import PROMPT_TEMPLATE, over_authors, over_seeds

from cmc_runtime import Delta, LoadedModel, MapTensors
from cmc_runtime.contexts.tree_attention import tree_states
from cmc_runtime.data.examples import Examples
from cmc_runtime.data.samples import Sample, fitting_samples, sample_batch
from cmc_runtime.evaluation.scores import Fusion, Scores, score_samples
from cmc_runtime.fusion.arguments import Unmapped
from cmc_runtime.fusion.losses import fused_token_losses
from cmc_runtime.models.output_head import OutputHead

BATCH = 4


class Way(NamedTuple):
    """A way to carry a delta over."""

    strategy: str  # of `SETTINGS`
    alpha: float = 1.0
    unmapped: Unmapped = "zero"


class Found(NamedTuple):
    """Scores of a model alone, and of each way by seeds."""

    alone: Scores
    steered: dict[Way, list[Scores]]


def samples_of(user: LoadedModel, rows: Examples, delta: Delta | None = None) -> list[Sample]:
    """The rows for a model; none of them may be too long."""
    made = fitting_samples(user, rows.rows, PROMPT_TEMPLATE, delta)
    if made.skipped:
        raise SystemExit(f"{user.spec}: {made.skipped}")
    return made.samples


def scores_by_way(
    user: LoadedModel,
    rows: Examples,
    deltas: Sequence[Delta],
    tensors: dict[str, MapTensors],
    ways: Sequence[Way],
) -> Found:
    """The model alone, and with the delta of each seed in each way."""
    every = []
    for delta in deltas:
        fusions = [Fusion(tensors[way.strategy], way.alpha, way.unmapped) for way in ways]
        samples = samples_of(user, rows, delta)
        every.append(score_samples(user, samples, delta, fusions, batch_size=BATCH))
    alone, *steered = [list(scores) for scores in zip(*every, strict=True)]
    return Found(alone[0], dict(zip(ways, steered, strict=True)))


def own_scores(user: LoadedModel, rows: Examples, deltas: Sequence[Delta]) -> list[list[Scores]]:
    """The frozen model alone, and with the delta of each seed: no map is needed."""
    every = [
        score_samples(user, samples_of(user, rows, one), one, batch_size=BATCH) for one in deltas
    ]
    return [list(scores) for scores in zip(*every, strict=True)]


@torch.no_grad()
def contrast_scores(
    user: LoadedModel,
    samples: Sequence[Sample],
    expert: LoadedModel,
    anti_expert: LoadedModel,
    fusion: Fusion,
) -> Scores:
    """The user model, and what an expert has more than an anti-expert (arXiv 2401.08565).

    The difference of two linear heads is one of both hidden states, side by side.
    """
    both = [expert.model, anti_expert.model]
    one, other = (OutputHead.of(model).weight for model in both)
    heads = OutputHead.of(user.model), OutputHead(torch.cat([one, -other], 1))
    costs = []
    for sample in samples:
        batch = sample_batch([sample])
        if batch.tree is None:
            raise ValueError("the samples were made without a delta model")
        states = torch.cat([tree_states(model, batch.tree) for model in both], 1)
        given = batch.user_states(user.model), heads[0], states, heads[1], batch.targets
        costs.append(
            fused_token_losses(*given, fusion.tensors, alpha=fusion.alpha, unmapped=fusion.unmapped)
        )
    loss, correct = (torch.cat(parts).numpy() for parts in zip(*costs, strict=True))
    return Scores(samples, fusion, loss.astype(np.float64), correct)


def figures(scores: Sequence[Scores], is_exact: NDArray[np.bool_] | None = None) -> dict[str, Any]:
    """Of one way by seeds; with `is_exact` [tokens], of these tokens and the others as well."""
    first = scores[0]
    found = {
        "loss_per_character": over_seeds([one.loss_per_character for one in scores]),
        "authors_interval": over_authors([one.losses for one in scores], first.num_chars),
        "loss_per_token": over_seeds([one.loss_per_token for one in scores]),
        "accuracy": over_seeds([one.accuracy for one in scores]),
        "seeds": len(scores),
    }
    if is_exact is not None:
        for name, wanted in (("exact", is_exact), ("inexact", ~is_exact)):
            chosen = wanted & first.is_text
            found[name] = over_seeds([float(one.loss[chosen].mean()) for one in scores])
    return found


def less_than(scores: Sequence[Scores], others: Sequence[Scores]) -> dict[str, Any]:
    """The loss per character that a way saves over others, in the same rows and seeds."""
    pairs = zip(others, scores, strict=False)  # the first seeds
    sums = [other.losses - one.losses for other, one in pairs]
    chars = scores[0].num_chars
    return {
        "mean": float(np.mean(sums, 0).sum() / chars.sum()),
        "interval": over_authors(sums, chars),
    }
