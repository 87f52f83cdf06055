"""A delta model that follows what a user model writes, and steers it; no engine is known here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pm_mined import TokenMap, Vocabulary, load_encoder, load_vocabulary

from .contexts.context import Context
from .contexts.reencoded import ContextTables
from .contexts.same_vocabulary import SameVocabularyContext, is_same_vocabulary
from .delta_card import FILE as CARD_FILE
from .delta_card import Card, Kind, read_card
from .errors import CardError
from .fusion.arguments import Unmapped, default_unmapped
from .fusion.limits import EVERYWHERE, Limits
from .maps.choose import Note, choose_map
from .maps.ends import lay_ends_over
from .maps.tensors import MapTensors, identity_map_tensors, load_map_tensors
from .maps.written import read_written
from .models.base_weights import check_base
from .models.delta_model import load_delta_model
from .models.difference import DifferenceModel
from .models.ends import ending_tokens, response_end
from .models.load import LoadedModel
from .models.prompts import PLAIN, Text, check_prompt_template, encode_prompt
from .steering.cached_model import CachedModel
from .steering.requests import FollowedText, Prompt, Request
from .steering.ways import add_delta

NewContext: TypeAlias = Callable[[Sequence[int]], Context]


@dataclass(frozen=True, eq=False)
class Delta:
    """A delta model for one user model; make one with `load_delta`.

    It is a steering: `begin` makes a request, to which the tokens that the user model writes are
    appended, and `fuse` steers the logits of the requests that are due. Engines do both.

    Attributes:
        loaded: The delta model and its tokenizer.
        tensors: The map from the user model's tokens.
        token_map: The same with the rules that decided; None where no map is needed.
        new_context: Makes the delta model's context of a prompt in its own ids.
        prompt_template: That of the delta model: see `encode_prompt`.
        alpha: The strength that it was trained with, or 1.
        unmapped: What unmapped tokens take: see `fuse_logits`.
        window: How many ids the delta model reads at most; of a longer context, the last ones.
        limits: Which rows of logits it steers, and which of their tokens.
        end: The token with which its texts end, if one is known: all that end a text for the user
            model map to it.
        written: Bool [tokens of the delta's vocabulary]: those that it has learned to write; None
            if that is not known.

    >>> load_delta("my-delta", tokenizer, num_logits=128_256)  # doctest: +SKIP
    Delta('my-delta', TokenMap(llama3 (128,256) -> qwen3 (151,669), ...), alpha 1)
    """

    loaded: LoadedModel
    tensors: MapTensors
    token_map: TokenMap | None
    new_context: NewContext
    prompt_template: str
    alpha: float
    unmapped: Unmapped
    window: int | None
    limits: Limits = EVERYWHERE
    end: int | None = None
    written: NDArray[np.bool_] | None = None

    def __repr__(self) -> str:
        how = "the same vocabulary" if self.token_map is None else repr(self.token_map)
        return f"Delta({str(self.loaded.spec)!r}, {how}, alpha {self.alpha:g})"

    def context(self, prompt: Prompt) -> Context:
        """The delta model's context of a prompt, to which the user model's tokens are appended.

        A text is put into the delta model's own prompt template. Ids of the user model are carried
        over as if they had been written, behind what the delta model's tokenizer puts before every
        text.
        """
        if isinstance(prompt, Text):
            return self.new_context(
                encode_prompt(self.loaded.tokenizer, prompt, self.prompt_template)
            )
        context = self._carried_over([], prompt)
        begin = self.loaded.tokenizer.bos_token_id
        adds_begin = self.loaded.tokenizer("")["input_ids"][:1] == [begin]
        if adds_begin and context.ids[:1] != [begin]:
            return self._carried_over([begin], prompt)
        return context

    def _carried_over(self, ids: list[int], prompt: Sequence[int]) -> Context:
        context = self.new_context(ids)
        for token_id in prompt:
            context.append(token_id)
        return context

    @property
    def kind(self) -> Kind:
        """`difference` for an adapter of a small model, else `delta`: see `Card`."""
        return kind_of(self.loaded)

    @cached_property
    def model(self) -> CachedModel:
        """The delta model with what it has cached of all requests."""
        return CachedModel(self.loaded.model, self.tensors.num_dst_logits, window=self.window)

    def begin(self, prompt: Prompt, alpha: float | None = None) -> Request:
        """A request of which nothing but the prompt is there yet.

        Args:
            prompt: Its text, or a `Conversation`, without any prompt template; or the user model's
                ids of it, where the delta has no text of its own.
            alpha: How strongly to steer it; by default `alpha` of the delta.

        Raises:
            OptionError: the text is empty, and nothing is put before it.
        """
        return Request((self.follow(prompt),), self.alpha if alpha is None else alpha)

    def follow(self, prompt: Prompt) -> FollowedText:
        """The text of a new request, for a steering by several delta models."""
        return FollowedText(self.model, self.context(prompt))

    def logits(self, texts: Sequence[FollowedText]) -> Tensor:
        """Float [texts, delta logits]: the delta model's next-token logits.

        Raises:
            ContextError: a context is empty, or there is not enough memory.
        """
        return self.model.logits([text.sequence for text in texts])

    def fuse(self, base: Tensor, requests: Sequence[Request]) -> Tensor:
        """The user model's logits with the delta's, each request by its own strength.

        Args:
            base: Floating [requests, user logits].
            requests: One for each row; with alpha 0, or behind the gate, a request costs nothing.

        Returns:
            Floating [requests, user logits]; `base` itself where no request is steered.

        Raises:
            ContextError: as `logits`.
            OptionError: `base` has another width than the delta was loaded for.
        """
        return add_delta(base, requests, self._logits_of, self)

    def _logits_of(self, requests: Sequence[Request]) -> Tensor:
        return self.logits([text for request in requests for text in request.texts])


def default_map(written: NDArray[np.bool_] | None) -> str:
    """The strategy by which a map is built where none is given or found.

    PM-MinED takes its place where a tokenizer cannot be asked.

    - `both-ways` for a delta that is known to have learned to write some tokens: of several, these
      alone are read. Two-layer deltas trained beside SmolLM2, carried to Gemma 3 270M: a JSON form
      is in 23 of 32 new texts, and in 20 by `first-token`; answers learned by heart have a ROUGE-L
      recall of 0.93, and 0.81 by `first-token`.
    - `first-token` for one of which that is not known. The largest logit of many tokens is often
      that of one which was never trained: of all tokens `both-ways` had the form in 4 of 32 texts.
    """
    return "first-token" if written is None else "both-ways"


def kind_of(loaded: LoadedModel) -> Kind:
    """`difference` for an adapter of a small model, else `delta`: see `Card`."""
    model: Any = loaded.model
    return "difference" if isinstance(model, DifferenceModel) else "delta"


def load_delta(
    spec: str | PathLike[str] | LoadedModel,
    tokenizer: Any,
    *,
    num_logits: int,
    adapter_base: str | PathLike[str] | None = None,
    ends: int | Sequence[int] | None = None,
    device: torch.device | str | None = None,
    token_map: str | PathLike[str] | TokenMap | None = None,
    prompt_template: str | None = None,
    unmapped: Unmapped | None = None,
    window: int | None = None,
    plausible: float | None = None,
    gate: float | None = None,
    dtype: torch.dtype | None = None,
    written_only: bool = True,
    note: Note = lambda _: None,
) -> Delta:
    """Load a delta model and make it ready to steer a user model, which it need not know.

    Args:
        spec: A folder, a Hub repository or a `.gguf` file: see `load_model`; a PEFT adapter of a
            small model, whose difference to that model is the delta: see `load_delta_model`; or a
            loaded model.
        tokenizer: The user model's: whatever `pm_mined.load_vocabulary` takes.
        num_logits: The width of the user model's logits, padding included.
        adapter_base: The base model of an adapter; by default the one that the adapter names.
        ends: The user model's tokens that end a text: `eos_token_id` of its generation
            configuration, or `LoadedModel.ends`. If not given, the tokenizer's `eos_token`.
            Whatever the map is, they map to the token with which the delta's texts end (see
            `Card`), but for those that an override decided.
        device: Where the user model's logits are; by default the GPU, where there is one. A
            loaded model stays where it is.
        token_map: A map from the user model's tokens to the delta model's, its file, or the
            strategy to build one by: see `build_map`. Without one, the one map that fits in the
            delta model's folder, or in the current one, is used, or one is built: see
            `default_map`. The same vocabulary needs none.
        prompt_template: That of the delta model: see `encode_prompt`. If not given, the one that
            its card says (see `Card`), or the prompt as it is.
        unmapped: What unmapped tokens take: see `fuse_logits`. If not given, as the delta's card
            says, or as `default_unmapped` does.
        window: How many ids the delta model reads at most; its position limit if not given.
        plausible: Steer only tokens of at least this share of the likeliest token's probability:
            see `Limits`. If not given, as the delta's card says, or 0, which is all of them.
        gate: Steer only where the likeliest token's probability is below this: see `Limits`.
        dtype: The delta model's; that of its files if not given.
        written_only: Whether, of several tokens of a map of which the largest logit is taken, those
            alone count that the delta has learned to write, as its card says; not in training.
        note: Told, in a line, which map is used where none was given.

    Raises:
        ModelError: there is no such model, or it cannot be loaded.
        VocabularyError: a tokenizer cannot be read, or the map is of other ones.
        MapFileError, OptionError: the map cannot be read, or does not fit; `window`, `plausible`,
            `gate` or `prompt_template` is invalid; several maps fit.
        ContextError: the model keeps other states than keys and values.
        CardError: the delta model's card is damaged, or of another vocabulary.

    >>> delta = load_delta("my-delta", tokenizer, num_logits=151_936)  # doctest: +SKIP
    >>> request = delta.begin("Name a colour.")  # doctest: +SKIP
    >>> fused = delta.fuse(logits, [request])  # doctest: +SKIP
    >>> request.append(int(fused.argmax()))  # doctest: +SKIP
    """
    if prompt_template is not None:
        check_prompt_template(prompt_template)
    if isinstance(spec, LoadedModel):
        loaded = spec
    else:
        loaded = load_delta_model(spec, base=adapter_base, device=device, dtype=dtype, note=note)
    src, dst = (load_vocabulary(one) for one in (tokenizer, loaded.tokenizer))
    card = _card(loaded, dst, prompt_template, note)
    widths = {"num_src_logits": num_logits, "num_dst_logits": loaded.num_logits}
    place = Path(loaded.spec)
    folders = Path(), place.parent if place.is_file() else place
    written = _written(loaded, card, dst)
    counted = written if written_only else None
    chosen = choose_map(token_map, src, dst, folders, note, default=default_map(counted))
    if counted is not None and chosen is not None and chosen.form == "grouped":
        count = np.count_nonzero(counted)
        note(
            f"map: of several tokens, only the {count:,} count that the delta has learned to write"
        )
    is_same = chosen is None or is_same_vocabulary(src, dst, chosen.dst_id)
    mapped: dict[int, int] = {}
    if card.end_id is not None:
        known = ending_tokens(ends, tokenizer)
        in_both = [i for i in known if 0 <= i < min(len(src), num_logits)]
        chosen, mapped = lay_ends_over(chosen, src, dst, in_both, card.end_id, note)
    if chosen is None:
        tensors = identity_map_tensors(**widths, device=loaded.device, ends=mapped)
    else:
        tensors = load_map_tensors(
            chosen, device=loaded.device, **widths, src=src, dst=dst, written=counted
        )
    return Delta(
        loaded,
        tensors,
        chosen,
        _new_context(src, dst, None if is_same else chosen, loaded.tokenizer, mapped),
        prompt_template=card.prompt_form if prompt_template is None else prompt_template,
        alpha=card.alpha,
        unmapped=unmapped or card.unmapped or default_unmapped(tensors),
        window=CachedModel(loaded.model, window=window).max_length,
        limits=Limits(
            card.plausible if plausible is None else plausible, 1.0 if gate is None else gate
        ),
        end=card.end_id,
        written=written,
    )


def _card(
    loaded: LoadedModel, vocabulary: Vocabulary, prompt_template: str | None, note: Note
) -> Card:
    """The card of a delta model, or what its other files say where that is silent."""
    card, fingerprint = read_card(Path(loaded.spec)), vocabulary.fingerprint
    check_base(loaded, card.base_weights if card else {}, note)
    own = [token_id for token_id in loaded.ends if token_id < len(vocabulary)]
    if card is None:
        form = prompt_template or PLAIN
        return Card(fingerprint, form, end_id=response_end(loaded.tokenizer, own, form))
    if card.fingerprint != fingerprint:
        whose = "its base: give the model that it was trained on by --adapter-base"
        raise CardError(
            f"{loaded.spec}: its {CARD_FILE} is of a delta model with another vocabulary than "
            f"{whose if kind_of(loaded) == 'difference' else 'the tokenizer beside it'}"
        )
    if card.end_id is None:  # before cards had it, deltas learned to end with the first
        return replace(card, end_id=next(iter(own), None))
    if card.end_id >= min(len(vocabulary), loaded.num_logits):
        raise CardError(f"{loaded.spec}: its {CARD_FILE} has end_id {card.end_id}: no such token")
    return card


def _written(loaded: LoadedModel, card: Card, vocabulary: Vocabulary) -> NDArray[np.bool_] | None:
    """The tokens that a delta model has learned to write."""
    if card.written is None:
        return None
    try:
        return read_written(card.written, len(vocabulary))
    except ValueError as error:
        raise CardError(f"{loaded.spec}: the tokens in its {CARD_FILE}: {error}") from error


def _new_context(
    src: Vocabulary,
    dst: Vocabulary,
    token_map: TokenMap | None,
    tokenizer: Any,
    ends: dict[int, int],
) -> NewContext:
    """The contexts of a map, whose `ends` have their own ids; None is the same vocabulary."""
    if token_map is None:
        return partial(SameVocabularyContext, len(dst), ends=ends)
    encode = load_encoder(tokenizer, inside=True)
    return ContextTables.of(src, dst, token_map.dst_id, encode, list(ends)).begin
