"""The delta model's side of a batch: what the user model has written in, delta logits out."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from cmc_runtime.contexts.same_vocabulary import Context

from .cached_model import CachedModel


class Row(NamedTuple):
    """What one row of a batch has written so far."""

    prompt: int  # the number of its prompt; the beams of one prompt share it
    generated: tuple[int, ...]  # tokens of the user model


class DeltaStream:
    """Next-token logits of a delta model for rows that a user model writes.

    The delta model reads its own prompt, and then what the user model has written so far, in its
    own tokens: see context.py. Rows may come in any order, be repeated or left out: the answer
    depends on nothing but the rows.

    Args:
        model: The delta model.
        new_context: Makes the context of a row that has nothing but its prompt: `begin` of
            `ContextTables`, or a `SameVocabularyContext`.
        prompts: The delta model's ids of each prompt.
    """

    def __init__(
        self,
        model: CachedModel,
        new_context: Callable[[Sequence[int]], Context],
        prompts: Sequence[Sequence[int]],
    ) -> None:
        self._model = model
        self._new_context = new_context
        self._prompts = prompts
        self._contexts: dict[Row, Context] = {}  # of the last call

    def contexts(self, rows: Sequence[Row]) -> list[list[int]]:
        """The delta ids of each row."""
        before, self._contexts = self._contexts, {}
        for row in rows:
            if row not in self._contexts:
                self._contexts[row] = self._context(row, before)
        return [self._contexts[row].ids for row in rows]

    def logits(self, rows: Sequence[Row]) -> Tensor:
        """Float [rows, delta logits]: the delta model's next-token logits.

        Raises:
            ContextError: a context is empty, or longer than the delta model reads.
        """
        return self._model.logits(self.contexts(rows))

    def _context(self, row: Row, before: dict[Row, Context]) -> Context:
        if row in before:
            return before[row]
        parent = before.get(row._replace(generated=row.generated[:-1]))
        if parent is not None and row.generated:
            context, new = parent.copy(), row.generated[-1:]
        else:
            context, new = self._new_context(self._prompts[row.prompt]), row.generated
        for token_id in new:
            context.append(token_id)
        return context
