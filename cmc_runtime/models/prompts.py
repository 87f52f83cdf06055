"""Prompts in the form that a model was trained on: as they are, within a text, or as a chat.

Which form is said, never guessed: a model answers much worse in a form that it does not know.
"""

from typing import Any

from pm_mined import OptionError

PLAIN = "{prompt}"
CHAT = "chat"


def check_form(form: str) -> None:
    """Refuse what is no form of prompts.

    Raises:
        OptionError: it is neither `chat` nor a text with `{prompt}` in one place, and perhaps
            `{response}` at its end; it is not UTF-8.
    """
    _check_text(form, "the form of prompts")
    head, _, rest = form.partition("{response}")
    if form != CHAT and (head.count("{prompt}") != 1 or rest):
        raise OptionError(
            f"the form of prompts is {form!r}; expected `chat`, or a text with {{prompt}} in one "
            r"place and perhaps {response} at its end, such as 'Question: {prompt}\nAnswer:'"
        )


def response_lead(form: str) -> str:
    r"""The spaces that a response begins with.

    Spaces right before `{response}` are the response's: models write them as a part of its first
    word. Without `{response}`, and in a chat, there are none.

    >>> response_lead("Question: {prompt}\nAnswer: {response}")
    ' '
    """
    head, response, _ = form.partition("{response}")
    return head[len(head.rstrip(" ")) :] if response else ""


def encode_prompt(tokenizer: Any, prompt: str, form: str = PLAIN) -> list[int]:
    """The ids that a model reads before it answers.

    With `chat`, the prompt is the user's message in the tokenizer's own chat template, and the
    assistant's turn begins. Any other form is text with `{prompt}` in it; the tokenizer adds
    the special tokens that it puts around a text. Special tokens written in the prompt are taken
    for special tokens, as transformers does.

    Args:
        tokenizer: One of transformers.
        prompt: May be empty where the form, or the tokenizer, adds something.
        form: `chat`, or a text with `{prompt}` in one place, and perhaps `{response}` at its
            end.

    Raises:
        OptionError: there is no such form, nothing to read at all, or text that is not UTF-8.
    """
    check_form(form)
    _check_text(prompt, "the prompt")
    ids = _chat(tokenizer, prompt) if form == CHAT else _text(tokenizer, prompt, form)
    if not ids:
        raise OptionError("the prompt is empty, and nothing is put before it: write something")
    return ids


def _check_text(text: str, what: str) -> None:
    """Refuse lone surrogates: Python puts them for bytes of the command line that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OptionError(f"{what} is not UTF-8, at character {error.start + 1}") from error


def _chat(tokenizer: Any, prompt: str) -> list[int]:
    if not getattr(tokenizer, "chat_template", None):
        raise OptionError(
            f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template; give the form of "
            r"its prompts as text, such as 'Question: {prompt}\nAnswer:'"
        )
    message = {"role": "user", "content": prompt}
    rendered: str = tokenizer.apply_chat_template(
        [message], add_generation_prompt=True, tokenize=False
    )
    # The template has written every special token itself.
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def _text(tokenizer: Any, prompt: str, form: str) -> list[int]:
    head, response, _ = form.partition("{response}")
    before = head.rstrip(" ") if response else head
    return list(tokenizer(before.replace("{prompt}", prompt))["input_ids"])
