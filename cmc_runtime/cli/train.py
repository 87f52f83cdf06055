"""`cmc-runtime train`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pm_mined import OptionError
from pm_mined.cli.output import AsJson, note, working

from .config_file import options_from_file
from .options import Device, DeviceMap, Dtype, Map, with_newlines
from .packages import check_runtime
from .processes import check_processes, is_main_process
from .train_options import (
    AccumulationSteps,
    Bf16,
    EarlyStoppingPatience,
    EvalData,
    EvalSplit,
    EvalSteps,
    GradientCheckpointing,
    KeepRows,
    LearningRate,
    LoadBestModelAtEnd,
    MetricForBestModel,
    NumTrainEpochs,
    ReportTo,
    SaveSteps,
    TrainBatchSize,
    WarmupRatio,
    WeightDecay,
)
from .train_output import TrainingProgress, print_training
from .train_start import Start

if TYPE_CHECKING:
    from cmc_runtime.models.load import LoadedModel


@contextmanager
def _says_how_to_go_on() -> Iterator[None]:
    """After Ctrl-C, at any moment, say how the training goes on."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        if is_main_process():
            message = "cmc-runtime: interrupted: give the same command with --resume to go on"
            typer.echo(message, err=True)
        raise typer.Exit(130) from interruption


@_says_how_to_go_on()
def train(
    template: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="The frozen model that it is trained beside: a folder, a .gguf file, a Hub "
            "repository, smollm2-135m or gemma3-270m.",
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Rows of prompt and response, question and answer, or instruction and output: "
            "JSON Lines, JSON or Parquet.",
        ),
    ],
    output: Annotated[str, typer.Option(metavar="DIR", help="Folder of the delta model.")],
    delta: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Start from a small model.")
    ] = None,
    delta_config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Start from random weights: a config.json, or the shape 15m, 42m or 110m.",
        ),
    ] = None,
    delta_tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Whose tokenizer a delta of --delta-config has; the frozen model's by default.",
        ),
    ] = None,
    delta_layers: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Start from the first N layers of the frozen model, as a no-op."
        ),
    ] = None,
    delta_adapter: Annotated[
        int | None,
        typer.Option(
            metavar="RANK",
            help="Start from a LoRA adapter of a small model, as a no-op: the delta is the "
            "difference that it makes to that model.",
        ),
    ] = None,
    adapter_base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The small model of --delta-adapter, the frozen model if not given; or that of "
            "a --delta that is an adapter.",
        ),
    ] = None,
    token_map: Map = None,
    objective: Annotated[
        Literal["sft", "grad-ascent", "grad-diff", "kl", "remember"],
        typer.Option(
            help="Learn the data; or forget it: by gradient ascent alone, with the difference to "
            "retained data, or staying near the frozen model there; or by remembering it alone, "
            "to be subtracted."
        ),
    ] = "sft",
    retain: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rows to retain, for grad-diff, kl and remember."),
    ] = None,
    prompt_template: Annotated[
        str,
        typer.Option(
            "--prompt-template",
            "--form",
            metavar="TEXT",
            callback=with_newlines,
            help="Text around the frozen model's prompts: chat, or text with {prompt} in it and "
            "perhaps {response} at its end.",
        ),
    ] = "{prompt}",
    delta_prompt_template: Annotated[
        str | None,
        typer.Option(
            "--delta-prompt-template",
            "--delta-form",
            metavar="TEXT",
            callback=with_newlines,
            help="Text around the delta's prompts; the frozen model's by default.",
        ),
    ] = None,
    num_train_epochs: NumTrainEpochs = 4,
    learning_rate: LearningRate = 2e-4,
    warmup_ratio: WarmupRatio = 0.03,
    weight_decay: WeightDecay = 0.0,
    per_device_train_batch_size: TrainBatchSize = 4,
    gradient_accumulation_steps: AccumulationSteps = 1,
    alpha: Annotated[
        float | None,
        typer.Option(metavar="A", help="Strength of the delta; 1, and of remember -0.8."),
    ] = None,
    unmapped: Annotated[
        Literal["zero", "keep", "mean"] | None,
        typer.Option(
            help="What unmapped tokens get; zero beside a model of the same vocabulary, else keep."
        ),
    ] = None,
    reencode: Annotated[
        bool,
        typer.Option(
            help="Use also the tokens before which the delta encodes anew, or leave them out."
        ),
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the rows' order and of random weights.")] = 0,
    limit: Annotated[
        int | None, typer.Option(metavar="ROWS", help="Use the first so many usable rows only.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Leave out rows of more tokens of the frozen model; else what it reads.",
        ),
    ] = None,
    keep_states: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep the frozen model's hidden states there: it then runs once for all epochs, "
            "and for all runs on the same data.",
        ),
    ] = None,
    bf16: Bf16 = False,
    gradient_checkpointing: GradientCheckpointing = False,
    save_steps: SaveSteps = None,
    eval_data: EvalData = None,
    eval_split: EvalSplit = None,
    eval_steps: EvalSteps = None,
    early_stopping_patience: EarlyStoppingPatience = None,
    load_best_model_at_end: LoadBestModelAtEnd = False,
    metric_for_best_model: MetricForBestModel = "loss",
    report_to: ReportTo = None,
    keep_rows: KeepRows = 16,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of DIR.")
    ] = False,
    dtype: Dtype = None,
    device: Device = None,
    device_map: DeviceMap = None,
    config: Annotated[  # noqa: ARG001 - read before all others
        Path | None,
        typer.Option(
            metavar="FILE",
            is_eager=True,
            callback=options_from_file,
            help="TOML file of these options; what is given here goes first.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a delta model beside a frozen model.

    DIR gets the model (safetensors) and its tokenizer, or the adapter as PEFT has it; delta.json
    (what it was trained for and on), rows.jsonl (a few rows as they are: see --keep-rows),
    metrics.jsonl, loss.png, and two checkpoints. For several processes, start it with `accelerate
    launch -m cmc_runtime train ...` or torchrun.

    The keys of --json: output; parameters, of the delta; steps; loss, the objective's mean in the
    last epoch; seconds; kept, the step whose weights are kept, with eval_loss and eval_accuracy if
    there was validation.
    """
    check_runtime()
    check_processes()
    chosen = Start(delta, delta_config, delta_layers, delta_adapter, delta_tokenizer, adapter_base)
    if not output:
        raise OptionError("--output is empty; give a folder")
    with working("Loading torch and transformers"):
        from cmc_runtime.training import train as training
        from cmc_runtime.training.options import TrainingOptions
        from cmc_runtime.training.run_folder import check_output

    folder = Path(output)
    options = TrainingOptions(
        objective,
        num_train_epochs=num_train_epochs,
        learning_rate=learning_rate,
        warmup_ratio=warmup_ratio,
        weight_decay=weight_decay,
        per_device_train_batch_size=per_device_train_batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        alpha=alpha,
        unmapped=unmapped,
        seed=seed,
        bf16=bf16,
        gradient_checkpointing=gradient_checkpointing,
        save_steps=save_steps,
        eval_split=eval_split,
        eval_steps=eval_steps,
        early_stopping_patience=early_stopping_patience,
        load_best_model_at_end=load_best_model_at_end,
        metric_for_best_model=metric_for_best_model,
        report_to=report_to or (),
        prompt_template=prompt_template,
        delta_prompt_template=delta_prompt_template,
        reencode=reencode,
        max_length=max_length,
        keep_rows=keep_rows,
    )
    if is_main_process():
        check_output(folder, resume=resume)
    from cmc_runtime.data.examples import read_examples

    paths = [path for path in (data, retain, eval_data) if path is not None]
    rows = {path: read_examples(path, limit=limit) for path in paths}
    frozen = _load(template, device, device_map, dtype)
    start = chosen.load(frozen, template, seed)
    begun = time.perf_counter()
    with TrainingProgress() as progress:
        training.train(
            *(frozen, start, rows[data], folder, options),
            retain=None if retain is None else rows[retain],
            eval_data=None if eval_data is None else rows[eval_data],
            token_map=token_map,
            keep_states=keep_states,
            resume=resume,
            progress=progress.update,
            note=note,
        )
    if not is_main_process():
        return
    for path, examples in rows.items():
        if examples.skipped:
            note(f"{path}: {examples.skipped}")
    print_training(folder, start, time.perf_counter() - begun, as_json=as_json)


def _load(
    spec: str, device: str | None, device_map: str | None, dtype: str | None
) -> "LoadedModel":
    import torch

    from cmc_runtime.models.load import load_model

    with working(f"Loading {spec}"):
        weights = None if dtype is None else getattr(torch, dtype)
        return load_model(spec, device=device, device_map=device_map, dtype=weights, note=note)
