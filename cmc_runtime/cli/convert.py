"""`cmc-runtime convert`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cmc_runtime.errors import ModelError
from pm_mined import OptionError
from pm_mined.cli.output import AsJson, note, print_json, progress_bar, say, working

from .options import Dtype
from .packages import check_runtime

if TYPE_CHECKING:
    from cmc_runtime.models.load import LoadedModel

Format = Literal["folder", "gguf"]


def convert(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model or delta: a folder, a .gguf file, a Hub repository, smollm2-135m or "
            "gemma3-270m.",
        ),
    ],
    to: Annotated[
        Format | None,
        typer.Option(
            "--to", help="folder for a .gguf file, gguf for all others, if it is not given."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="The new folder, or the .gguf file; here, and named after the model, if not "
            "given.",
        ),
    ] = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """Write a GGUF model as a folder, or a folder as a GGUF file for llama.cpp.

    A folder has the model in safetensors, its configuration and its tokenizer, as transformers and
    vLLM read them. A GGUF file holds a model of Llama's, Qwen's or Gemma 3's kind and a BPE
    tokenizer; it carries the delta's card, too, so that `--delta FILE.gguf` is the same delta.
    What cannot be written so that llama.cpp does the same is refused. An existing file is
    replaced if it is a GGUF file and not read here, a folder only if it is empty.

    The keys of --json: output; format, folder or gguf; parameters; dtype, of the weights; bytes,
    of all files; seconds.
    """
    check_runtime()
    start = time.perf_counter()
    with working("Loading torch and transformers"):
        from cmc_runtime.models.locate import locate_model

    place = locate_model(model)
    is_gguf = isinstance(place, Path) and place.is_file()
    wanted: Format = to or ("folder" if is_gguf else "gguf")
    if is_gguf == (wanted == "gguf"):
        raise OptionError(f"{model}: is a {'GGUF file' if is_gguf else 'folder'} already")
    path = output or _named_after(model, wanted)
    _check_output(path, model, wanted)
    loaded = _load(model, dtype)
    write = _write_gguf if wanted == "gguf" else _write_folder
    try:
        write(loaded, path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror or error}") from error
    _print(loaded, path, wanted, time.perf_counter() - start, as_json=as_json)


def _print(
    loaded: "LoadedModel", path: Path, wanted: Format, seconds: float, *, as_json: bool
) -> None:
    parameters = sum(one.numel() for one in loaded.model.parameters())
    dtype, size = str(loaded.model.dtype).removeprefix("torch."), _size(path)
    if not as_json:
        say(f"{path}: {parameters:,} parameters in {dtype}, {size / 1e6:,.1f} MB  {seconds:.2f} s")
        return
    print_json(
        {
            "output": str(path),
            "format": wanted,
            "parameters": parameters,
            "dtype": dtype,
            "bytes": size,
            "seconds": round(seconds, 2),
        }
    )


def _named_after(model: str, wanted: Format) -> Path:
    name = Path(model.partition("@")[0] if not Path(model).exists() else model).resolve().name
    return Path(f"{name}.gguf" if wanted == "gguf" else name.removesuffix(".gguf"))


def _check_output(path: Path, model: str, wanted: Format) -> None:
    """Refuse an output that is an input, or something else that would be lost."""
    from cmc_runtime.conversion.to_folder import check_new_folder
    from pm_mined.inputs import refuse_inputs

    if wanted == "folder":
        check_new_folder(path)
        return
    refuse_inputs([path], [model])
    if not path.name.endswith(".gguf"):
        raise OptionError(f"{path}: a GGUF file is named .gguf")
    if not path.resolve().parent.is_dir():
        raise OptionError(f"{path}: there is no folder {path.parent} to put it into")
    if path.exists() and not _is_gguf(path):
        raise OptionError(f"{path}: is there, and no GGUF file: choose another name")


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _load(model: str, dtype: str | None) -> "LoadedModel":
    import torch

    from cmc_runtime.models.delta_model import load_delta_model

    with working(f"Loading {model}"):
        weights = None if dtype is None else getattr(torch, dtype)
        return load_delta_model(model, device="cpu", dtype=weights, note=note)


def _write_gguf(loaded: "LoadedModel", path: Path) -> None:
    from cmc_runtime.conversion.to_gguf import write_gguf

    with progress_bar() as bar:
        task = bar.add_task(path.name)
        write_gguf(
            loaded,
            path,
            note=note,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _write_folder(loaded: "LoadedModel", path: Path) -> None:
    from cmc_runtime.conversion.to_folder import write_folder

    with working(f"Writing {path}"):
        write_folder(loaded, path)


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
