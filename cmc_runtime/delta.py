"""A delta model made ready to steer one user model: two lines around `model.generate`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, TypeAlias

import torch
from transformers import PreTrainedModel

from pm_mined import TokenMap, load_map, parse_encoder

from .cached_model import CachedModel
from .context import ContextTables
from .delta_stream import DeltaStream
from .fuse import Unmapped
from .logits_processor import SteeringProcessor
from .map_choice import Note, find_or_build_map
from .map_tensors import MapTensors, load_map_tensors, vocabulary_of_tokenizer
from .models import LoadedModel, load_model, num_logits_of
from .prompts import PLAIN, check_template, encode_prompt
from .steering import FixedSteering, Steering

Steer: TypeAlias = Callable[[Sequence[str]], Sequence[Steering]]
"""What steers the rows of these prompts, one steering after the other."""


@dataclass(frozen=True, eq=False)
class Delta:
    """A delta model for one user model; make one with `load_delta`.

    Attributes:
        loaded: The delta model and its tokenizer.
        tensors: The map from the user model's tokens.
        tables: What the user model's tokens write, for the delta model's context.
        template: The form in which the delta model reads prompts: see `encode_prompt`.
        window: How many ids the delta model reads at most; of a longer context, the last ones.
    """

    loaded: LoadedModel
    tensors: MapTensors
    tables: ContextTables
    template: str
    window: int | None

    def stream(self, prompts: Sequence[str]) -> DeltaStream:
        """Delta logits for what the user model writes after these prompts."""
        tokenizer = self.loaded.tokenizer
        ids = [encode_prompt(tokenizer, prompt, self.template) for prompt in prompts]
        model = CachedModel(self.loaded.model, self.tensors.num_dst_logits, window=self.window)
        return DeltaStream(model, self.tables, ids)

    def steer(self, alpha: float = 1.0, unmapped: Unmapped = "zero") -> Steer:
        """Steering by `alpha` times this delta model, for `cmc_runtime.generate`."""
        return lambda prompts: [FixedSteering(self.stream(prompts), self.tensors, alpha, unmapped)]

    def processor(
        self,
        input_ids: torch.Tensor,
        prompts: Sequence[str],
        alpha: float = 1.0,
        unmapped: Unmapped = "zero",
    ) -> SteeringProcessor:
        """The same for one call of `model.generate`.

        Args:
            input_ids: What `generate` gets: int64 [prompts, ids], padded on the left.
            prompts: The text of each, without the form that the user model reads it in.
            alpha: How strongly to steer.
            unmapped: What unmapped tokens read: see `fuse_logits`.
        """
        return SteeringProcessor(
            self.steer(alpha, unmapped)(prompts),
            prompt_length=input_ids.shape[1],
            prompts=len(prompts),
        )


def load_delta(
    spec: str | PathLike[str] | LoadedModel,
    model: PreTrainedModel,
    tokenizer: Any,
    *,
    token_map: str | PathLike[str] | TokenMap | None = None,
    template: str = PLAIN,
    window: int | None = None,
    dtype: torch.dtype | None = None,
    note: Note = lambda _: None,
) -> Delta:
    """Load a delta model and make it ready to steer `model`, whose tokenizer is `tokenizer`.

    Args:
        spec: A folder, a Hub repository or a `.gguf` file: see `load_model`; or a loaded model.
        model: The user model; the delta model goes to its device.
        tokenizer: A fast tokenizer of transformers.
        token_map: A map from the user model's tokens to the delta model's. Without one, none is
            needed for the same vocabulary; else the one map that fits in the delta model's
            folder, or in the current one, is used, or one is built.
        template: The form of the delta model's prompts: see `encode_prompt`.
        window: How many ids the delta model reads at most; its position limit if not given.
        dtype: The delta model's; that of its files if not given.
        note: Told, in a line, which map is used where none was given.

    Raises:
        ModelError: there is no such model, or it cannot be loaded.
        VocabularyError: a tokenizer cannot be read, or the map is of other ones.
        MapFileError, OptionError: the map cannot be read, or does not fit; there is no such
            template or window; several maps fit.
        ContextError: the model keeps other states than keys and values.
    """
    check_template(template)
    loaded = (
        spec
        if isinstance(spec, LoadedModel)
        else load_model(spec, device=model.device, dtype=dtype)
    )
    src, dst = (vocabulary_of_tokenizer(one) for one in (tokenizer, loaded.tokenizer))
    if token_map is None:
        token_map = find_or_build_map(src, dst, {".", loaded.spec}, note)
    elif not isinstance(token_map, TokenMap):
        token_map = load_map(token_map)
    tensors = load_map_tensors(
        token_map,
        device=model.device,
        num_src_logits=num_logits_of(model),
        num_dst_logits=loaded.num_logits,
        src=src,
        dst=dst,
    )
    encode = parse_encoder(loaded.tokenizer.backend_tokenizer.to_str(), dst.name, inside=True)
    tables = ContextTables.of(src, dst, token_map.dst_id, encode)
    limit = CachedModel(loaded.model, window=window).max_length
    return Delta(loaded, tensors, tables, template, limit)
