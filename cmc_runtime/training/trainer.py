"""transformers' `Trainer` for a delta model beside a frozen model."""

import errno
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback

from cmc_runtime.delta_card import FILE as CARD_FILE
from cmc_runtime.delta_card import Card
from cmc_runtime.errors import TrainingError
from cmc_runtime.models.difference import DifferenceModel
from cmc_runtime.models.file_digests import complete
from cmc_runtime.models.load import LoadedModel

from .checkpoints import check_checkpoint, last_checkpoint, loading, whole_or_nothing
from .objectives import IGNORED, FusedObjective, counted_targets
from .options import TrainingOptions
from .record import EVAL_FIGURES
from .rows import Collator, Rows, rows_of_step
from .square_head import output_layer, square_head
from .validation import means

WEIGHTS = "model.safetensors"
SQUARE = "square.safetensors"  # in checkpoints


def trainer_arguments(
    output: Path, options: TrainingOptions, device: torch.device, *, validates: bool
) -> TrainingArguments:
    """The trainer's arguments, but for the schedule; it finds other processes by itself."""
    return TrainingArguments(
        output_dir=str(output),
        num_train_epochs=1,  # the rows are those of all epochs
        per_device_train_batch_size=options.per_device_train_batch_size,
        per_device_eval_batch_size=options.per_device_train_batch_size,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        lr_scheduler_type="cosine",
        seed=options.seed,
        bf16=options.bf16,
        use_cpu=device.type == "cpu",
        save_strategy="steps",
        save_total_limit=2,
        eval_strategy="steps" if validates else "no",
        metric_for_best_model=options.metric_for_best_model,
        load_best_model_at_end=options.load_best_model_at_end,
        restore_callback_states_from_checkpoint=options.early_stopping_patience is not None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=list(options.report_to) or "none",
        log_level="error",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
    )


def set_schedule(
    arguments: TrainingArguments, options: TrainingOptions, num_rows: int, epoch_rows: int
) -> None:
    """Say when to warm up, save and validate; the rows are those of all epochs, and of one."""
    step_rows = rows_of_step(arguments)
    arguments.warmup_steps = round(options.warmup_ratio * math.ceil(num_rows / step_rows))
    saved = options.eval_steps if options.load_best_model_at_end else options.save_steps
    arguments.save_steps = saved or options.save_steps or math.ceil(epoch_rows / step_rows)
    arguments.eval_steps = options.eval_steps or arguments.save_steps


class DeltaTrainer(Trainer):
    """Trains a `FusedObjective` and saves its delta model.

    Args:
        objective: What to train.
        arguments: See `trainer_arguments` and `set_schedule`.
        rows: Rows to train on, and to validate on if there are any.
        collator: Makes batches of them.
        callbacks: The record, and what else transformers has.
        card: The delta's, as known before the training.
        delta: It, with its tokenizer.
    """

    def __init__(
        self,
        objective: FusedObjective,
        arguments: TrainingArguments,
        rows: tuple[Rows, Rows | None],
        collator: Collator,
        callbacks: list[TrainerCallback],
        card: Card,
        delta: LoadedModel,
    ) -> None:
        super().__init__(
            objective, arguments, collator, *rows, compute_metrics=means, callbacks=callbacks
        )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.model_accepts_loss_kwargs = True  # losses are shares of a step, not means of a batch
        self._objective, self._card, self._delta = objective, card, delta

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        rows: Any = self.train_dataset
        return SequentialSampler(rows)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The batches of a step, and how many targets count in them, in all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = {}
        for name in batches[0] if batches else ():
            counted = [(counted_targets(batch[name]) != IGNORED).sum() for batch in batches]
            counts[name] = self.accelerator.gather(torch.stack(counted).sum().to(device)).sum()
        return batches, counts

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: ARG002 - the trainer's, as below
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """The share of a batch, times the number of processes: gradients are their mean."""
        loss: Tensor = model(inputs, num_items_in_batch) * self.args.world_size
        if not loss.isfinite():
            rows = ", ".join(map(str, inputs["data"].rows))
            raise TrainingError(
                f"the loss is {loss.item()} in step {self.state.global_step + 1}, rows {rows} of "
                "the data; the last checkpoint is as it was: try a lower learning rate"
            )
        return loss

    def prediction_step(
        self,
        model: Any,  # noqa: ARG002 - the trainer's, as below
        inputs: dict[str, Any],
        prediction_loss_only: bool,  # noqa: ARG002
        ignore_keys: list[str] | None = None,  # noqa: ARG002
    ) -> tuple[None, Tensor, Tensor]:
        """The sums that `means` takes; the trainer drops them without labels, so they are both."""
        with self.compute_loss_context_manager():
            sums = self._objective.sums(inputs["eval"])
        return None, sums, sums

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """A checkpoint that is complete, or none."""
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        with _one_line_errors(folder), whole_or_nothing(folder):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                complete(folder)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            self._write(folder, self._card)
            head = square_head(self._delta.model)
            if head is not None:  # it cannot be had from the product that is written
                safetensors.torch.save_model(head.square, str(folder / SQUARE))

    def save_delta(self) -> None:
        """Save the trained delta model, its tokenizer and, when all that is there, its card."""
        if self.args.should_save:
            output = Path(str(self.args.output_dir))
            made = output / ".saving"
            with _one_line_errors(output), whole_or_nothing(made):
                shutil.rmtree(made, ignore_errors=True)  # of a process that was killed
                made.mkdir()
                card = replace(self._card, training=self._card.training | {"kept": self._kept()})
                self._write(made, card)
                for path in sorted(made.iterdir(), key=lambda path: path.name == CARD_FILE):
                    os.replace(path, output / path.name)
                made.rmdir()

    def _kept(self) -> dict[str, Any]:
        """The step whose weights are kept, and what was found there in validation."""
        best = self.args.load_best_model_at_end
        step = self.state.best_global_step if best else self.state.global_step
        found = [logs for logs in self.state.log_history if logs["step"] == step]
        return {"step": step} | {
            name: logs[name] for logs in found for name in EVAL_FIGURES if name in logs
        }

    def _write(self, folder: Path, card: Card) -> None:
        """The delta model, its tokenizer and its card."""
        with self._folded():
            self._delta.save(folder)
        card.save(folder)

    def _load_from_checkpoint(
        self,
        resume_from_checkpoint: str,
        model: Any = None,  # noqa: ARG002
    ) -> None:
        folder = Path(resume_from_checkpoint)
        with loading(folder):
            self._load_weights(folder)

    def _load_weights(self, folder: Path) -> None:
        delta: Any = self._delta.model
        if isinstance(delta, DifferenceModel):
            delta.adapter.load_weights(folder)
            return
        with self._folded():
            safetensors.torch.load_model(delta, folder / WEIGHTS)
        head = square_head(delta)
        if head is not None:
            safetensors.torch.load_model(head.square, folder / SQUARE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with loading(Path(checkpoint)) if checkpoint else nullcontext():
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with loading(Path(checkpoint)) if checkpoint else nullcontext():
            super()._load_rng_state(checkpoint)

    def _folded(self) -> AbstractContextManager[None]:
        """Make the delta a plain model of transformers meanwhile."""
        head = square_head(self._delta.model)
        return output_layer(self._delta.model, None if head is None else head.folded())

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))
        check_checkpoint(best)
        self._load_from_checkpoint(str(best))


@contextmanager
def _one_line_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # those of safetensors and torch are no OSErrors
        kept = last_checkpoint(folder.parent if folder.name.startswith("checkpoint-") else folder)
        rest = "there is no checkpoint yet" if kept is None else f"{kept.name} is as it was"
        is_full = _is_full(error)
        advice = "make room" if is_full else "mend that"
        said = os.strerror(errno.ENOSPC) if is_full else str(error)
        reason = shorten(getattr(error, "strerror", None) or said, 200)
        raise TrainingError(
            f"{folder}: cannot be written: {reason}; {rest}: {advice}, and resume"
        ) from error


def _is_full(error: Exception) -> bool:
    """True if a disk is full: torch and safetensors say so in their own ways."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    words = ("No space left", "inline_container", "PytorchStreamWriter")
    return getattr(error, "errno", None) in codes or any(one in str(error) for one in words)
