"""A model and its tokenizer as one GGUF file for llama.cpp, with all else of its folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cmc_runtime.delta_card import read_card
from cmc_runtime.errors import ModelError
from cmc_runtime.models.carried import KEYS
from cmc_runtime.models.difference import DifferenceModel
from cmc_runtime.models.load import LoadedModel
from cmc_runtime.models.new_folder import new_folder
from cmc_runtime.models.saved_tokenizer import save_tokenizer
from cmc_runtime.models.torch_errors import quiet
from pm_mined import VocabularyError
from pm_mined.tokenizer.llama_cpp_fields import llama_cpp_fields

from .architectures import Architecture, architecture_of, gguf_tensors, head_size, rope_theta

if TYPE_CHECKING:
    from gguf import GGUFWriter

_NEW = ".cmc-runtime-convert-"
_SPECIAL = ("bos", "eos", "unk", "pad")


def write_gguf(
    loaded: LoadedModel,
    output: Path,
    *,
    note: Callable[[str], object] = lambda _: None,
    progress: Callable[[int, int], object] = lambda *_: None,
) -> None:
    """Write a model as a GGUF file, with weights of its dtype; norms are in float32.

    Args:
        loaded: A delta model, with its card where it comes from a folder that has one; or another
            model of a known architecture.
        output: It is replaced as a whole, or stays as it is.
        note: Told, in a line, what llama.cpp does otherwise.
        progress: Told the number of weights that are laid out, and of all.

    Raises:
        ModelError: llama.cpp knows no such model, or no such tokenizer.
        CardError: the delta's card is damaged.
        OSError: the file cannot be written.
    """
    from gguf import GGUFWriter

    model: Any = loaded.model
    if isinstance(model, DifferenceModel):
        raise ModelError(
            f"{loaded.spec}: an adapter is a delta by the difference to its base model, and a GGUF "
            "file holds one model: take the adapter as it is"
        )
    try:
        architecture = architecture_of(model.config)
        with new_folder(output.resolve().parent, _NEW) as room:
            writer = GGUFWriter(room / "model.gguf", architecture.name)
            _describe(writer, model, str(loaded.tokenizer.name_or_path))
            _put_tokenizer(writer, loaded, note)
            _carry(writer, loaded)
            _put_weights(writer, model, architecture, progress)
            _finish(writer)
            os.replace(room / "model.gguf", output)
    except (ModelError, VocabularyError) as error:
        raise ModelError(f"{loaded.spec}: {error}") from error


def _describe(writer: "GGUFWriter", model: Any, name: str) -> None:
    from gguf import LlamaFileType

    config, size = model.config, head_size(model.config)
    types = {
        torch.float32: LlamaFileType.ALL_F32,
        torch.float16: LlamaFileType.MOSTLY_F16,
        torch.bfloat16: LlamaFileType.MOSTLY_BF16,
    }
    if model.dtype not in types:
        raise ModelError(f"weights of {model.dtype} cannot be written as GGUF: choose a dtype")
    writer.add_name(Path(name).name)
    writer.add_file_type(types[model.dtype])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(rope_theta(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "gemma3_text":
        writer.add_sliding_window(config.sliding_window)


def _put_tokenizer(
    writer: "GGUFWriter", loaded: LoadedModel, note: Callable[[str], object]
) -> None:
    tokenizer = loaded.tokenizer
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ModelError("its tokenizer is not a fast one of transformers")
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    fields = llama_cpp_fields(
        document, loaded.num_logits, unknown_id=tokenizer.unk_token_id, note=note
    )
    writer.add_tokenizer_model(fields.model)
    writer.add_tokenizer_pre(fields.more["pre"])
    writer.add_token_list(fields.tokens)
    writer.add_token_types(fields.types)
    if "merges" in fields.more:
        writer.add_token_merges(fields.more["merges"])
    if "scores" in fields.more:
        writer.add_token_scores(fields.more["scores"])
        writer.add_add_space_prefix(fields.more["add_space_prefix"])
    for name in _SPECIAL:
        token_id = getattr(tokenizer, f"{name}_token_id", None)
        if token_id is not None:
            getattr(writer, f"add_{name}_token_id")(token_id)
    _put_ends(writer, loaded)
    before, after = _put_around(tokenizer)
    writer.add_add_bos_token(before)
    writer.add_add_eos_token(after)


def _put_ends(writer: "GGUFWriter", loaded: LoadedModel) -> None:
    """Name the tokens that end a text: the tokenizer's `eos_token`, and another as end of turn."""
    eos = loaded.tokenizer.eos_token_id
    others = [token_id for token_id in loaded.ends if token_id != eos]
    if eos is None and others:
        writer.add_eos_token_id(others.pop(0))
    if others:
        writer.add_eot_token_id(others[0])


def _put_around(tokenizer: Any) -> tuple[bool, bool]:
    """True for each of `bos_token` and `eos_token` that the tokenizer puts around a text.

    Raises:
        ModelError: it puts others there.
    """
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    ids = tokenizer("a")["input_ids"]
    begin, end = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    for before in ([], begin):
        for after in ([], end):
            if ids == before + plain + after:
                return bool(before), bool(after)
    raise ModelError("its tokenizer puts other tokens around a text than its bos and eos tokens")


def _carry(writer: "GGUFWriter", loaded: LoadedModel) -> None:
    """Put the other files of the model's folder into the file."""
    with TemporaryDirectory() as name, quiet():
        folder = Path(name)
        loaded.model.config.save_pretrained(folder)
        loaded.model.generation_config.save_pretrained(folder)
        try:
            save_tokenizer(folder, loaded.tokenizer)
        except ValueError as error:
            raise ModelError(str(error)) from error
        card = read_card(Path(loaded.spec))
        if card is not None:
            card.save(folder)
        for file, key in KEYS.items():
            if (folder / file).exists():
                writer.add_string(key, (folder / file).read_text("utf-8"))


def _put_weights(
    writer: "GGUFWriter",
    model: Any,
    architecture: Architecture,
    progress: Callable[[int, int], object],
) -> None:
    total = len(model.state_dict())
    for done, (name, weight) in enumerate(gguf_tensors(model, architecture)):
        _put_weight(writer, name, weight)
        progress(done + 1, total)


def _put_weight(writer: "GGUFWriter", name: str, weight: Tensor) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    if weight.ndim == 1:
        writer.add_tensor(name, weight.float().numpy())
    elif weight.dtype == torch.bfloat16:
        kind = GGMLQuantizationType.BF16
        writer.add_tensor(name, quantize(weight.float().numpy(), kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, weight.contiguous().numpy())


def _finish(writer: "GGUFWriter") -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    for file in writer.fout or []:
        file.flush()
        os.fsync(file.fileno())
    writer.close()
