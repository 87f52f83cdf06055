"""Causal language models and their tokenizers: folders, GGUF files, packages, the Hub."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
)

from cmc_runtime.errors import ContextError, ModelError
from pm_mined import Vocabulary, load_vocabulary
from pm_mined.tokenizer.hub import download_tokenizer
from pm_mined.tokenizer.places import HubRepo

from .carried import carried_config, carried_folder
from .ends import ending_tokens
from .gguf_files import check_gguf_packages, make_plain, reading_once, unpacked
from .kept_models import is_converted
from .locate import download_model, locate_model
from .model_folder import check_folder, check_model
from .placement import DeviceMap, main_device
from .saved_tokenizer import read_saved_tokenizer
from .torch_errors import one_line_errors, quiet


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model, ready to be run, and its tokenizer.

    Attributes:
        model: In eval mode; its parameters need no gradients.
        tokenizer: As transformers reads it.
        spec: Where they come from; `pm_mined.load_vocabulary` and `build_map` take it.

    >>> user = load_model("smollm2-135m")  # doctest: +SKIP
    >>> user.num_logits, user.spec.name  # doctest: +SKIP
    (49152, 'SmolLM2-135M-Instruct.Q4_1.gguf')
    """

    model: PreTrainedModel
    tokenizer: Any
    spec: str | Path

    @property
    def num_logits(self) -> int:
        """The width of the model's logits; often larger than its vocabulary."""
        return num_logits_of(self.model)

    @property
    def device(self) -> torch.device:
        """The device on which the model takes ids and returns logits."""
        return main_device(self.model)

    @property
    def ends(self) -> list[int]:
        """The ids of the tokens that end a text; all of them, or none where none is known."""
        config: Any = self.model.generation_config
        named = ending_tokens(config.eos_token_id, self.tokenizer)
        return [token_id for token_id in named if 0 <= token_id < self.num_logits]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """That of the tokenizer.

        Raises:
            VocabularyError: the tokenizer cannot be read.
        """
        return load_vocabulary(self.tokenizer)

    def save(self, folder: Path) -> None:
        """Write the model, and its tokenizer; an adapter's is its base model's."""
        with quiet():
            self.model.save_pretrained(folder)
            if isinstance(self.model, PreTrainedModel):
                self.tokenizer.save_pretrained(folder)

    def check_ids(self, ids: Iterable[int]) -> None:
        """Refuse ids that its tokenizer gives and the model does not have.

        Raises:
            ContextError: there is one.
        """
        highest = max(ids, default=0)
        if highest >= self.num_logits:
            raise ContextError(
                f"{self.spec}: its tokenizer gives the id {highest}, but the model has "
                f"{self.num_logits}: they do not belong together"
            )


def load_model(
    spec: str | PathLike[str],
    *,
    device: torch.device | str | None = None,
    device_map: DeviceMap | None = None,
    dtype: torch.dtype | None = None,
    note: Callable[[str], object] = lambda _: None,
) -> LoadedModel:
    """Load a model of a folder, a `.gguf` file, a package or the Hub (`owner/name@revision`).

    Weights are read from safetensors or GGUF, never from pickles; code that comes with a model is
    never run. A GGUF model is converted once, and kept in the user's cache.

    Args:
        spec: A local folder or file goes before a repository of that name. Packages ship
            `smollm2-135m` and `gemma3-270m`.
        device: By default the GPU, where there is one.
        device_map: Spread it instead over all GPUs, main memory and disk, as transformers does:
            `auto`, or a place for each part.
        dtype: By default that of the weights; float32 for GGUF.
        note: Told, in a line, why a GGUF model is not kept, if it is not.

    Raises:
        ModelError: there is no such model, or it cannot be loaded.
        PackageError: the package with the model is not installed.
        VocabularyError: the Hub does not give the repository.

    >>> load_model("smollm2-135m", device="cpu").num_logits  # doctest: +SKIP
    49152
    """
    if device is not None and device_map is not None:
        raise ModelError(f"{spec}: give a device, or a device map to spread it: one of them")
    with one_line_errors(spec):
        device = _usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        place = locate_model(spec)
        path = download_model(place) if isinstance(place, HubRepo) else place
        notes: list[str] = []
        with quiet():  # notes come after it
            model, tokenizer = _load(path, spec, dtype, device_map, notes.append)
            if device_map is None:
                model.to(device)
            if path.is_dir():  # that of a GGUF file was checked when it was converted
                check_model(model, spec)
        for one in notes:
            note(one)
    return LoadedModel(model, tokenizer, str(place) if isinstance(place, HubRepo) else path)


def load_tokenizer(spec: str | PathLike[str]) -> Any:
    """The tokenizer of a model, as transformers reads it; nothing else of the model is needed.

    Raises:
        ModelError: there is no such model, or transformers cannot read its tokenizer.
        PackageError, VocabularyError: as `load_model` says.
    """
    with one_line_errors(spec), quiet():
        place = locate_model(spec)
        path = download_tokenizer(place) if isinstance(place, HubRepo) else place
        return _read_tokenizer(_converted(path) if path.is_file() else path, spec)


def _load(
    path: Path,
    spec: str | PathLike[str],
    dtype: torch.dtype | None,
    device_map: DeviceMap | None,
    note: Callable[[str], object],
) -> tuple[Any, Any]:
    read = partial(_read, spec, device_map)
    if path.is_file():
        check_gguf_packages(path)
        from .gguf_cache import load_gguf

        loaded = load_gguf(path, dtype or torch.float32, read, note)
        if device_map is not None and _converted(path) == path:
            raise ModelError(
                f"{path}: a GGUF model that is not kept cannot be spread: make a folder of it by "
                "`cmc-runtime convert`"
            )
        return loaded
    check_folder(path)
    return read(path, dtype)


def _converted(path: Path) -> Path:
    """The folder to which a GGUF file was converted, or else the file itself."""
    check_gguf_packages(path)
    from .gguf_cache import find_converted

    try:
        return find_converted(path) or path
    except OSError:  # there is no cache to look into
        return path


def _read(
    spec: str | PathLike[str],
    device_map: DeviceMap | None,
    path: Path,
    dtype: torch.dtype | None,
) -> tuple[Any, Any]:
    """The model and the tokenizer of a folder, or of a GGUF file itself."""
    if not path.is_file():
        return _load_weights(spec, dtype, path, device_map), _read_tokenizer(path, spec)
    with reading_once(), carried_folder(path) as carried:
        model = _load_weights(spec, dtype, path, None, carried)  # to be converted, it is in one
        tokenizer = _read_tokenizer(path, spec)
    check_model(model, spec)
    return model, tokenizer


def _read_tokenizer(path: Path, spec: str | PathLike[str]) -> Any:
    tokenizer = _tokenizer_of_file(path) if path.is_file() else _tokenizer_of_folder(path)
    tokenizer.name_or_path = str(spec)  # of a GGUF file, it would be the folder
    return tokenizer


def _tokenizer_of_folder(path: Path) -> Any:
    if is_converted(path):
        return read_saved_tokenizer(path)
    return AutoTokenizer.from_pretrained(**_options(path))


def _tokenizer_of_file(path: Path) -> Any:
    with carried_folder(path) as carried:
        if carried is not None:
            return read_saved_tokenizer(carried)
    return AutoTokenizer.from_pretrained(**_options(path))


def num_logits_of(model: Any) -> int:  # transformers is typed in part only
    """The width of a causal language model's logits, padding included."""
    return int(model.get_output_embeddings().out_features)


def cache_keyword(model: Any) -> str:
    """The argument of the model's forward that takes its cache of keys and values.

    transformers 5.24 calls it `cache`; earlier versions, and code written for them, call it
    `past_key_values`.
    """
    is_new = "cache" in inspect.signature(model.forward).parameters
    return "cache" if is_new else "past_key_values"


def enable_checkpointing(model: Any, options: Mapping[str, Any]) -> None:
    """Let a model make activations again in backward, to save memory.

    transformers 5.24 calls it activation checkpointing, earlier versions gradient checkpointing.
    """
    old_name = "gradient_checkpointing_enable"
    enable = getattr(model, "activation_checkpointing_enable", None) or getattr(model, old_name)
    enable(options)


def _usable(device: torch.device | str) -> torch.device | str:
    """The device, if torch can use it."""
    try:
        empty = torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # what torch raises without such a device
        raise ModelError(f"device {device}: {str(error).splitlines()[0]}") from error
    if empty.is_meta:
        raise ModelError(f"device {device}: it holds no data")
    return device


def _load_weights(
    spec: str | PathLike[str],
    dtype: torch.dtype | None,
    path: Path,
    device_map: DeviceMap | None,
    carried: Path | None = None,
) -> Any:
    """The model of a folder or a GGUF file, whose configurations `carried` has, if it is given."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        **_options(path),
        **carried_config(carried),
        **unpacked(path),
        dtype=dtype or "auto",
        device_map=device_map,
        use_safetensors=True,
        output_loading_info=True,
    )
    model, report = loaded
    make_plain(model)
    if missing := sorted(report["missing_keys"]):  # transformers would make them up
        raise ModelError(f"{spec}: it lacks {len(missing)} of its weights, such as {missing[0]}")
    if carried is not None:
        model.generation_config = GenerationConfig.from_pretrained(carried)
    return model.eval().requires_grad_(False)


def _options(path: Path) -> dict[str, Any]:
    """Arguments by which transformers reads a folder or GGUF file, and runs none of its code."""
    if not path.is_file():
        return {"pretrained_model_name_or_path": path, "trust_remote_code": False}
    return {
        "pretrained_model_name_or_path": path.parent,
        "gguf_file": path.name,
        "trust_remote_code": False,
    }
