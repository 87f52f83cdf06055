"""Conversations with a user model, steered and left alone, turn by turn."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from cmc_runtime.delta import Delta
from cmc_runtime.models.load import LoadedModel
from cmc_runtime.models.prompts import PLAIN, Conversation

from .generate import Sampling, generate
from .token_text import TokenText

OnText: TypeAlias = Callable[[int, str], object]
"""Told the number of a side and what it writes, as it comes; nothing more after an empty text."""


class Chat:
    """A conversation, which every side continues by its own answers.

    All sides answer at once, as the rows of one batch.

    Args:
        user: The model that answers.
        delta: The delta that steers it; None leaves it alone.
        alone: Let the model answer without the delta, too.
        alpha: How strongly to steer; as strongly as the delta says if not given.
        prompt_template: That of the user model: see `encode_prompt`.
        sampling: Without it, 128 tokens, the likeliest each time.

    Attributes:
        alpha: May be changed from turn to turn; None where nothing is steered.

    >>> chat = Chat(user, delta, prompt_template="chat")  # doctest: +SKIP
    >>> chat.answer("Who wrote Emma?", lambda side, text: print(text, end=""))  # doctest: +SKIP
    ['Jane Austen.', 'It was Austen.']
    """

    def __init__(
        self,
        user: LoadedModel,
        delta: Delta | None = None,
        *,
        alone: bool = True,
        alpha: float | None = None,
        prompt_template: str = PLAIN,
        sampling: Sampling | None = None,
    ) -> None:
        own = None if delta is None else delta.alpha
        self.alpha = own if own is None or alpha is None else alpha
        self._is_steered = [True] * (delta is not None) + [False] * (alone or delta is None)
        self._user, self._delta, self._template = user, delta, prompt_template
        self._sampling = sampling or Sampling()
        self.reset()

    def reset(self) -> None:
        """Forget all that was said."""
        self._before: list[tuple[tuple[str, str], ...]] = [() for _ in self._is_steered]

    @property
    def titles(self) -> list[str]:
        """The sides, in their order."""
        return [f"steered ({self.alpha:g})" if one else "plain" for one in self._is_steered]

    def answer(self, prompt: str, on_text: OnText = lambda *_: None) -> list[str]:
        """Answer a prompt, and remember both.

        Where Ctrl-C stops it, what is written so far is the answer. After an error, the turn never
        was.

        Raises:
            OptionError, VocabularyError, ModelError, ContextError: as `generate`.
        """
        writing = _Writing(self._user, len(self._before), on_text)
        completions = generate(
            self._user,
            [Conversation(prompt, before) for before in self._before],
            self._delta,
            alpha=[(self.alpha or 0.0) if one else 0.0 for one in self._is_steered],
            prompt_template=self._template,
            sampling=self._sampling,
            batch_size=len(self._before),
            on_step=writing.step,
        )
        try:
            deque(completions, maxlen=0)
        except KeyboardInterrupt:
            self._remember(prompt, writing.texts)
            raise
        writing.end()
        self._remember(prompt, writing.texts)
        return writing.texts

    def _remember(self, prompt: str, answers: Sequence[str]) -> None:
        told = zip(self._before, answers, strict=True)
        self._before = [(*before, (prompt, answer)) for before, answer in told]


class _Writing:
    """The texts of the sides of one turn, as they come."""

    def __init__(self, user: LoadedModel, sides: int, on_text: OnText) -> None:
        self.texts = [""] * sides
        self._coming: list[TokenText | None] = [TokenText(user.vocabulary) for _ in range(sides)]
        self._ends, self._on_text = user.ends, on_text

    def step(self, token_ids: Sequence[int]) -> None:
        """Take a token of each side; padding where a side has ended."""
        for side, token_id in enumerate(token_ids):
            coming = self._coming[side]
            if coming is None:
                continue
            if token_id in self._ends:
                self._end(side, coming)
            elif text := coming.append([token_id]):
                self._add(side, text)

    def end(self) -> None:
        """End the sides that did not end by themselves."""
        for side, coming in enumerate(self._coming):
            if coming is not None:
                self._end(side, coming)

    def _end(self, side: int, coming: TokenText) -> None:
        if text := coming.end():
            self._add(side, text)
        self._coming[side] = None
        self._on_text(side, "")

    def _add(self, side: int, text: str) -> None:
        self.texts[side] += text
        self._on_text(side, text)
