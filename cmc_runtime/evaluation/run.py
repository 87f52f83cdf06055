"""The work of `cmc-runtime eval`: one model after the other, for memory; the delta model once."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cmc_runtime.data.examples import Examples
from cmc_runtime.delta import Delta, load_delta
from cmc_runtime.engines.generate import Sampling, generate
from cmc_runtime.fusion.arguments import Unmapped
from cmc_runtime.models.delta_model import load_delta_model
from cmc_runtime.models.load import LoadedModel, load_model
from cmc_runtime.models.prompts import PLAIN, check_prompt_template
from pm_mined import PmMinedError
from pm_mined.atomic_file import write_atomically

from .compare_shifts import ShiftComparison
from .evaluate import evaluate
from .fit_alpha import FittedAlpha, fit_alpha
from .given_maps import GivenMaps
from .inputs import Inputs
from .reporter import Reporter
from .scores import Fusion
from .tofu_run import (
    evaluate_tofu,
    num_answers,
    steered_by,
    tofu_json,
)

AUTO = "auto"
"""The strength that fits the model."""


class Options(NamedTuple):
    """Options of running models: see the command's help."""

    alphas: Sequence[str] | None  # numbers, or `auto`
    rows: Examples | None  # for `auto`; else those that the delta keeps
    unmapped: Unmapped | None
    plausible: float | None
    gate: float | None
    prompt_templates: Sequence[str] | None  # one for all models, or one for each
    delta_prompt_template: str | None
    batch_size: int
    max_length: int | None
    max_new_tokens: int
    leak_samples: int
    dtype: str | None
    device: str | None
    adapter_base: str | None = None
    device_map: str | None = None  # of the user models


@dataclass(frozen=True)
class EvaluationRun:
    """Models to be evaluated; `run` does it."""

    models: Sequence[str]
    delta: str | None
    maps: Sequence[str]
    inputs: Inputs
    options: Options
    compares_shifts: bool
    tuned: str | None
    reporter: Reporter

    def run(self) -> dict[str, Any]:
        """Run all models; returns the object that `--json` prints."""
        templates: Sequence[str | None] = self.options.prompt_templates or [None]
        for prompt_template in (*templates, self.options.delta_prompt_template):
            if prompt_template is not None:
                check_prompt_template(prompt_template)
        maps = GivenMaps(self.maps, len(self.models))
        delta = None if self.delta is None else self._load_delta(self.delta)
        shifts = self._shifts()
        each = zip(self.models, cycle(templates), strict=False)
        models = [self._evaluate(spec, template, delta, maps, shifts) for spec, template in each]
        return {"delta": self.delta, "file": self.inputs.file_json(), "models": models}

    def _shifts(self) -> ShiftComparison | None:
        if not self.compares_shifts or self.inputs.examples is None:
            return None
        tuned = None if self.tuned is None else self._load(self.tuned)
        by = str(self.delta if self.tuned is None else self.tuned)
        return ShiftComparison(
            self.inputs.examples.rows, self.options.max_length, tuned, by, self.reporter
        )

    def _load(self, spec: str) -> LoadedModel:
        with self.reporter.working(f"Loading {spec}"):
            return load_model(spec, device_map=self.options.device_map, **self._how_to_load)

    def _load_delta(self, spec: str) -> LoadedModel:
        with self.reporter.working(f"Loading {spec}"):
            return load_delta_model(spec, base=self.options.adapter_base, **self._how_to_load)

    @property
    def _how_to_load(self) -> dict[str, Any]:
        name = self.options.dtype
        dtype = None if name is None else getattr(torch, name)
        return {"device": self.options.device, "dtype": dtype, "note": self.reporter.note}

    def _evaluate(
        self,
        spec: str,
        prompt_template: str | None,
        loaded: LoadedModel | None,
        maps: GivenMaps,
        shifts: ShiftComparison | None,
    ) -> dict[str, Any]:
        """One model; it is forgotten when it is done, but for the one others are compared with."""
        user = self._load(spec)
        delta = None if loaded is None else self._ready(loaded, user, maps)
        if prompt_template is None:
            prompt_template = PLAIN if delta is None else delta.prompt_template
        fitted = None if delta is None else self._fitted(user, delta, prompt_template)
        run = _Run(
            *(spec, user, self.delta, delta, prompt_template, self.inputs),
            *(self._alphas(fitted), self.options, self.reporter),
        )
        compare = None
        if shifts is not None and delta is not None:
            compare = shifts.prepare(spec, user, delta, prompt_template, *run.fusions)
        token_map = None if delta is None else delta.token_map
        return {
            "model": spec,
            "form": prompt_template,
            "strategy": None if token_map is None else token_map.info.strategy,
            "fitted_alpha": None if fitted is None else fitted.to_json(),
            "data": run.data(),
            "tofu": run.tofu(),
            "outputs": run.outputs(),
            "shifts": None if compare is None else compare(),
        }

    def _fitted(self, user: LoadedModel, delta: Delta, prompt_template: str) -> FittedAlpha | None:
        """The strength that fits a model; None if it is not asked for."""
        if AUTO not in (self.options.alphas or ()):
            return None
        steering = replace(delta, unmapped=self.options.unmapped or delta.unmapped)
        with self.reporter.working("Choosing alpha"):
            fitted = fit_alpha(
                *(user, steering, self.options.rows),
                prompt_template=prompt_template,
                note=self.reporter.note,
            )
        self.reporter.note(f"{user.spec}: {fitted}")
        return fitted

    def _alphas(self, fitted: FittedAlpha | None) -> list[float] | None:
        """The strengths as numbers."""
        asked = self.options.alphas
        if fitted is None:
            return None if asked is None else [float(one) for one in asked]
        return [fitted.alpha if one == AUTO else float(one) for one in asked or ()]

    def _ready(self, loaded: LoadedModel, user: LoadedModel, maps: GivenMaps) -> Delta:
        with self.reporter.working("Loading the map"):
            return load_delta(
                loaded,
                user.tokenizer,
                num_logits=user.num_logits,
                ends=user.ends,
                token_map=maps.take(user, loaded),
                prompt_template=self.options.delta_prompt_template,
                plausible=self.options.plausible,
                gate=self.options.gate,
                note=self.reporter.note,
            )


@dataclass(frozen=True)
class _Run:
    """One model on all inputs; each method returns None for what was not asked for."""

    spec: str
    user: LoadedModel
    delta_spec: str | None
    delta: Delta | None
    prompt_template: str
    inputs: Inputs
    alphas: Sequence[float] | None
    options: Options
    reporter: Reporter

    @property
    def fusions(self) -> list[Fusion]:
        if self.delta is None:
            return []
        alphas = self.alphas or [self.delta.alpha]
        return [Fusion.of(self.delta, alpha, self.options.unmapped) for alpha in alphas]

    def data(self) -> dict[str, Any] | None:
        if self.inputs.examples is None:
            return None
        options = self.options
        return evaluate(
            *(self.user, self.inputs.examples, self.delta),
            alphas=self.alphas,
            unmapped=options.unmapped,
            prompt_template=self.prompt_template,
            batch_size=options.batch_size,
            max_length=options.max_length,
            reporter=self.reporter,
        ).to_json()

    def tofu(self) -> dict[str, Any] | None:
        questions = self.inputs.questions
        if questions is None:
            return None
        samples = self.options.leak_samples
        total = num_answers(questions, len(self.fusions), samples)
        with self.reporter.progress(f"{self.spec}: TOFU", total) as advance:
            scores, skipped = evaluate_tofu(
                *(self.user, questions, self.prompt_template, self.delta, self.fusions),
                batch_size=self.options.batch_size,
                max_length=self.options.max_length,
                max_new_tokens=self.options.max_new_tokens,
                leak_samples=samples,
                on_answers=advance,
            )
        for name, some in skipped.items():
            self._note_skipped(f"TOFU's {name}", some)
        return {
            "forget_set": self.inputs.forget,
            "leak_samples": samples,
            "questions": {name: len(questions[name]) - len(skipped[name]) for name in questions},
            "skipped": {name: some.to_json() for name, some in skipped.items()},
            "results": [tofu_json(one, self.inputs.retrained) for one in scores],
        }

    def outputs(self) -> dict[str, Any] | None:
        prompts, path = self.inputs.prompts, self.inputs.outputs
        if prompts is None or path is None:
            return None
        fusion = next(iter(self.fusions), None)
        generator = self.spec
        if self.delta is not None and fusion is not None:
            generator += f" + {fusion.alpha:g} {self.delta_spec}"
        rows, num_ended = [], 0
        completions = generate(
            *(self.user, prompts.texts),
            **steered_by(self.delta, fusion),
            prompt_template=self.prompt_template,
            sampling=Sampling(self.options.max_new_tokens),
            batch_size=self.options.batch_size,
        )
        with self.reporter.progress(self.spec, len(prompts.texts)) as advance:
            for completion in completions:
                text = completion.text.strip()
                rows.append(
                    {"instruction": completion.prompt, "output": text, "generator": generator}
                )
                num_ended += completion.ended
                advance(1)
        _write_json(path, rows)
        return {"file": str(path), "generator": generator, "texts": len(rows), "ended": num_ended}

    def _note_skipped(self, where: str, skipped: object) -> None:
        if skipped:
            self.reporter.note(f"{self.spec}: {where}: {skipped}")


def _write_json(path: Path, rows: list[dict[str, str]]) -> None:
    document = json.dumps(rows, ensure_ascii=False, indent=2) + "\n"
    try:
        write_atomically(path, document.encode())
    except OSError as error:
        raise PmMinedError(f"{path}: cannot write: {error.strerror or error}") from error
