"""Training of a delta model beside a frozen model, by transformers' `Trainer`.

The trainer runs it on whatever accelerate finds: several processes, several machines, bfloat16.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from cmc_runtime.data.examples import Example, Examples
from cmc_runtime.data.kept_rows import FILE as ROWS
from cmc_runtime.data.kept_rows import draw_rows, rows_digest, save_rows
from cmc_runtime.data.samples import fitting_samples
from cmc_runtime.delta import Delta, load_delta
from cmc_runtime.delta_card import LEARNS, Card
from cmc_runtime.errors import TrainingError
from cmc_runtime.fusion.arguments import default_unmapped
from cmc_runtime.fusion.limits import Limits
from cmc_runtime.maps.choose import Note
from cmc_runtime.maps.written import written_text, written_tokens
from cmc_runtime.models.base_weights import base_weights
from cmc_runtime.models.difference import DifferenceModel
from cmc_runtime.models.digest import model_digest
from cmc_runtime.models.load import LoadedModel, enable_checkpointing
from cmc_runtime.models.torch_errors import out_of_memory_says
from pm_mined import OptionError, TokenMap, load_vocabulary
from pm_mined.tokenizer.special_tokens import turn_markers

from .checkpoints import last_checkpoint, stopped_at
from .frozen_states import frozen_states
from .new_delta import NewDelta
from .objectives import FusedObjective, needs_frozen, needs_retain, use_of
from .options import TrainingOptions
from .record import METRICS, PICTURE, Progress, TrainingRecord, plot_metrics
from .rows import Collator, Data, Rows, check_epochs, rows_of_step, training_rows
from .run_folder import begun_run
from .square_head import fold, make_trainable
from .trainer import DeltaTrainer, set_schedule, trainer_arguments
from .validation import validation_rows


def train(
    frozen: LoadedModel,
    start: LoadedModel,
    data: Examples,
    output: str | PathLike[str],
    options: TrainingOptions,
    *,
    retain: Examples | None = None,
    eval_data: Examples | None = None,
    token_map: str | PathLike[str] | TokenMap | None = None,
    keep_states: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress = lambda *_: None,
    note: Note = lambda _: None,
) -> Delta:
    """Train a delta model and save it in a folder, with its tokenizer and card.

    Args:
        frozen: The frozen model.
        start: The delta model as it is at the beginning, on the frozen model's device; its weights
            are changed, or those of its adapter alone. See `new_delta` and `new_adapter`.
        data: What to learn, or to forget. Rows that are too long are counted in `skipped`.
        output: The folder; checkpoints, figures and a picture of them go there too.
        options: How.
        retain: What to retain, for an objective that needs it; a row of it goes with each row of
            the data.
        eval_data: Rows to validate on, by their mean loss per token; or see `eval_split` in the
            options.
        token_map: From the frozen model's tokens to the delta model's: see `load_delta`.
        keep_states: A folder for the frozen model's hidden states: see `frozen_states`; of no use
            to an objective that leaves the frozen model out.
        resume: Whether to go on from the last checkpoint; else there must not be any.
        progress: Told how it goes.
        note: Told, in a line, which map is used where none was given, and each validation's loss.

    Returns:
        The delta model, ready to steer the frozen model.

    Raises:
        OptionError: the objective needs data to retain, or has no use for them; the folder has a
            run and it is not to be resumed, or one with other options, or another model; the map
            does not fit.
        DataError: no row can be used.
        TrainingError: the loss is not a number any more, or a checkpoint cannot be written.
        ModelError: memory runs out.

    >>> frozen, data = load_model("smollm2-135m"), read_examples("data.jsonl")  # doctest: +SKIP
    >>> start = new_delta(frozen, shape="15m")  # doctest: +SKIP
    >>> train(frozen, start, data, "my-delta", TrainingOptions())  # doctest: +SKIP
    Delta('new, of shape 15m', the same vocabulary, alpha 1)
    """
    if needs_retain(options.objective) and retain is None:
        raise OptionError(f"objective {options.objective} needs data to retain as well")
    if retain is not None and not needs_retain(options.objective):
        raise OptionError(
            f"objective {options.objective} retains nothing: leave out the data to retain"
        )
    check_epochs(options.num_train_epochs, len(data.rows))
    data, eval_data = validation_rows(data, eval_data, options)
    output = Path(output)
    arguments = trainer_arguments(output, options, frozen.device, validates=eval_data is not None)
    delta = load_delta(
        *(start, frozen.tokenizer),
        num_logits=frozen.num_logits,
        ends=frozen.ends,
        token_map=token_map,
        prompt_template=options.prompt_template
        if options.delta_prompt_template is None
        else options.delta_prompt_template,
        unmapped=options.unmapped,
        written_only=False,  # what is learned now may be others
        note=note,
    )
    given = {"data": data, "retain": retain, "eval": eval_data}
    sources = {name: one for name, one in given.items() if one is not None}
    kept = _kept_rows(sources, options)
    card = _card(frozen, delta, sources, options, rows_digest(kept) if kept else None)
    digest = model_digest(frozen.model)
    with ExitStack() as stack:
        with arguments.main_process_first(local=False):
            if arguments.process_index == 0:
                about = _identity(card, digest, delta, frozen, arguments)
                stack.enter_context(begun_run(output, about, resume=resume))
        keep = None
        if keep_states is not None and needs_frozen(options.objective):
            keep = Path(keep_states), digest
        made: dict[str, Data] = {}
        for name, source in sources.items():
            if made and source is data:  # the same rows are to be retained
                made[name] = made["data"]
                continue
            with arguments.main_process_first(local=False):  # the others find its states
                made[name] = _data(frozen, delta, source, options, keep, partial(progress, name))
        written = _written(delta, start, made)
        if written is not None:
            card = replace(card, written=written_text(written))
        record = TrainingRecord(output / METRICS, len(made["data"].samples), progress, note)
        _run(frozen, delta, made, arguments, options, card, kept, record)
    if arguments.process_index == 0:
        with _one_line_errors(output):
            plot_metrics(output / METRICS, output / PICTURE)
        if kept:
            note(
                f"{output / ROWS} has {len(kept)} rows, by which `--alpha auto` chooses a strength"
            )
    return replace(delta, alpha=card.alpha, limits=Limits(card.plausible), written=written)


def _identity(
    card: Card, digest: str, delta: Delta, frozen: LoadedModel, arguments: TrainingArguments
) -> dict[str, Any]:
    """All that a run must have again to be resumed; `digest` is the frozen model's."""
    templates = [getattr(one.tokenizer, "chat_template", None) for one in (frozen, delta.loaded)]
    return {
        **asdict(card),
        "frozen_model_sha256": digest,
        "start_sha256": model_digest(delta.loaded.model),
        "chat_templates": dict(zip(("frozen_model", "start"), templates, strict=True)),
        "processes": arguments.world_size,
    }


def _data(
    frozen: LoadedModel,
    delta: Delta,
    examples: Examples,
    options: TrainingOptions,
    keep: tuple[Path, str] | None,
    progress: Callable[[int, int], object],
) -> Data:
    """The samples of a file, and the frozen model's states for them if they are to be kept.

    `keep` is the folder for the states, and the frozen model's digest.
    """
    fitting = fitting_samples(
        *(frozen, examples.rows, options.prompt_template, delta),
        max_length=options.max_length,
        reencode=options.reencode,
        progress=progress,
    )
    samples = fitting.samples
    examples.skipped.merge(fitting.skipped)
    if keep is None:
        return Data(samples)
    folder, digest = keep
    states = frozen_states(
        *(folder, frozen.model, digest, samples),
        batch_size=options.per_device_train_batch_size,
        progress=progress,
    )
    return Data(samples, states)


def _written(
    delta: Delta, start: LoadedModel, made: Mapping[str, Data]
) -> NDArray[np.bool_] | None:
    """The tokens that the delta will have learned to write; None if it knew unknown ones before."""
    if delta.written is None and not isinstance(start, NewDelta):
        return None
    size = len(load_vocabulary(start.tokenizer))
    samples = [one for name, data in made.items() if name != "eval" for one in data.samples]
    targets = (i for one in samples for i in one.ids[one.num_prompt :])
    learned = written_tokens(delta.tensors, targets, size)
    return learned if delta.written is None else learned | delta.written


def _run(
    frozen: LoadedModel,
    delta: Delta,
    data: dict[str, Data],
    arguments: TrainingArguments,
    options: TrainingOptions,
    card: Card,
    kept: Sequence[Example],
    record: TrainingRecord,
) -> None:
    callbacks: list[TrainerCallback] = [record]
    if options.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(options.early_stopping_patience))
    model: Any = delta.loaded.model
    make_trainable(model)
    if options.gradient_checkpointing:
        enable_checkpointing(model, {"use_reentrant": False})
    counts = {name: len(one.samples) for name, one in data.items()}
    rows = training_rows(
        counts["data"], counts.get("retain", 0), epochs=options.num_train_epochs, seed=options.seed
    )
    set_schedule(arguments, options, len(rows), counts["data"])
    output = Path(str(arguments.output_dir))
    checkpoint = last_checkpoint(output)
    stopped = None if checkpoint is None else stopped_at(checkpoint)
    if stopped is not None:  # early: of the other rows none is left to do
        rows = rows.first(stopped * rows_of_step(arguments))
    validated = Rows({"eval": torch.arange(counts["eval"])}) if "eval" in counts else None
    trainer = DeltaTrainer(
        FusedObjective(delta, frozen.model, options.objective, options.strength),
        arguments,
        (rows, validated),
        Collator(data),
        callbacks,
        card,
        delta.loaded,
    )
    hint = "use a smaller batch and accumulate more of them, or checkpointing"
    with _one_line_errors(output), out_of_memory_says(f"in training: {hint}"):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        if kept and arguments.process_index == 0:
            save_rows(output, kept)
        trainer.save_delta()
    fold(model)
    model.eval().requires_grad_(False)


def _kept_rows(sources: Mapping[str, Examples], options: TrainingOptions) -> list[Example]:
    """The rows to keep beside the delta; nothing that is to be forgotten is among them."""
    source = sources.get("data" if options.objective == LEARNS else "retain")
    return [] if source is None else draw_rows(source.rows, options.keep_rows, options.seed)


def _card(
    frozen: LoadedModel,
    delta: Delta,
    sources: dict[str, Examples],
    options: TrainingOptions,
    rows_sha256: str | None,
) -> Card:
    """The card, as known before the training; the rest is in the metrics."""
    model: Any = delta.loaded.model
    src, dst = (load_vocabulary(one.tokenizer) for one in (frozen, delta.loaded))
    training = {
        "template": {
            "model": str(frozen.spec),
            "fingerprint": src.fingerprint,
            "dtype": str(frozen.model.dtype).removeprefix("torch."),
        },
        "start": str(delta.loaded.spec),
        "map": None if delta.token_map is None else _map_record(delta.token_map),
        "sources": {
            name: {"rows": len(one.rows), "sha256": one.digest} for name, one in sources.items()
        },
        "options": options.to_json(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    return Card(
        dst.fingerprint,
        delta.prompt_template,
        options.strength,
        None if delta.unmapped == default_unmapped(delta.tensors) else delta.unmapped,
        use_of(options.objective).plausible,
        options.objective,
        delta.kind,
        base_weights=base_weights(model.plain) if isinstance(model, DifferenceModel) else {},
        end_id=delta.end,
        end_token="" if delta.end is None else dst[delta.end].decode(errors="replace"),
        turn_markers=turn_markers(dst),
        rows_sha256=rows_sha256,
        training=training,
    )


def _map_record(token_map: TokenMap) -> dict[str, Any]:
    """The making of a map, and the digests of its columns in use."""
    digests = token_map.info.column_sha256
    read = [name for name in ("dst_id", "dst_ids", "weights") if name in digests]
    return {
        "strategy": token_map.info.strategy,
        "sha256": {name: digests[name] for name in read},
    }


@contextmanager
def _one_line_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{error.filename or output}: cannot be read or written: {error.strerror or error}; "
            "mend that, and resume"
        ) from error
