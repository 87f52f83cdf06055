"""The card of a delta model: `delta.json`, beside its weights and tokenizer, or in a GGUF file."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, TypeAlias, get_args

from pm_mined.atomic_file import write_atomically

from .errors import CardError
from .fusion.arguments import Unmapped
from .fusion.limits import Limits
from .models.carried import carried_files
from .models.prompts import PLAIN, check_prompt_template

FILE = "delta.json"
_FORMAT_VERSION = 2
_READABLE = (1, 2)  # of the first, no end is known

LEARNS = "sft"
"""The objective of which a model learns the data; by all others it forgets them."""

Kind: TypeAlias = Literal["delta", "difference"]


@dataclass(frozen=True)
class Card:
    """The training of a delta model, and the settings to use it with.

    Attributes:
        fingerprint: The fingerprint of the delta model's vocabulary.
        prompt_form: Its prompt template: see `encode_prompt`.
        alpha: The strength that it was trained with, or is made for.
        plausible: The share of the likeliest token's probability below which tokens are not
            steered: see `Limits`.
        unmapped: The policy for unmapped tokens, if one was asked for in training; None if none
            was: see `default_unmapped`.
        objective: The training objective.
        kind: `delta`, a model whose logits are added; or `difference`, what tuning changed in a
            small model.
        base_weights: Of an adapter, a digest of the weights of its base: see `base_weights`.
        end_id: The token of its vocabulary that it was trained to end a text with; None if that is
            not known.
        end_token: The same as text, for the reader.
        turn_markers: The tokens of its vocabulary that begin and end turns, with their roles.
        written: The tokens of its vocabulary that it has learned to write, as `written_text` has
            them; None if that is not known.
        rows_sha256: The digest of the rows that are kept beside it, by which a strength can be
            chosen; None if none are.
        training: Everything else that made it: the frozen model, the map and the data with their
            digests, the options, the versions.
    """

    fingerprint: str
    prompt_form: str = PLAIN
    alpha: float = 1.0
    unmapped: Unmapped | None = None
    plausible: float = 0.0
    objective: str = LEARNS
    kind: Kind = "delta"
    base_weights: dict[str, str] = field(default_factory=dict)
    end_id: int | None = None
    end_token: str = ""
    turn_markers: dict[str, str] = field(default_factory=dict)
    written: str | None = None
    rows_sha256: str | None = None
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def forgets(self) -> bool:
        """True if it was trained to make a model forget."""
        return self.objective != LEARNS

    def save(self, folder: Path) -> None:
        """Write the card atomically."""
        document = {"format_version": _FORMAT_VERSION, **asdict(self)}
        text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
        write_atomically(folder / FILE, text.encode())


def read_card(place: Path) -> Card | None:
    """Read the card of a folder, or one that a GGUF file carries; None if there is none.

    Raises:
        CardError: it is damaged, or of a newer format.
        ModelError: the GGUF file is damaged.
    """
    if place.is_file():
        text = carried_files(place).get(FILE) if place.suffix == ".gguf" else None
        return None if text is None else _parsed(text, place)
    path = place / FILE
    if not path.is_file():
        return None
    try:
        return _parsed(path.read_text("utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error


def _parsed(text: str, path: Path) -> Card:
    try:
        document = json.loads(text)
        version = document.pop("format_version")
        if version in _READABLE:
            return _checked(Card(**document))
    except Exception as error:  # JSON, and the constructor, have many
        raise _damaged(path, error) from error
    found = shorten(repr(version), 50)
    raise CardError(
        f"{path}: format version {found}, but this program reads 1 to {_FORMAT_VERSION}"
    )


def _damaged(path: Path, error: Exception) -> CardError:
    reason = shorten(f"{type(error).__name__}: {error}", 200)
    return CardError(f"{path}: not the card of a delta model: {reason}")


def _checked(card: Card) -> Card:
    check_prompt_template(card.prompt_form)
    if type(card.alpha) not in (int, float) or not math.isfinite(card.alpha):
        raise ValueError(f"alpha is {card.alpha!r}")
    if card.unmapped not in (None, *get_args(Unmapped)):
        raise ValueError(f"unmapped is {card.unmapped!r}")
    Limits(card.plausible)
    if card.kind not in get_args(Kind):
        raise ValueError(f"kind is {card.kind!r}")
    if card.base_weights and set(card.base_weights) != {"dtype", "sha256"}:
        raise ValueError(f"base_weights is {card.base_weights!r}")
    if card.rows_sha256 is not None and type(card.rows_sha256) is not str:
        raise ValueError(f"rows_sha256 is {card.rows_sha256!r}")
    if card.written is not None and type(card.written) is not str:
        raise ValueError(f"written is {shorten(repr(card.written), 50)}")
    if card.end_id is not None and (type(card.end_id) is not int or card.end_id < 0):
        raise ValueError(f"end_id is {card.end_id!r}")
    return card
