"""Options of training a delta model."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from textwrap import shorten
from typing import Any, Literal

import torch
from transformers.integrations import integration_utils

from cmc_runtime.fusion.arguments import Unmapped
from cmc_runtime.models.prompts import PLAIN, check_prompt_template
from pm_mined import OptionError

from .objectives import Objective, use_of

MAX_KEPT = 64
"""The most rows that are kept beside a delta."""

_MAX_ALPHA = torch.finfo(torch.float32).max

# The names in `delta.json` and `run.json`, which are as they were in the first files.
_JSON_NAMES = {
    "num_train_epochs": "epochs",
    "warmup_ratio": "warmup",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulate",
    "gradient_checkpointing": "checkpointing",
    "save_steps": "save_every",
    "prompt_template": "form",
    "delta_prompt_template": "delta_form",
}
_COUNTS = (
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "save_steps",
    "eval_steps",
    "early_stopping_patience",
    "max_length",
)


@dataclass(frozen=True)
class TrainingOptions:
    """Options of training a delta model, by transformers' names where it has them.

    Attributes:
        objective: See `Objective`.
        num_train_epochs: How often each row is seen.
        learning_rate: At its peak; from there it falls by a cosine to 0.
        warmup_ratio: The share of the steps in which it rises from 0.
        weight_decay: Of AdamW.
        per_device_train_batch_size: Rows at once, in each process.
        gradient_accumulation_steps: Batches that make a step together.
        alpha: The delta's strength, in training and on its card; for an objective whose delta is
            trained alone, on its card only. If not given, that of `use_of`.
        unmapped: What unmapped tokens get: see `fuse_logits`. If not given, as `default_unmapped`
            says.
        seed: Of the order of the rows; below 2**32.
        bf16: Whether matrix products are made in bfloat16 (autocast).
        gradient_checkpointing: Whether activations are made again in backward, to save memory.
        save_steps: Steps between two checkpoints; once an epoch if not given.
        eval_split: The share of the data that is not trained on, but validated on.
        eval_steps: Steps between two validations; if not given, at each checkpoint.
        early_stopping_patience: How many validations in a row may bring nothing better before
            training stops.
        load_best_model_at_end: Whether the best checkpoint is kept, and not the last; there is one
            of each validation then.
        metric_for_best_model: What is better: a lower `loss` or a higher `accuracy` (the share of
            tokens that are the likeliest) of the validation rows.
        report_to: Where else figures go: the names of transformers' integrations, such as
            `tensorboard` and `wandb`, or `all` that are installed.
        prompt_template: That of the frozen model: see `encode_prompt`.
        delta_prompt_template: That of the delta model; the frozen model's if not given.
        reencode: Whether tokens count before which the delta model encodes anew: see `token_tree`.
        max_length: Rows of more tokens of the frozen model are left out; else what it reads.
        keep_rows: How many rows are kept beside the delta at most, for `fit_alpha`: of the data,
            or where that is to be forgotten, of what is to be retained. 0 keeps none.

    >>> options = TrainingOptions(num_train_epochs=2, gradient_accumulation_steps=4)
    >>> options.objective, options.learning_rate
    ('sft', 0.0002)
    """

    objective: Objective = "sft"
    num_train_epochs: int = 4
    learning_rate: float = 2e-4
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    per_device_train_batch_size: int = 4
    gradient_accumulation_steps: int = 1
    alpha: float | None = None
    unmapped: Unmapped | None = None
    seed: int = 0
    bf16: bool = False
    gradient_checkpointing: bool = False
    save_steps: int | None = None
    eval_split: float | None = None
    eval_steps: int | None = None
    early_stopping_patience: int | None = None
    load_best_model_at_end: bool = False
    metric_for_best_model: Literal["loss", "accuracy"] = "loss"
    report_to: Sequence[str] = ()
    prompt_template: str = PLAIN
    delta_prompt_template: str | None = None
    reencode: bool = True
    max_length: int | None = None
    keep_rows: int = 16

    def __post_init__(self) -> None:
        """Refuse numbers out of their range.

        Raises:
            OptionError: one is.
        """
        self._check_numbers()
        self._check_strength()
        if not 0 <= self.seed < 2**32:
            raise OptionError(f"seed is {self.seed}; expected 0 to {2**32 - 1}")
        if self.load_best_model_at_end and self.save_steps not in (None, self.eval_steps):
            raise OptionError(
                f"save_steps is {self.save_steps} and eval_steps {self.eval_steps}; with "
                "load_best_model_at_end there is a checkpoint of each validation: leave save_steps"
                " out"
            )
        check_report_to(self.report_to)
        check_prompt_template(self.prompt_template)
        if self.delta_prompt_template is not None:
            check_prompt_template(self.delta_prompt_template)

    def _check_numbers(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} is {value}; expected 1 or more")
            if value is not None and value >= 2**31:
                raise OptionError(f"{name} is {value}; expected less than 2**31")
        for name, most in (("learning_rate", 10.0), ("warmup_ratio", 1.0), ("weight_decay", 10.0)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise OptionError(f"{name} is {value}; expected 0 to {most:g}")
        if not 0 <= self.keep_rows <= MAX_KEPT:
            raise OptionError(f"keep_rows is {self.keep_rows}; expected 0 to {MAX_KEPT}")
        if self.eval_split is not None and not 0 < self.eval_split < 1:
            raise OptionError(f"eval_split is {self.eval_split}; expected a share between 0 and 1")

    def _check_strength(self) -> None:
        if not abs(self.strength) <= _MAX_ALPHA:
            raise OptionError(f"alpha is {self.alpha}; expected a finite number in float32")
        if self.strength >= 0 > use_of(self.objective).alpha:
            raise OptionError(
                f"alpha is {self.alpha}, but what objective {self.objective} trains is subtracted: "
                "expected a number below 0"
            )

    @property
    def strength(self) -> float:
        """`alpha`, or what it is if not given."""
        return use_of(self.objective).alpha if self.alpha is None else self.alpha

    def to_json(self) -> dict[str, Any]:
        """The options as `delta.json` has them, by the names of its first version."""
        options = asdict(self) | {"alpha": self.strength}
        del options["report_to"]  # a run that is resumed may report elsewhere
        return {_JSON_NAMES.get(name, name): one for name, one in options.items()}


def check_report_to(names: Sequence[str]) -> None:
    """Refuse integrations of transformers that there are not, or whose packages are missing.

    Raises:
        OptionError: one is.
    """
    for name in names:
        try:
            found: Any = integration_utils.get_reporting_integration_callbacks(name)  # type: ignore[no-untyped-call]  # transformers
            for callback in found:
                callback()
        except (ValueError, RuntimeError, ImportError) as error:
            raise OptionError(f"report_to {name}: {shorten(str(error), 300)}") from error
