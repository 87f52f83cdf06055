"""Prompt templates: the text around a prompt that a model was trained on, or its chat template.

A prompt template is given, never guessed: a model answers much worse in one that it does not know.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

from pm_mined import OptionError
from pm_mined.tokenizer.errors_of_libraries import library_errors

from .chat_template import render_chat

PLAIN = "{prompt}"
CHAT = "chat"
_AS_TEXT = r"give the prompt template as text, such as 'Question: {prompt}\nAnswer:'"
_BETWEEN = "\n\n"  # an answer and the next prompt, where no chat template says it


@dataclass(frozen=True)
class Conversation:
    """A prompt that follows others and their answers.

    Attributes:
        prompt: What is to be answered.
        before: The prompts before it, each with its answer.

    >>> Conversation("And Persuasion?", (("Who wrote Emma?", "Jane Austen."),)).prompt
    'And Persuasion?'
    """

    prompt: str
    before: tuple[tuple[str, str], ...] = ()


Text: TypeAlias = str | Conversation
"""A prompt, alone or after others."""


def check_prompt_template(prompt_template: str) -> None:
    """Refuse an invalid prompt template.

    Raises:
        OptionError: it is neither `chat` nor a text with `{prompt}` in one place, and perhaps
            `{response}` at its end; it is not UTF-8.
    """
    _check_text(prompt_template, "the prompt template")
    head, _, rest = prompt_template.partition("{response}")
    if prompt_template != CHAT and (head.count("{prompt}") != 1 or rest):
        raise OptionError(
            f"the prompt template is {prompt_template!r}; expected `chat`, or a text with "
            "{prompt} in one place and perhaps {response} at its end, such as "
            r"'Question: {prompt}\nAnswer:'"
        )


def response_lead(prompt_template: str) -> str:
    r"""The spaces that a response begins with.

    Spaces right before `{response}` are the response's: models write them as a part of its first
    word. Without `{response}`, and in a chat, there are none.

    >>> response_lead("Question: {prompt}\nAnswer: {response}")
    ' '
    """
    head, response, _ = prompt_template.partition("{response}")
    return head[len(head.rstrip(" ")) :] if response else ""


def encode_prompt(tokenizer: Any, prompt: Text, prompt_template: str = PLAIN) -> list[int]:
    """The ids that a model reads before it answers.

    With `chat`, the prompt is the user's message in the tokenizer's own chat template, and the
    assistant's turn begins. Any other template is text with `{prompt}` in it; the tokenizer adds
    the special tokens that it puts around a text. Special tokens written in the prompt are taken
    for special tokens, as transformers does. In a conversation, each earlier prompt is put into the
    template likewise, and its answer stands behind it.

    Args:
        tokenizer: One of transformers.
        prompt: May be empty where the template, or the tokenizer, adds something.
        prompt_template: `chat`, or a text with `{prompt}` in one place, and perhaps `{response}`
            at its end.

    Raises:
        OptionError: the prompt template is invalid, there is nothing to read at all, or the text
            is not UTF-8.
        VocabularyError: the chat template fails, or the tokenizer does.
    """
    check_prompt_template(prompt_template)
    told = prompt if isinstance(prompt, Conversation) else Conversation(prompt)
    _check_text(told.prompt, "the prompt")
    is_chat = prompt_template == CHAT
    ids = _chat(tokenizer, told) if is_chat else _text(tokenizer, told, prompt_template)
    if not ids:
        raise OptionError("the prompt is empty, and nothing is put before it: write something")
    return ids


def _check_text(text: str, what: str) -> None:
    """Refuse lone surrogates: Python puts them for bytes of the command line that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OptionError(f"{what} is not UTF-8, at character {error.start + 1}") from error


def _chat(tokenizer: Any, told: Conversation) -> list[int]:
    if not getattr(tokenizer, "chat_template", None):
        raise OptionError(f"{_name(tokenizer)} has no chat template; {_AS_TEXT}")
    turns = [
        (role, text)
        for exchange in told.before
        for role, text in zip(("user", "assistant"), exchange, strict=True)
    ]
    messages = [{"role": role, "content": text} for role, text in (*turns, ("user", told.prompt))]
    with library_errors(f"{_name(tokenizer)}: its chat template fails; {_AS_TEXT}"):
        rendered = render_chat(tokenizer, messages, add_generation_prompt=True)
    # The template has written every special token itself.
    return _encode(tokenizer, rendered, add_special_tokens=False)


def _text(tokenizer: Any, told: Conversation, prompt_template: str) -> list[int]:
    head, response, _ = prompt_template.partition("{response}")
    lead = head.rstrip(" ") if response else head
    exchanges = [lead.replace("{prompt}", prompt) + answer for prompt, answer in told.before]
    last = lead.replace("{prompt}", told.prompt)
    return _encode(tokenizer, _BETWEEN.join([*exchanges, last]))


def _encode(tokenizer: Any, text: str, **options: Any) -> list[int]:
    with library_errors(f"{_name(tokenizer)}: its tokenizer cannot encode the prompt"):
        return list(tokenizer(text, **options)["input_ids"])


def _name(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "name_or_path", None) or "the tokenizer")
