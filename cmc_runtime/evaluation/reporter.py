"""Reporting of how an evaluation goes, to whoever runs it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Advance = Callable[[int], object]
"""Called with how much more is done."""


class Reporter:
    """Notes and progress of an evaluation. This one is silent; a command line shows them."""

    def note(self, text: str) -> None:
        """Take a remark, such as which map is used."""

    def working(self, what: str) -> AbstractContextManager[object]:  # noqa: ARG002 - for subclasses
        """Take note of work whose length is unknown, for as long as the context lasts."""
        return nullcontext()

    def progress(self, what: str, total: int) -> AbstractContextManager[Advance]:  # noqa: ARG002 - for subclasses
        """Follow work of known length; the context gives the function that counts it."""
        return nullcontext(lambda _: None)
