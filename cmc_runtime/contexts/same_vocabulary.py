"""The context of a delta model that has the user model's own vocabulary: the very same tokens.

Such a delta model needs no re-encoding and should have none. A model may write a text in other
tokens than its tokenizer would, and a `ReencodedContext` holds bytes back until they are a
character: even where a tokenizer encoded the text, the contexts of up to a tenth of the places
would not be the tokens that the user model reads.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pm_mined import Kind, Vocabulary

from .context import Change, Context


def is_same_vocabulary(src: Vocabulary, dst: Vocabulary, dst_id: NDArray[np.integer[Any]]) -> bool:
    """Decide if the delta model `dst` can read the user model's tokens (`src`) as they are.

    `dst_id` (int [at least user tokens], -1 where unmapped) is the map's. A special token that it
    maps elsewhere, or to nothing, is to be read as the map says: then the answer is no.
    """
    special = np.array(src.ids_of_kind(Kind.SPECIAL), np.int64)
    return src.fingerprint == dst.fingerprint and bool((dst_id[special] == special).all())


class SameVocabularyContext(Context):
    """The ids of a request: its prompt, then what the user model has written.

    Args:
        num_tokens: The size of the vocabulary; ids beyond it are padding and add nothing.
        prompt_ids: The prompt.
        ends: What tokens that end a text are read as; -1 is nothing. All others are read as they
            are.
    """

    def __init__(
        self,
        num_tokens: int,
        prompt_ids: Sequence[int],
        ends: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self.ids = [int(token_id) for token_id in prompt_ids]
        self._ends = ends
        self._num_tokens = num_tokens

    def copy(self) -> Self:
        """See `Context`."""
        other = copy(self)
        other.ids = self.ids.copy()
        return other

    def append(self, src_id: int) -> Change:
        """See `Context`."""
        if src_id < 0:
            raise IndexError(f"token id {src_id} is negative")
        read = int(self._ends.get(src_id, src_id))
        adds = src_id < self._num_tokens and read >= 0
        change = Change(len(self.ids), [read] if adds else [])
        self.ids += change.new_ids
        return change
