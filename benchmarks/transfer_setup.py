"""Shared by transfer.py and unlearning.py: models, maps, deltas, the gate, intervals."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional

from cmc_runtime import Delta, LoadedModel, MapTensors, Steering, load_delta, load_model
from cmc_runtime.data.examples import Example, Examples, Skipped
from cmc_runtime.data.samples import Sample, fitting_samples
from cmc_runtime.delta_card import read_card
from cmc_runtime.evaluation.scores import Scores, confidence_interval, score_samples
from cmc_runtime.maps.tensors import load_map_tensors
from cmc_runtime.training.new_delta import new_delta
from cmc_runtime.training.options import TrainingOptions
from cmc_runtime.training.train import train
from pm_mined import TokenMap, Vocabulary, build_map, load_vocabulary

PROMPT_TEMPLATE = "Question: {prompt}\nAnswer: {response}"
TEMPLATE, USER = "smollm2-135m", "gemma3-270m"
LAYERS = 2
AUTHOR = 20  # rows of one; TOFU's files have them in order
TOLERANCE = 1e-3  # nats, of a token
SETTINGS = {  # of `build_map`
    "pm-mined": {"strategy": "pm-mined"},
    "pm-mined, bytes": {"strategy": "pm-mined", "unit": "byte"},
    "exact": {"strategy": "exact"},
    "first-token": {"strategy": "first-token"},
    "mined": {"strategy": "mined"},
    "distribute": {"strategy": "distribute"},
    "decay": {"strategy": "decay"},
    "prefixes": {"strategy": "prefixes"},
    "both-ways": {"strategy": "both-ways"},
}
PM_MINED = "pm-mined"

Say = Callable[[str], object]


def add_setup(parser: argparse.ArgumentParser, work: str) -> None:
    """Add the options of both benchmarks; `work` is the default folder of models."""
    docs = Path(__file__).resolve().parent.parent / "docs"
    parser.add_argument("--work", type=Path, default=Path(work), help="folder of all models")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=docs, help="folder of results.md")


@dataclass(frozen=True)
class Setup:
    """The folder of a run, and its models."""

    work: Path
    seeds: Sequence[int]
    say: Say

    @cached_property
    def template(self) -> LoadedModel:
        """The model beside which deltas are trained."""
        return load_model(TEMPLATE, device="cpu")

    @cached_property
    def user(self) -> LoadedModel:
        """The model with another vocabulary."""
        return load_model(USER, device="cpu")

    @cached_property
    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """The user's and the frozen model's, which the deltas have too, with their tokenizers."""
        return load_vocabulary(self.user.spec), load_vocabulary(self.template.spec)

    def token_map(self, name: str) -> TokenMap:
        """The map from the user's tokens to the deltas', with these `SETTINGS`."""
        settings: Any = SETTINGS[name]
        return build_map(*self.vocabularies, **settings)

    def tensors(self, token_map: TokenMap) -> MapTensors:
        """The map for the widths of the models' logits."""
        return load_map_tensors(
            token_map,
            num_src_logits=self.user.num_logits,
            num_dst_logits=self.template.num_logits,
        )


def part(rows: Examples, start: int, stop: int | None) -> Examples:
    """Some of the rows."""
    return Examples(rows.rows[start:stop], Skipped())


def trained_delta(
    setup: Setup,
    folder: Path,
    template: LoadedModel,
    data: Examples,
    options: TrainingOptions,
    retain: Examples | None = None,
) -> LoadedModel:
    """The delta model of a folder; it is trained first, or its training goes on, if need be."""
    start = new_delta(template, shape=None, layers=LAYERS, seed=options.seed)
    if read_card(folder) is None:  # it is written last
        given = template, start, data, folder, options
        train(*given, retain=retain, keep_states=setup.work / "states", resume=True)
    sources = {"data": data} if retain is None else {"data": data, "retain": retain}
    _check_card(folder, options, sources, str(start.spec))
    return load_model(folder, device="cpu")


def _check_card(
    folder: Path, options: TrainingOptions, sources: dict[str, Examples], start: str
) -> None:
    """Exit if the delta model in the folder was trained with other settings."""
    card = read_card(folder)
    training = card.training if card else {}
    digests = {name: one["sha256"] for name, one in training["sources"].items()}
    had = {**training["options"], **digests, "start": training["start"]}
    wanted = options.to_json() | {name: one.digest for name, one in sources.items()}
    wanted["start"] = start
    for name, value in wanted.items():
        if had.get(name) != value:
            sys.exit(f"{folder}: trained with {name} {had.get(name)!r}, not {value!r}")


def ready_delta(loaded: LoadedModel, user: LoadedModel, token_map: TokenMap | None = None) -> Delta:
    """A delta model ready to steer a model."""
    return load_delta(
        *(loaded, user.tokenizer),
        num_logits=user.num_logits,
        token_map=token_map,
        prompt_template=PROMPT_TEMPLATE,
    )


# --- The gate ------------------------------------------------------------------------------------


def check_delta(user: LoadedModel, delta: Delta, rows: Sequence[Example], say: Say) -> None:
    """The gate, for a delta model."""
    _, scores = score_samples(
        user, fitting_samples(user, rows, PROMPT_TEMPLATE, delta).samples, delta
    )
    for number, example in enumerate(rows):
        check_stepwise(user, delta, example.prompt, scores, number, say)


def check_stepwise(
    user: LoadedModel, steering: Steering, prompt: str, scores: Scores, number: int, say: Say
) -> None:
    """Exit unless a sample's losses are those of decoding it token by token.

    `number` is the sample's place in the scores.
    """
    sample, fusion = scores.samples[number], scores.fusion
    if fusion is None:
        sys.exit("there is no fusion to check")
    base = _uncached_logits(user, sample)
    found = scores.loss[scores.sample_of == number]
    written = sample.ids[sample.num_prompt :]
    request = steering.begin(prompt, fusion.alpha)
    for step, target in enumerate(written):
        fused = steering.fuse(base[step : step + 1], [request])
        request.append(target)
        expected = float(functional.cross_entropy(fused, torch.tensor([target])))
        if abs(found[step] - expected) > TOLERANCE:
            sys.exit(
                f"row {sample.row}: wrong loss, so no figures: token {step} costs {found[step]}, "
                f"but {expected} when it is decoded"
            )
    say(f"gate: {len(written)} tokens of row {sample.row} cost what they cost when decoded")


@torch.inference_mode()
def _uncached_logits(user: LoadedModel, sample: Sample) -> torch.Tensor:
    """Float [targets, logits]: those that predict each target."""
    model: Any = user.model
    logits = model(input_ids=torch.tensor([sample.ids]), use_cache=False).logits[0]
    return logits[sample.num_prompt - 1 : -1]  # type: ignore[no-any-return]


# --- Figures -------------------------------------------------------------------------------------


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation, and the 95 % interval of the mean by Student's t."""
    from scipy.stats import t

    mean, count = float(np.mean(values)), len(values)
    if count == 1:
        return {"mean": mean, "deviation": None, "interval": None}
    deviation = float(np.std(values, ddof=1))
    half = float(t.ppf(0.975, count - 1)) * deviation / count**0.5
    return {"mean": mean, "deviation": deviation, "interval": [mean - half, mean + half]}


def over_authors(sums: Sequence[NDArray[np.float64]], counts: ArrayLike) -> tuple[float, float]:
    """The 95 % bootstrap interval over authors of the mean over seeds; `sums` has [rows] for each.

    Rows of one author share names and words, so authors are drawn, each with all of its rows.
    """
    mean = np.mean(np.stack(sums), axis=0)
    each = (np.add.reduceat(one, np.arange(0, len(mean), AUTHOR)) for one in (mean, counts))
    return confidence_interval(*each)
