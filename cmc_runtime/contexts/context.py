"""The interface of contexts: the ids that a delta model reads for one request."""

from typing import NamedTuple, Protocol, Self


class Change(NamedTuple):
    """The change that a token makes: from position `keep` on, the ids are now `new_ids`."""

    keep: int
    new_ids: list[int]


class Context(Protocol):
    """A prompt in the delta model's ids, and behind it what the user model has written."""

    ids: list[int]
    """The context so far: one list, changed in place by `append`."""

    def append(self, src_id: int) -> Change:
        """Add a token of the user model; one beyond its vocabulary is padding and adds nothing.

        Raises:
            IndexError: the id is negative.
        """

    def copy(self) -> Self:
        """Another context with the same past, to go on from there on its own."""
