"""The tokens that a person names, and the vocabularies that they are looked up in."""

import os
import re
from collections.abc import Callable
from contextlib import suppress

from pm_mined.cli.output import note, working
from pm_mined.display import display_token, name_token
from pm_mined.errors import PmMinedError, VocabularyError
from pm_mined.maps.token_map import TokenMap
from pm_mined.maps.verify import vocabulary_of
from pm_mined.vocabulary import Vocabulary

_NUMBER = re.compile("[0-9]{1,9}")


def find_ids(token: str, size: int, find: Callable[[bytes], list[int]]) -> list[int]:
    """All ids that a person may mean by `token`, ascending: a number is an id and may be a text.

    `find` gives the ids of the tokens with these bytes; ids end before `size`.
    """
    ids = set(find(os.fsencode(token)))
    if _NUMBER.fullmatch(token) and int(token) < size:
        ids.add(int(token))
    if token.startswith("0x"):
        with suppress(ValueError):  # then it is only a text
            ids.update(find(bytes.fromhex(token[2:])))
    return sorted(ids)


def ids_in(vocabulary: Vocabulary, token: str) -> list[int]:
    """All ids in a vocabulary that a person may mean by `token`, ascending.

    Raises:
        PmMinedError: there is none; the text names the nearest tokens.
    """
    if ids := find_ids(token, len(vocabulary), vocabulary.find):
        return ids
    hint = ""
    spaced = b" " + os.fsencode(token)
    if found := vocabulary.find(spaced):
        hint = f"; {display_token(spaced)} has id {found[0]}"
    elif not _NUMBER.fullmatch(token):
        text = os.fsencode(token).decode(errors="replace")
        near = [name_token(vocabulary[i], i) for i in vocabulary.nearest(text)]
        hint = f"; the nearest are {', '.join(near)}" if near else ""
    last = len(vocabulary) - 1
    raise PmMinedError(f"{vocabulary.name} has no token {token!r} (ids are 0 to {last}){hint}")


def destination_of(token_map: TokenMap, dst: str | None, without: str) -> Vocabulary | None:
    """The destination vocabulary; where it is not found, a note says what is missing `without` it.

    Raises:
        VocabularyError: `dst` says where it is, and it cannot be read or is another one.
    """
    try:
        with working(f"Reading {dst or token_map.info.dst.name}"):
            return vocabulary_of(token_map, "dst", dst)
    except VocabularyError as error:
        if dst is not None:
            raise
        note(f"{without}: {error}")
        return None
