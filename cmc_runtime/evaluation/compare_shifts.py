"""The similarity of a delta model's shifts of several models, for `cmc-runtime eval --shifts`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cmc_runtime.data.examples import Example
from cmc_runtime.delta import Delta
from cmc_runtime.errors import DataError
from cmc_runtime.maps.tensors import (
    MapTensors,
    identity_map_tensors,
    load_map_tensors,
)
from cmc_runtime.models.load import LoadedModel
from pm_mined import OptionError, build_map, load_vocabulary

from .reporter import Reporter
from .scores import Fusion, settings_json
from .shifts import ShiftedModel, compare_shifts


class ShiftComparison:
    """Compares models with the first: the delta's shifts with its shifts of that, or with tuning.

    Args:
        examples: On which.
        max_length: See `compare_shifts`.
        tuned: The first model, tuned.
        by: What shifts the first model, as it was given: the tuned model or the delta.
        reporter: Told notes and progress.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        max_length: int | None,
        tuned: LoadedModel | None,
        by: str,
        reporter: Reporter,
    ) -> None:
        self._examples, self._max_length = examples, max_length
        self._tuned, self._by = tuned, by
        self._reporter = reporter
        self._reference: tuple[str, ShiftedModel] | None = None

    def prepare(
        self, spec: str, user: LoadedModel, delta: Delta, prompt_template: str, fusion: Fusion
    ) -> Callable[[], dict[str, Any] | None] | None:
        """Make the comparison of a model, for JSON; None for the first one if it is not compared.

        It returns None, with a note, where nothing can be compared.

        Raises:
            OptionError: the tuned model is none of the first one's.
        """
        shifted = ShiftedModel(user, delta, prompt_template, fusion)
        if self._reference is None:
            tuned = self._tuned
            first = shifted if tuned is None else ShiftedModel(user, tuned, prompt_template)
            self._reference = spec, first
        if self._reference[1] is shifted:
            return None
        return partial(self._compare, *self._reference, spec, shifted, fusion)

    def _compare(
        self, name: str, reference: ShiftedModel, spec: str, shifted: ShiftedModel, fusion: Fusion
    ) -> dict[str, Any] | None:
        tensors = _tensors_between(reference.base, shifted.base, self._reporter)
        try:
            with self._reporter.progress(f"{spec}: shifts", len(self._examples)) as advance:
                found, skipped = compare_shifts(
                    *(reference, shifted, self._examples, tensors),
                    max_length=self._max_length,
                    on_example=lambda: advance(1),
                )
        except (DataError, OptionError) as error:  # the losses are of use without shifts
            self._reporter.note(f"{spec}: shifts: {error}")
            return None
        if skipped:
            self._reporter.note(f"{spec}: shifts: {skipped}")
        return {
            "reference": name,
            "by": self._by,
            **settings_json(fusion),
            "rows": len(self._examples) - len(skipped),
            "skipped": skipped.to_json(),
            "sinkhorn": found.sinkhorn,
            "correlation": found.correlation,
            "lacking": found.unmapped,
        }


def _tensors_between(reference: LoadedModel, other: LoadedModel, reporter: Reporter) -> MapTensors:
    """From the tokens of one model to those of another."""
    one, two = (load_vocabulary(model.tokenizer) for model in (reference, other))
    num_src, num_dst = reference.num_logits, other.num_logits
    device = other.device
    if one.fingerprint == two.fingerprint:
        return identity_map_tensors(num_src, num_dst, device=device)
    with reporter.working("Building a map between the models"):
        token_map = build_map(one, two)
    reporter.note(f"map: {one.name} -> {two.name}, built here by PM-MinED, to compare shifts")
    return load_map_tensors(
        token_map, device=device, num_src_logits=num_src, num_dst_logits=num_dst
    )
