"""How alike a delta model shifts several models, for `cmc-runtime eval --shifts`."""

from collections.abc import Sequence
from typing import Any

from cmc_runtime.delta import Delta
from cmc_runtime.evaluation.shifts import ShiftedModel, compare_shifts
from cmc_runtime.examples import Example
from cmc_runtime.map_tensors import (
    MapTensors,
    identity_map_tensors,
    load_map_tensors,
    vocabulary_of_tokenizer,
)
from cmc_runtime.models import LoadedModel
from cmc_runtime.samples import fitting_samples
from pm_mined import build_map
from pm_mined.cli.output import note, progress_bar, working


class ShiftComparison:
    """Compares models with the first: the delta's shifts with its shifts of that, or with tuning.

    Args:
        examples: On which.
        tuned: The first model, tuned.
    """

    def __init__(self, examples: Sequence[Example], tuned: LoadedModel | None) -> None:
        self._examples, self._tuned = examples, tuned
        self._reference: ShiftedModel | None = None

    def compare(self, user: LoadedModel, delta: Delta, form: str) -> dict[str, Any] | None:
        """For JSON; None for the first model where there is nothing else to compare it with."""
        shifted = ShiftedModel(user, delta, form)
        if self._reference is None:
            self._reference = ShiftedModel(user, self._tuned or delta, form)
            if self._tuned is None:
                return None
        rows = _usable(_usable(self._examples, self._reference), shifted)
        tensors = _tensors_between(self._reference.base, user)
        with progress_bar() as progress:
            task = progress.add_task(f"{user.spec}: shifts", total=len(rows))
            found = compare_shifts(
                *(self._reference, shifted, rows, tensors),
                on_example=lambda: progress.advance(task),
            )
        by = self._reference.by
        how = str(by.spec) if isinstance(by, LoadedModel) else "the delta"
        return {
            "reference": str(self._reference.base.spec),
            "by": how,
            "rows": len(rows),
            **found._asdict(),
        }


def _usable(examples: Sequence[Example], model: ShiftedModel) -> list[Example]:
    """Rows that are not too long."""
    delta = model.by if isinstance(model.by, Delta) else None
    fitting = fitting_samples(model.base, examples, model.form, delta)
    rows = {sample.row for sample in fitting.samples}
    return [example for example in examples if example.row in rows]


def _tensors_between(reference: LoadedModel, other: LoadedModel) -> MapTensors:
    """From the tokens of one model to those of another."""
    one, two = (vocabulary_of_tokenizer(model.tokenizer) for model in (reference, other))
    widths = {"num_src_logits": reference.num_logits, "num_dst_logits": other.num_logits}
    device = other.model.device
    if one.fingerprint == two.fingerprint:
        return identity_map_tensors(*widths.values(), device=device)
    with working("Building a map between the models"):
        token_map = build_map(one, two)
    note(f"map: {one.name} -> {two.name}, built here by PM-MinED, to compare shifts")
    return load_map_tensors(token_map, **widths, device=device)
