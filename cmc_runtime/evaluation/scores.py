"""The losses of responses by a model, alone and with a delta model.

One forward of each model serves the model alone and every fusion: strengths, policies for unmapped
tokens and maps are compared at the price of some passes over the logits each.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from cmc_runtime.contexts.tree_attention import tree_states
from cmc_runtime.data.samples import Sample, sample_batch
from cmc_runtime.delta import Delta
from cmc_runtime.errors import ModelError
from cmc_runtime.fusion.arguments import Unmapped
from cmc_runtime.fusion.fuse_logits import fuse_logits
from cmc_runtime.fusion.limits import EVERYWHERE, Limits
from cmc_runtime.maps.tensors import MapTensors
from cmc_runtime.models.load import LoadedModel
from cmc_runtime.models.output_head import OutputHead
from cmc_runtime.models.torch_errors import out_of_memory_says
from pm_mined import OptionError, Rule

OnSamples = Callable[[int], object]
"""Told how many samples more are done."""

# As many tokens at a time as have this many bytes of the user model's logits.
_BYTES = {"cpu": 2**27, "cuda": 2**29}
_DRAWS = 2000


class Fusion(NamedTuple):
    """Settings of adding a delta model's logits to a user model's: see `fuse_logits`, `Limits`."""

    tensors: MapTensors
    alpha: float = 1.0
    unmapped: Unmapped = "zero"
    limits: Limits = EVERYWHERE

    @classmethod
    def of(
        cls, delta: Delta, alpha: float | None = None, unmapped: Unmapped | None = None
    ) -> "Fusion":
        """As the delta model was trained, but for what is given."""
        return cls(
            delta.tensors,
            delta.alpha if alpha is None else alpha,
            delta.unmapped if unmapped is None else unmapped,
            delta.limits,
        )

    def fuse(self, base: Tensor, delta: Tensor) -> Tensor:
        """Float [..., user logits], of the user model's logits and the delta model's."""
        fused = fuse_logits(base, delta, self.tensors, self.alpha, unmapped=self.unmapped)
        return self.limits.keep(base, fused)


def settings_json(fusion: Fusion | None) -> dict[str, Any]:
    """The settings that a result is reported with; null for a model alone."""
    return {
        "alpha": None if fusion is None else fusion.alpha,
        "unmapped": None if fusion is None else fusion.unmapped,
        "plausible": None if fusion is None else fusion.limits.plausible,
        "gate": None if fusion is None else fusion.limits.gate,
    }


@dataclass(frozen=True, eq=False)
class Scores:
    """The losses of a model on the tokens of samples.

    Tokens are those to be predicted, sample after sample, with the end of each response: whichever
    of the model's ending tokens it takes. All figures but `mean_losses` and `ending_loss` are of
    the responses' text, without their ends.

    Attributes:
        samples: At least one.
        fusion: What was added to the model's logits; None for the model alone.
        loss: float64 [tokens], in nats.
        correct: Bool [tokens], whether the token has the largest logit.
    """

    samples: Sequence[Sample]
    fusion: Fusion | None
    loss: NDArray[np.float64]
    correct: NDArray[np.bool_]

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """int64 [tokens]: the ids to be predicted."""
        return np.concatenate([sample.ids[sample.num_prompt :] for sample in self.samples])

    @cached_property
    def sample_of(self) -> NDArray[np.int64]:
        """int64 [tokens]: the place of each token's sample in `samples`."""
        counts = [sample.num_targets for sample in self.samples]
        return np.repeat(np.arange(len(counts)), counts)

    @cached_property
    def is_text(self) -> NDArray[np.bool_]:
        """Bool [tokens]: whether it is a part of the response, and not its end."""
        parts = [np.arange(one.num_targets) < one.num_text for one in self.samples]
        return np.concatenate(parts)

    @property
    def num_chars(self) -> NDArray[np.int64]:
        """int64 [samples]: the characters of each response."""
        return np.array([sample.num_chars for sample in self.samples])

    @property
    def correct_by_sample(self) -> list[NDArray[np.bool_]]:
        """Bool [tokens] of each sample: `correct`, the end of the response among them."""
        stops = np.cumsum([sample.num_targets for sample in self.samples])
        return np.split(self.correct, stops[:-1])

    @property
    def losses(self) -> NDArray[np.float64]:
        """float64 [samples]: the sum of each, in nats."""
        return self._sums(np.where(self.is_text, self.loss, 0.0))

    @property
    def mean_losses(self) -> NDArray[np.float64]:
        """float64 [samples]: the mean per token, the end of the response among them."""
        return self._sums(self.loss) / self._sums(np.ones_like(self.loss))

    @property
    def loss_per_character(self) -> float:
        """In nats."""
        return float(self.losses.sum() / self.num_chars.sum())

    @property
    def interval(self) -> tuple[float, float]:
        """Of `loss_per_character`: see `confidence_interval`."""
        return confidence_interval(self.losses, self.num_chars)

    @property
    def loss_per_token(self) -> float:
        """In nats."""
        return float(self.loss[self.is_text].mean())

    @property
    def ending_loss(self) -> float | None:
        """The mean loss of ending a response where it ends, in nats; None if none has an end."""
        ends = self.loss[~self.is_text]
        return float(ends.mean()) if len(ends) else None

    @property
    def accuracy(self) -> float:
        """The share of tokens that have the largest logit, 0 to 1."""
        return float(self.correct[self.is_text].mean())

    def _sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """[samples]: of values [tokens]."""
        sums = np.zeros(len(self.samples))
        np.add.at(sums, self.sample_of, values)
        return sums


def score_samples(
    user: LoadedModel,
    samples: Sequence[Sample],
    delta: Delta | None = None,
    fusions: Sequence[Fusion] | None = None,
    *,
    batch_size: int = 1,
    on_samples: OnSamples = lambda _: None,
) -> list[Scores]:
    """Score a model alone, and then with each fusion of a delta model.

    Args:
        user: The model.
        samples: Of `fitting_samples`, or of a `SampleMaker` with the same models.
        delta: A delta model for the user model.
        fusions: By default the one that the delta model was trained for. Maps may be others than
            the delta's; its contexts, and so the place of special tokens in them, are by its own.
        batch_size: How many samples run at once, those of the same length together.
        on_samples: See `OnSamples`.

    Raises:
        OptionError: there is no sample or no such batch size; samples were made for another
            delta model, or without its re-encoded places; a fusion does not fit.
        ModelError: logits are not finite, or there is not enough memory.
        ContextError: a sample is too long for the delta model.

    >>> rows = read_examples("data.jsonl").rows  # doctest: +SKIP
    >>> samples = fitting_samples(user, rows, "{prompt}", delta).samples  # doctest: +SKIP
    >>> [one.accuracy for one in score_samples(user, samples, delta)]  # doctest: +SKIP
    [0.41, 0.48]
    """
    if batch_size < 1:
        raise OptionError(f"batch_size is {batch_size}; expected 1 or more")
    chosen = fusions_or_default(delta, fusions)
    _check_samples(samples, delta)
    models = _Models(user, delta, chosen)
    order = sorted(range(len(samples)), key=lambda i: -len(samples[i].ids))
    found: dict[int, _Costs] = {}
    for start in range(0, len(samples), batch_size):
        places = order[start : start + batch_size]
        found |= zip(places, models.costs([samples[i] for i in places]), strict=True)
        on_samples(len(places))
    costs = _joined([found[i] for i in range(len(samples))])
    return [
        Scores(samples, fusion, *cost)
        for fusion, *cost in zip([None, *chosen], costs.loss, costs.correct, strict=True)
    ]


def fusions_or_default(delta: Delta | None, fusions: Sequence[Fusion] | None) -> list[Fusion]:
    """The fusions of an evaluation: without any given, the one that the delta was trained for."""
    if delta is None and fusions:
        raise OptionError("there are fusions, but no delta model")
    if fusions is None:
        return [] if delta is None else [Fusion.of(delta)]
    return list(fusions)


def token_rules(delta: Delta, targets: NDArray[np.int64]) -> NDArray[np.int8]:
    """int8 [tokens]: for ids of the user model, the code of the `Rule` by which each is mapped.

    Without a map, that is `EXACT` where the delta model has the id as well.
    """
    mapped = delta.tensors.mapped.cpu().numpy()
    rules = np.where(mapped, Rule.EXACT, Rule.NONE).astype(np.int8)
    if delta.token_map is not None:
        known = delta.token_map.rule[: len(rules)]  # a model may have more logits, or fewer
        rules[: len(known)] = known
    return rules[targets]


def confidence_interval(sums: ArrayLike, counts: ArrayLike) -> tuple[float, float]:
    """The 95 % bootstrap interval of `sum(sums) / sum(counts)`, both [samples], over samples.

    From 2,000 draws, the same ones in every run: of the difference between two models, the
    differences of their sums give it.

    >>> low, high = confidence_interval([1.0, 2.0, 3.0, 2.0], [2, 2, 2, 2])
    >>> low, high
    (0.625, 1.375)
    """
    sums, counts = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    random = np.random.default_rng(0)
    draws = (random.integers(len(sums), size=len(sums)) for _ in range(_DRAWS))
    means = [sums[drawn].sum() / counts[drawn].sum() for drawn in draws]
    low, high = np.percentile(means, [2.5, 97.5]).tolist()
    return low, high


class _Costs(NamedTuple):
    loss: NDArray[np.float64]  # [1 + fusions, tokens]
    correct: NDArray[np.bool_]  # [1 + fusions, tokens]


def _joined(parts: Sequence[_Costs]) -> _Costs:
    """Along the tokens."""
    loss, correct = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return _Costs(loss, correct)


class _Models:
    """The models of one evaluation, shared by its batches."""

    def __init__(self, user: LoadedModel, delta: Delta | None, fusions: Sequence[Fusion]) -> None:
        self._user, self._head = user, OutputHead.of(user.model)
        self._delta: Any = None if delta is None else delta.loaded.model
        self._delta_head = None if delta is None else OutputHead.of(delta.loaded.model)
        self._fusions = fusions

    def costs(self, samples: Sequence[Sample]) -> list[_Costs]:
        """Of each sample of a batch."""
        hint = "use a smaller batch" if len(samples) > 1 else "limit the length of rows"
        message = f"for {len(samples)} rows at once: {hint}"
        with torch.no_grad(), out_of_memory_says(message):
            both = self._batch_costs(samples)
        costs, start = [], 0
        for sample in samples:
            own = slice(start, start + sample.num_targets)
            costs.append(_Costs(both.loss[:, own], both.correct[:, own]))
            _check_finite(sample, costs[-1].loss, self._user)
            start = own.stop
        return costs

    def _batch_costs(self, samples: Sequence[Sample]) -> _Costs:
        batch = sample_batch(samples).to(self._user.device)
        states = batch.user_states(self._user.model)
        size = max(1, _BYTES.get(states.device.type, 2**27) // (4 * self._head.width))
        given = [states, batch.targets, batch.is_text]
        if self._delta is not None and batch.tree is not None:
            given.append(tree_states(self._delta, batch.tree))
        parts = zip(*(torch.split(one, size) for one in given), strict=True)
        return _joined([self._part(*part) for part in parts])

    def _part(
        self,
        states: Tensor,
        targets: Tensor,
        is_text: Tensor,
        delta_states: Tensor | None = None,
    ) -> _Costs:
        """Of some tokens: states are [tokens, size], targets int64 [tokens], is_text bool."""
        every = self._logits(states, delta_states)
        found = [_token_costs(logits, targets, ~is_text, self._user.ends) for logits in every]
        loss, correct = (torch.stack(one).cpu().numpy() for one in zip(*found, strict=True))
        return _Costs(loss.astype(np.float64), correct)

    def _logits(self, states: Tensor, delta_states: Tensor | None) -> Iterator[Tensor]:
        """[tokens, width], the model's own and then the fused ones, each when it is asked for."""
        base = self._head(states)
        yield base
        if self._delta_head is not None and delta_states is not None:
            delta = self._delta_head(delta_states)
            for fusion in self._fusions:
                yield fusion.fuse(base, delta)


def _token_costs(
    logits: Tensor, targets: Tensor, is_end: Tensor, ends: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The loss of each token, and if it is the likeliest; an end is any of `ends`."""
    loss = functional.cross_entropy(logits, targets, reduction="none")
    correct = logits.argmax(-1) == targets
    if len(ends) > 1:  # else the target is the one
        at_ends = logits[is_end]
        loss[is_end] = at_ends.logsumexp(-1) - at_ends[:, ends].logsumexp(-1)
        correct[is_end] = torch.isin(at_ends.argmax(-1), torch.tensor(ends, device=logits.device))
    return loss, correct


def _check_samples(samples: Sequence[Sample], delta: Delta | None) -> None:
    if not samples:
        raise OptionError("there are no samples to evaluate")
    for sample in samples:
        if (sample.tree is None) != (delta is None):
            raise OptionError("samples and delta model do not belong together: make samples for it")
        if sample.tree is not None and sample.tree.num_masked:
            raise OptionError("samples made with `reencode=False` leave out tokens of responses")


def _check_finite(sample: Sample, loss: NDArray[np.float64], user: LoadedModel) -> None:
    """Refuse a sample whose loss [1 + fusions, tokens] is no number."""
    if not np.isfinite(loss).all():
        is_its_own = not np.isfinite(loss[0]).all()
        whose = str(user.spec) if is_its_own else f"{user.spec} with the delta model"
        raise ModelError(f"{whose}: logits of row {sample.row} are NaN or infinite: no loss")
