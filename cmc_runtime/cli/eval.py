"""`cmc-runtime eval`."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from pm_mined import OptionError, PmMinedError
from pm_mined.cli.output import AsJson, print_json, working
from pm_mined.inputs import refuse_inputs

from .eval_tables import print_evaluation
from .options import (
    ALPHA_HELP,
    AdapterBase,
    BatchSize,
    DeltaPromptTemplate,
    Device,
    DeviceMap,
    Dtype,
    Gate,
    Limit,
    MaxLength,
    Plausible,
    Rows,
    Unmapped,
    check_alpha,
    refuse_without_delta,
    with_newlines,
)
from .packages import check_runtime
from .strength import rows_for_auto

# The formats in which matplotlib draws without more packages.
_PICTURES = (".png", ".svg", ".pdf")

ForgetSet = Literal["forget01", "forget05", "forget10"]


def evaluate(
    model: Annotated[
        list[str],
        typer.Option(
            metavar="MODEL",
            help="A model to evaluate: a folder, a .gguf file, a Hub repository, smollm2-135m or "
            "gemma3-270m; may be given several times.",
        ),
    ],
    delta: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The delta model that steers them, or a PEFT adapter of a small model.",
        ),
    ] = None,
    adapter_base: AdapterBase = None,
    token_map: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="MAP",
            help="Maps from the models' tokens to the delta's: a file for each that needs one, or "
            "a strategy of `pm-mined build`. Else the file that lies in the delta's folder or "
            "here and fits, or pm-mined, and first-token for an adapter.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Prompts with responses: JSON, JSON Lines or Parquet rows with prompt and "
            "response, question and answer, or instruction and output.",
        ),
    ] = None,
    limit: Limit = None,
    alpha: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A", callback=check_alpha, help=f"{ALPHA_HELP}; may be given several times."
        ),
    ] = None,
    rows: Rows = None,
    unmapped: Unmapped = None,
    plausible: Plausible = None,
    gate: Gate = None,
    prompt_template: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt-template",
            "--form",
            metavar="TEXT",
            callback=lambda given: [with_newlines(one) for one in given or ()] or None,
            help="Text around the models' prompts: chat, or text with {prompt} in it and perhaps "
            "{response} at its end; once for all, or once for each model; the delta's if not "
            "given, without a delta {prompt}.",
        ),
    ] = None,
    delta_prompt_template: DeltaPromptTemplate = None,
    batch_size: BatchSize = 1,
    max_length: MaxLength = None,
    dtype: Dtype = None,
    device: Device = None,
    device_map: DeviceMap = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the losses into this .png, .svg or .pdf file."),
    ] = None,
    tofu: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Evaluate unlearning: the folder of TOFU's ..._perturbed.json; --limit is for "
            "each set.",
        ),
    ] = None,
    forget: Annotated[ForgetSet, typer.Option(help="TOFU's set to be forgotten.")] = "forget10",
    retrained: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="For TOFU's forget quality: what --tofu --json printed for the model that was "
            "trained without the forget set.",
        ),
    ] = None,
    outputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead, answer the prompts of --data and write this file as AlpacaEval's judge "
            "reads it; of one model.",
        ),
    ] = None,
    shifts: Annotated[
        bool,
        typer.Option(
            "--shifts",
            help="Measure also how alike the delta shifts each model's logits on --data and those "
            "of the first model.",
        ),
    ] = False,
    tuned: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="For --shifts: the first model after tuning; what that changed is compared with.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="N", help="Tokens to write at most, for --tofu and --outputs.")
    ] = 200,
    leak: Annotated[
        int,
        typer.Option(
            metavar="K",
            min=0,
            help="For --tofu: sample K answers to each question to be forgotten as well, and "
            "report the best of them.",
        ),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure how well models predict and answer, alone and with a delta model.

    Losses are in nats, of the responses' text without the token that ends it. The 95 % interval
    is a bootstrap over samples.

    The keys of --json: delta; file, with path, rows, sha256 and skipped, a count for each reason,
    null if no losses were asked for; models. Of a model: model; form; strategy, of its map,
    null without one; fitted_alpha, null without --alpha auto; data, tofu, outputs and shifts, each
    null if it was not asked for. Of fitted_alpha: alpha; tried, each alpha with its loss; rows,
    how many it was tried on; forgets, whether these are to be retained; is_kept, whether it was
    in the user's cache.

    Of data: samples, tokens, characters, bytes (UTF-8) and skipped; places, how many tokens the
    delta predicts from contexts that are exact or reencoded; results, of the model alone and then
    for each alpha. Of a result: alpha, unmapped, plausible and gate, null for the model alone;
    loss_per_character and its interval; loss_per_token; bits_per_byte; accuracy of the likeliest
    token; ending_loss, of ending where a response ends; rules, with tokens, share, loss_per_token
    and accuracy for each rule of the map.

    Of tofu: forget_set; leak_samples; questions and skipped, for each set; results as above, with
    alpha to gate; forget, retain, real_authors and world_facts, each with probability, rouge,
    truth_ratio, exact_memorization, extraction_strength and ended, how many answers were not cut
    off, of forget also log_truth_ratios and leak, the mean ROUGE-L of the best of leak_samples
    answers, null without --leak; model_utility; forget_quality, null without --retrained or for
    the retrained model itself. Of outputs: file, generator, texts, and ended, likewise.

    Of shifts, of the likeliest 100 tokens of each step, null for the first model without --tuned
    and where nothing can be compared: reference, the first model; by, what shifts it, the tuned
    model or the delta; alpha to gate, of the delta; rows and skipped; sinkhorn, a divergence,
    0 if alike; correlation, 1 if alike; lacking, the share of tokens that the other model lacks.
    """
    check_runtime()
    _check_asked(model, data, tofu, outputs, alpha)
    refuse_without_delta(
        delta,
        adapter_base=adapter_base,
        map=token_map,
        alpha=alpha,
        rows=rows,
        unmapped=unmapped,
        plausible=plausible,
        gate=gate,
        delta_prompt_template=delta_prompt_template,
    )
    _check_shifts(model, delta, data, outputs, tuned, alpha, shifts=shifts)
    if prompt_template is not None and len(prompt_template) not in (1, len(model)):
        raise OptionError(
            f"{len(prompt_template)} --prompt-template for {len(model)} --model: give one, or "
            "one for each"
        )
    if leak and tofu is None:
        raise OptionError("--leak needs --tofu FOLDER")
    if retrained is not None and tofu is None:
        raise OptionError("--retrained needs --tofu FOLDER")
    _check_plot(plot, data, outputs)
    _check_folders(plot, outputs)
    read = [data, rows, tofu, retrained, *model, delta, adapter_base, tuned, *(token_map or ())]
    refuse_inputs([plot, outputs], read)
    _check_packages(plot=plot, tofu=tofu, retrained=retrained, shifts=shifts or None)
    with working("Loading torch and transformers"):
        from cmc_runtime.evaluation.inputs import read_inputs
        from cmc_runtime.evaluation.run import EvaluationRun, Options

        from .eval_reporter import TerminalReporter

    reporter = TerminalReporter()
    inputs = read_inputs(data, tofu, forget, retrained, outputs, limit, reporter)
    options = Options(
        alpha,
        rows_for_auto(rows, alpha),
        unmapped,
        plausible,
        gate,
        prompt_template,
        delta_prompt_template,
        batch_size,
        max_length,
        max_new_tokens,
        leak,
        dtype,
        device,
        adapter_base,
        device_map,
    )
    run = EvaluationRun(
        model,
        delta,
        token_map or [],
        inputs,
        options,
        compares_shifts=shifts,
        tuned=tuned,
        reporter=reporter,
    )
    document = run.run()
    if plot is not None:
        from cmc_runtime.evaluation.picture import draw_losses

        draw_losses(plot, document["models"])
    if as_json:
        print_json(document)
    else:
        print_evaluation(document)


def _check_asked(
    model: list[str],
    data: Path | None,
    tofu: Path | None,
    outputs: Path | None,
    alpha: list[str] | None,
) -> None:
    if data is None and tofu is None:
        raise OptionError("nothing to evaluate: give --data FILE or --tofu FOLDER")
    if outputs is not None and (data is None or tofu is not None):
        raise OptionError("--outputs answers the prompts of --data FILE, and goes without --tofu")
    if outputs is not None and (len(model) > 1 or len(alpha or ()) > 1):
        raise OptionError("--outputs is of one model: give one --model, and one --alpha at most")


def _check_shifts(
    model: list[str],
    delta: str | None,
    data: Path | None,
    outputs: Path | None,
    tuned: str | None,
    alpha: list[str] | None,
    *,
    shifts: bool,
) -> None:
    if tuned is not None and not shifts:
        raise OptionError("--tuned needs --shifts")
    if shifts and (delta is None or data is None or outputs is not None):
        raise OptionError("--shifts needs --delta and --data FILE, and goes without --outputs")
    if shifts and tuned is None and len(model) == 1:
        raise OptionError("--shifts compares models: give a second --model, or --tuned")
    if shifts and len(alpha or ()) > 1:
        raise OptionError("--shifts is of one strength: give one --alpha at most")


def _check_plot(plot: Path | None, data: Path | None, outputs: Path | None) -> None:
    if plot is not None and (data is None or outputs is not None):
        raise OptionError("--plot draws the losses on --data FILE, and goes without --outputs")
    if plot is not None and plot.suffix not in _PICTURES:
        raise OptionError(f"--plot {plot}: expected a file ending in {', '.join(_PICTURES)}")


def _check_folders(*written: Path | None) -> None:
    """Refuse places for results that cannot be written, before anything runs."""
    for path in filter(None, written):
        if not path.parent.is_dir():
            raise PmMinedError(f"{path}: cannot write: there is no folder {path.parent}")
        if path.is_dir():
            raise PmMinedError(f"{path}: cannot write: it is a folder")


def _check_packages(**given: object) -> None:
    needs = {
        "plot": "matplotlib",
        "tofu": "rouge_score",
        "retrained": "scipy",
        "shifts": "geomloss",
    }
    for option, package in needs.items():
        if given[option] is not None and find_spec(package) is None:
            raise PmMinedError(f"--{option} needs {package}: run `pip install 'pm-mined[eval]'`")
