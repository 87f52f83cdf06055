"""Chat templates, rendered within bounds: they are programs that come with a model."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

_STEPS = 2_000_000  # lines of it as Python, which take a second; a long conversation has thousands
_CHARACTERS = 2**26  # of the rendered text
_FILE = "<template>"  # as Jinja calls its code


def render_chat(tokenizer: Any, messages: Sequence[Mapping[str, str]], **options: Any) -> str:
    r"""Render the chat template of a tokenizer of transformers; see `apply_chat_template`.

    Raises:
        RuntimeError: it goes on and on; besides, a template raises whatever it likes.

    >>> render_chat(tokenizer, [{"role": "user", "content": "Hi"}])  # doctest: +SKIP
    '<|im_start|>user\nHi<|im_end|>\n'
    """
    before = sys.gettrace()
    sys.settrace(_Bounds().enter)  # Jinja's own sandbox bounds each `range`, but not all together
    try:
        rendered: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    finally:
        sys.settrace(before)
    return rendered


class _Bounds:
    """Counts the steps of a template, and the characters that it writes."""

    def __init__(self) -> None:
        self._steps = self._characters = 0

    def enter(self, frame: Any, _event: str, _value: Any) -> Any:
        """Follow what happens in the template, and nothing else."""
        return self.follow if frame.f_code.co_filename == _FILE else None

    def follow(self, _frame: Any, event: str, value: Any) -> Any:
        """Count an event; Python takes `return` for what a generator yields, too."""
        self._steps += 1
        if event == "return" and isinstance(value, str):
            self._characters += len(value)
        if self._steps > _STEPS:
            raise RuntimeError(f"it does not end within {_STEPS:,} steps")
        if self._characters > _CHARACTERS:
            raise RuntimeError(f"it writes more than {_CHARACTERS:,} characters")
        return self.follow
