"""The tokens that end a text."""

from collections.abc import Sequence
from typing import Any

from pm_mined.tokenizer.errors_of_libraries import library_errors

from .chat_template import render_chat
from .prompts import CHAT

_ANSWER = "!"


def ending_tokens(eos_token_id: int | Sequence[int] | None, tokenizer: Any) -> list[int]:
    """The ids of all tokens that end a text, as a generation configuration names them.

    Where it names none (None), the tokenizer's `eos_token`, if it has one.

    >>> ending_tokens([128001, 128009], tokenizer=None)
    [128001, 128009]
    """
    if eos_token_id is None:
        eos_token_id = getattr(tokenizer, "eos_token_id", None)
    if eos_token_id is None:
        return []
    return [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)


def response_end(tokenizer: Any, ends: Sequence[int], prompt_template: str) -> int | None:
    """The one of a model's `ends` that it most likely writes after a response.

    In a chat that is the one that the chat template writes after an answer; elsewhere the
    tokenizer's `eos_token`; else the first. None if there are no ends.
    """
    if len(ends) < 2:
        return next(iter(ends), None)
    likely = [
        *(_after_answer(tokenizer) if prompt_template == CHAT else ()),
        tokenizer.eos_token_id,
    ]
    return next((token_id for token_id in likely if token_id in ends), ends[0])


def _after_answer(tokenizer: Any) -> list[int]:
    """The ids that the chat template writes after an assistant's answer."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    with library_errors(f"{tokenizer.name_or_path}: its chat template fails for an answer"):
        rendered = render_chat(tokenizer, turns)
    _, _, after = rendered.rpartition(_ANSWER)
    return list(tokenizer(after, add_special_tokens=False)["input_ids"])
