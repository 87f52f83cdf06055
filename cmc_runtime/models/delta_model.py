"""Small models that steer others: causal language models, and adapters of one."""

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from cmc_runtime.errors import ModelError
from pm_mined import PmMinedError
from pm_mined.tokenizer.hub import download
from pm_mined.tokenizer.places import HubRepo

from .difference import DifferenceModel
from .load import LoadedModel, load_model, load_tokenizer
from .locate import DELTA_FILES, download_model, locate_model
from .lora import CONFIG, WEIGHTS, is_adapter, read_adapter, read_config
from .torch_errors import one_line_errors

_TOKENIZER = "tokenizer_config.json"
_FILES = [CONFIG, WEIGHTS, "*token*", "*.jinja", *DELTA_FILES]


def load_delta_model(
    spec: str | PathLike[str],
    *,
    base: str | PathLike[str] | LoadedModel | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    note: Callable[[str], object] = lambda _: None,
) -> LoadedModel:
    """Load a small model: as `load_model`, or a PEFT adapter as a `DifferenceModel`.

    An adapter needs its base model, which its configuration names, and has the tokenizer in its
    folder, or else that of the base.

    Args:
        spec: See `load_model`; or the folder or Hub repository of an adapter.
        base: The base model of an adapter, or where it is; by default, as the adapter says.
        device: See `load_model`, as for the others.
        dtype: Of the weights, also of an adapter's; by default, these are as the base's.
        note: Told the base model, too.

    Raises:
        ModelError: as `load_model`; an adapter is of another kind than LoRA, or its base model is
            not known or another; there is a `base`, but no adapter.
        PackageError, VocabularyError: as `load_model`.

    >>> load_delta_model("my-adapter", base="smollm2-135m").model  # doctest: +SKIP
    DifferenceModel(...)
    """
    folder = _folder(spec)
    if not is_adapter(folder):
        if base is not None:
            raise ModelError(f"{spec}: not an adapter: it has no base model")
        loaded = load_model(folder, device=device, dtype=dtype, note=note)
        loaded.tokenizer.name_or_path = str(spec)
        return loaded
    config = read_config(folder)
    if not isinstance(base, LoadedModel):
        base = base or _base_of(spec, config)
        note(f"{spec}: an adapter of {base}")
        try:
            base = load_model(base, device=device, dtype=dtype, note=note)
        except PmMinedError as error:
            raise type(error)(
                f"{spec}: its base model cannot be loaded; give another by --adapter-base: {error}"
            ) from error
    model: Any = DifferenceModel(base.model, read_adapter(folder, base.model, dtype))
    has_tokenizer = (folder / _TOKENIZER).is_file()
    return LoadedModel(model, load_tokenizer(folder) if has_tokenizer else base.tokenizer, folder)


def _folder(spec: str | PathLike[str]) -> Path:
    """The folder, or `.gguf` file, fetched from the Hub if it is there: a card lies beside it."""
    with one_line_errors(spec):
        place = locate_model(spec)
        if not isinstance(place, HubRepo):
            return place
        is_one = is_adapter(download(place, [CONFIG]))
        return download(place, _FILES, ["*/*"]) if is_one else download_model(place)


def _base_of(spec: str | PathLike[str], config: Mapping[str, Any]) -> str:
    """The base model that an adapter names."""
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"{spec}: an adapter that does not name its base model: give it by --adapter-base"
        )
    is_on_hub = revision and not Path(base).exists()
    return f"{base}@{revision}" if is_on_hub else base
