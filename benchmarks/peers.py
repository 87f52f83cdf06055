"""Other libraries with the same results: RapidFuzz for `mined`, transformers for `exact`."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from pm_mined.bench import all_threads
from pm_mined.kernels.tokens import Kind, PackedTokens, Unit, symbols_of
from pm_mined.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Ids = NDArray[np.int64]

MATRIX_BYTES = 80_000_000  # of distances at a time


def candidate_ids(tokens: PackedTokens, unit: Unit) -> Ids:
    """The tokens that edit distance compares."""
    return np.flatnonzero(tokens.kinds <= (Kind.FRAGMENT if unit == "byte" else Kind.TEXT))


def nearest_by_rapidfuzz(
    queries: PackedTokens, dst: PackedTokens, unit: Unit
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """int32 [queries]: the nearest token of `dst` and its distance, by all distances.

    The matrix is made some rows at a time, in the smallest type that holds every distance.
    """
    ids = candidate_ids(dst, unit)
    choices = [symbols_of(token, unit) for token in dst.take(ids).tolist()]
    words = [symbols_of(token, unit) for token in queries.tolist()]
    longest = max(map(len, [*choices, *words]), default=0)
    dtype = np.uint8 if longest < 256 else np.uint16
    rows = max(MATRIX_BYTES // (len(ids) * np.dtype(dtype).itemsize), 1)
    found = [np.zeros((2, 0), np.int64)]
    for start in range(0, len(words), rows):
        matrix = process.cdist(
            words[start : start + rows],
            choices,
            scorer=Levenshtein.distance,
            dtype=dtype,
            workers=all_threads(),
        )
        best = matrix.argmin(axis=1)  # the first of equals, and `ids` ascend
        found.append(np.stack([ids[best], matrix[np.arange(len(best)), best]]))
    dst_id, distance = np.concatenate(found, axis=1).astype(np.int32)
    return dst_id, distance


def has_transformers() -> bool:
    """True if transformers and torch can be imported."""
    return all(find_spec(name) is not None for name in ("torch", "transformers"))


def exact_by_transformers(
    src: Vocabulary, dst: Vocabulary
) -> tuple[Callable[[], list[int]], list[int]]:
    """The exact map of assisted generation: what makes it, and the source ids that it maps.

    Two tokenizers are made of the text tokens, both with a space for a space; the translator
    reads their vocabularies and nothing else. It gives each source id a destination id, or -1;
    where tokens have the same bytes, only the lowest id is in a tokenizer.
    """
    from transformers.generation.candidate_generator import AssistantToTargetTranslator

    assistant, target = map(_tokenizer_of, (src, dst))

    def translate() -> list[int]:
        made = AssistantToTargetTranslator(target, assistant, len(dst))
        ids: list[int] = made._assistant_to_target_input_ids.tolist()
        return ids

    return translate, list(assistant.get_vocab().values())


def _tokenizer_of(vocabulary: Vocabulary) -> "PreTrainedTokenizerFast":
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    ids: dict[str, int] = {}
    for token_id in vocabulary.ids_of_kind(Kind.TEXT):
        ids.setdefault(vocabulary[token_id].decode(), token_id)
    tokenizer = Tokenizer(models.BPE(ids, []))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)  # type: ignore[no-untyped-call]
