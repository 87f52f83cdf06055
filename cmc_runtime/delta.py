"""A delta model made ready to steer one user model: two lines around `model.generate`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import torch
from transformers import PreTrainedModel

from pm_mined import TokenMap, Vocabulary, parse_encoder

from .contexts.reencoded import ContextTables
from .contexts.same_vocabulary import Context, SameVocabularyContext, is_same_vocabulary
from .delta_card import FILE as CARD_FILE
from .delta_card import Card, read_card
from .engines.transformers import SteeringProcessor
from .errors import CardError
from .fusion.arguments import Unmapped
from .maps.choose import Note, choose_map
from .maps.tensors import (
    MapTensors,
    identity_map_tensors,
    load_map_tensors,
    vocabulary_of_tokenizer,
)
from .models.load import LoadedModel, load_model, num_logits_of
from .models.prompts import check_form, encode_prompt
from .steering.cached_model import CachedModel
from .steering.requests import DeltaStream
from .steering.ways import FixedSteering, Steer

NewContext: TypeAlias = Callable[[Sequence[int]], Context]


@dataclass(frozen=True, eq=False)
class Delta:
    """A delta model for one user model; make one with `load_delta`.

    Attributes:
        loaded: The delta model and its tokenizer.
        tensors: The map from the user model's tokens.
        token_map: The same with the rules that decided; None where no map is needed.
        new_context: Makes the delta model's context of a prompt, to which what the user model
            writes is appended.
        form: The form in which the delta model reads prompts: see `encode_prompt`.
        alpha: The strength that it was trained with, or 1.
        unmapped: What unmapped tokens read in its training, or `zero`.
        window: How many ids the delta model reads at most; of a longer context, the last ones.
    """

    loaded: LoadedModel
    tensors: MapTensors
    token_map: TokenMap | None
    new_context: NewContext
    form: str
    alpha: float
    unmapped: Unmapped
    window: int | None

    def context(self, prompt: str) -> Context:
        """The delta model's context of a prompt, to which the user model's tokens are appended."""
        return self.new_context(encode_prompt(self.loaded.tokenizer, prompt, self.form))

    def stream(self, prompts: Sequence[str]) -> DeltaStream:
        """Delta logits for what the user model writes after these prompts."""
        ids = [self.context(prompt).ids for prompt in prompts]
        model = CachedModel(self.loaded.model, self.tensors.num_dst_logits, window=self.window)
        return DeltaStream(model, self.new_context, ids)

    def steer(self, alpha: float | None = None, unmapped: Unmapped | None = None) -> Steer:
        """Steering by `alpha` times this delta model, for `cmc_runtime.generate`."""
        strength = self.alpha if alpha is None else alpha
        policy = self.unmapped if unmapped is None else unmapped
        return lambda prompts: [FixedSteering(self.stream(prompts), self.tensors, strength, policy)]

    def processor(
        self,
        input_ids: torch.Tensor,
        prompts: Sequence[str],
        alpha: float | None = None,
        unmapped: Unmapped | None = None,
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
    form: str | None = None,
    window: int | None = None,
    dtype: torch.dtype | None = None,
    note: Note = lambda _: None,
) -> Delta:
    """Load a delta model and make it ready to steer `model`, whose tokenizer is `tokenizer`.

    Args:
        spec: A folder, a Hub repository or a `.gguf` file: see `load_model`; or a loaded model.
        model: The user model; the delta model goes to its device.
        tokenizer: A fast tokenizer of transformers.
        token_map: A map from the user model's tokens to the delta model's, its file, or the
            strategy to build one by: see `build_map`. Without one, the one map that fits in the
            delta model's folder, or in the current one, is used, or one is built by PM-MinED.
            The same vocabulary needs none.
        form: The form of the delta model's prompts: see `encode_prompt`. If not given, that
            which its card says (see `Card`), or the prompt as it is.
        window: How many ids the delta model reads at most; its position limit if not given.
        dtype: The delta model's; that of its files if not given.
        note: Told, in a line, which map is used where none was given.

    Raises:
        ModelError: there is no such model, or it cannot be loaded.
        VocabularyError: a tokenizer cannot be read, or the map is of other ones.
        MapFileError, OptionError: the map cannot be read, or does not fit; there is no such
            form or window; several maps fit.
        ContextError: the model keeps other states than keys and values.
        CardError: the delta model's card is damaged, or of another vocabulary.
    """
    if form is not None:
        check_form(form)
    loaded = (
        spec
        if isinstance(spec, LoadedModel)
        else load_model(spec, device=model.device, dtype=dtype)
    )
    src, dst = (vocabulary_of_tokenizer(one) for one in (tokenizer, loaded.tokenizer))
    card = _card(loaded.spec, dst)
    widths = {"num_src_logits": num_logits_of(model), "num_dst_logits": loaded.num_logits}
    chosen = choose_map(token_map, src, dst, (Path(), Path(loaded.spec)), note)
    if chosen is None:
        tensors = identity_map_tensors(**widths, device=model.device)
        new_context: NewContext = partial(SameVocabularyContext, len(dst))
    else:
        tensors = load_map_tensors(chosen, device=model.device, **widths, src=src, dst=dst)
        new_context = _new_context(src, dst, chosen, loaded.tokenizer)
    limit = CachedModel(loaded.model, window=window).max_length
    return Delta(
        loaded,
        tensors,
        chosen,
        new_context,
        form=card.prompt_form if form is None else form,
        alpha=card.alpha,
        unmapped=card.unmapped,
        window=limit,
    )


def _card(spec: str | PathLike[str], vocabulary: Vocabulary) -> Card:
    """The card of a delta model's folder, or one that says nothing."""
    card = read_card(Path(spec)) or Card(vocabulary.fingerprint)
    if card.fingerprint != vocabulary.fingerprint:
        raise CardError(
            f"{spec}: its {CARD_FILE} is of a delta model with another vocabulary than the "
            "tokenizer beside it"
        )
    return card


def _new_context(
    src: Vocabulary, dst: Vocabulary, token_map: TokenMap, tokenizer: Any
) -> NewContext:
    if is_same_vocabulary(src, dst, token_map.dst_id):
        return partial(SameVocabularyContext, len(dst))
    encode = parse_encoder(tokenizer.backend_tokenizer.to_str(), dst.name, inside=True)
    return ContextTables.of(src, dst, token_map.dst_id, encode).begin
