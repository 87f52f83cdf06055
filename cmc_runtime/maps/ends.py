"""The ends of texts: every token that ends one for the user model maps to the delta's own end."""

from collections.abc import Sequence

from pm_mined import TokenMap, Vocabulary
from pm_mined.maps.ends import map_ends

from .choose import Note


def lay_ends_over(
    token_map: TokenMap | None,
    src: Vocabulary,
    dst: Vocabulary,
    ends: Sequence[int],
    end: int,
    note: Note,
) -> tuple[TokenMap | None, dict[int, int]]:
    """Let the user model's `ends` map to the delta model's `end`; what an override decided stays.

    Args:
        token_map: From `src` to `dst`; None for the same vocabulary.
        src: The user model's vocabulary.
        dst: The delta model's.
        ends: All tokens that end a text for the user model.
        end: The token with which the delta model ends one.
        note: Told, in a line each, which of them map elsewhere than before.

    Returns:
        The map, and what each of `ends` maps to; -1 is nothing.
    """
    made = None if token_map is None else map_ends(token_map, src, dst, ends, end)
    mapped = {i: end if made is None else int(made.dst_id[i]) for i in ends}
    to = _text(dst, end)
    for i, dst_id in mapped.items():
        before = i if token_map is None else token_map.dst_id[i]
        if dst_id != end:
            note(f"{_text(src, i)} ends a text, but an override keeps it from mapping to {to}")
        elif dst_id != before:
            note(f"{_text(src, i)} ends a text: it maps to {to}, with which the delta's texts end")
    return made, mapped


def _text(vocabulary: Vocabulary, token_id: int) -> str:
    return vocabulary[token_id].decode(errors="backslashreplace")
