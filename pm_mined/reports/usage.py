"""Counting how often each source token occurs in text, by the source tokenizer."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from os import PathLike
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pm_mined.errors import TextError
from pm_mined.maps.token_map import TokenMap
from pm_mined.maps.verify import place_of, vocabulary_of
from pm_mined.tokenizer.encoders.libraries import Encode
from pm_mined.tokenizer.encoders.load import load_encoder

from .text_files import Document, read_documents

# In characters. Long texts are cut into blocks, so that memory is bounded and all cores work.
BLOCK = 2**15
BATCH = 2**20
_CONTEXT = 2**7

# Where a cut most likely lies between two tokens: before a line, a word, a sign.
_CUTS = [re.compile(p) for p in (r"(?<=\S\n)(?=\w)", r"(?<=\w)(?= \w)", r"(?<=\w)(?=[^\w\s])")]
_TRIES = 8  # candidates of each


class Usage(NamedTuple):
    """The uses of each source token in some text.

    >>> usage = read_usage(token_map, ["article.txt"])  # doctest: +SKIP
    >>> usage.uses.sum(), usage.uses[token_map.dst_id < 0].sum()  # doctest: +SKIP
    (24107, 3)
    """

    uses: NDArray[np.int64]  # [source ids]
    files: list[str]
    documents: int
    characters: int  # code points of the text
    unverified_cuts: int  # places at which a token may have been cut in two


class _Block(NamedTuple):
    """A part of a document, and the characters before it."""

    context: str
    text: str
    verified: bool = True


def read_usage(
    token_map: TokenMap,
    files: Sequence[str | PathLike[str]],
    *,
    field: str | None = None,
    src: str | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> Usage:
    """Tokenise text files with the map's source tokenizer and count every token.

    A file is one document, or with `field` each row of a JSON Lines file is one, tokenised
    without special tokens. `src` is the place of the tokenizer, as for `load_vocabulary`; by
    default the one that the map names. `advance` is called with the number of bytes of each piece
    that has been read.

    Raises:
        TextError: a file cannot be read, is not UTF-8, or there is no text at all.
        VocabularyError: the tokenizer cannot be found or used, or is not the map's.

    >>> token_map = load_map("llama3-to-qwen3.arrow")  # doctest: +SKIP
    >>> usage = read_usage(token_map, ["articles.jsonl"], field="text")  # doctest: +SKIP
    >>> Audit(token_map, usage)  # doctest: +SKIP
    Audit(TokenMap(llama3 (128,256) -> qwen3 (151,669), ...), 99.8 % of 24,107 uses)
    """
    place = src if src is not None else place_of(token_map, "src")
    vocabulary_of(token_map, "src", place)
    usage = count_uses(read_documents(files, field, advance), load_encoder(place), len(token_map))
    if not usage.uses.any():
        raise TextError(f"no text in {', '.join(map(str, files)) or 'no files'}")
    return usage._replace(files=[str(path) for path in files])


def count_uses(documents: Iterable[Document], encode: Encode, size: int) -> Usage:
    """Count the tokens of `documents`; `size` is one more than the largest id."""
    uses = np.zeros(size, np.int64)
    count = characters = unverified = 0

    def blocks() -> Iterator[_Block]:
        nonlocal count
        for document in documents:
            count += 1
            yield from split(document, encode)

    # One batch is tokenised while the next is cut.
    with ThreadPoolExecutor(1) as ahead:
        pending: deque[Future[NDArray[np.int64]]] = deque()
        for batch in _batches(blocks()):
            pending.append(ahead.submit(_count, batch, encode, size))
            characters += sum(len(block.text) for block in batch)
            unverified += sum(not block.verified for block in batch)
            if len(pending) > 1:
                uses += pending.popleft().result()
        for last in pending:
            uses += last.result()
    return Usage(uses, [], count, characters, unverified)


def _count(batch: list[_Block], encode: Encode, size: int) -> NDArray[np.int64]:
    """int64 [size]: the uses of each token in the blocks, without their contexts."""
    contexts = encode([block.context for block in batch])
    encoded = encode([block.context + block.text for block in batch])
    own = [whole[len(before) :] for before, whole in zip(contexts, encoded, strict=True)]
    return np.bincount(np.concatenate(own), minlength=size)


def _batches(blocks: Iterator[_Block]) -> Iterator[list[_Block]]:
    batch: list[_Block] = []
    size = 0
    for block in blocks:
        batch.append(block)
        size += len(block.text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def split(document: Document, encode: Encode) -> Iterator[_Block]:
    """Cut a document into blocks, between two tokens of the document as a whole.

    Tokenising `context + text` and dropping the tokens of `context` gives those of the block.
    """
    context, verified, rest = "", True, ""
    for piece in chain.from_iterable(map(_slices, document)):
        rest += piece
        while len(rest) > BLOCK + _CONTEXT:
            cut, sound = _cut(rest, encode)
            yield _Block(context, rest[:cut], verified)
            context, verified, rest = rest[cut - _CONTEXT : cut], sound, rest[cut:]
    if rest:
        yield _Block(context, rest, verified)


def _slices(piece: str) -> Iterator[str]:
    """Slices of at most a block, so that the rest of a piece is not copied again and again."""
    return (piece[start : start + BLOCK] for start in range(0, len(piece), BLOCK))


def _cut(text: str, encode: Encode) -> tuple[int, bool]:
    """A place to cut, and True if the text around it shows that a token ends there."""
    for pattern in _CUTS:
        found = [match.start() for match in pattern.finditer(text, BLOCK // 2, BLOCK)]
        for cut in found[: -_TRIES - 1 : -1]:
            before, around = text[cut - _CONTEXT : cut], text[cut - _CONTEXT : cut + _CONTEXT]
            left, whole = encode([before, around])
            if np.array_equal(whole[: len(left)], left):
                return cut, True
    return BLOCK, False
