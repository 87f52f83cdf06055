"""The libraries that write tokens, each under one interface: what a vocabulary is held against."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pm_mined.errors import VocabularyError
from pm_mined.tokenizer.errors_of_libraries import library_errors
from pm_mined.tokenizer.locate import TokenizerFiles
from pm_mined.tokenizer.readers import json_file, word_piece
from pm_mined.tokenizer.readers.load import format_of
from pm_mined.tokenizer.readers.model_folder import folder_config, folder_document

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Library:
    """A library that has loaded a tokenizer.

    Attributes:
        name: Its name and version.
        size: One more than its largest id.
        write: Write sequences of ids as texts, special tokens included; U+FFFD for broken bytes.
        literal: The text that stands for an id by itself; None where there is no token.
        is_special: True for a token that is none of the text.
        note: What the library is told for want of it in the file, if anything.
        beyond: Where ids from `size` on come from, if the library cannot know of them.
    """

    name: str
    size: int
    write: Callable[[Sequence[Sequence[int]]], list[str]]
    literal: Callable[[int], str | None]
    is_special: Callable[[int], bool]
    note: str = ""
    beyond: str = ""


def load_library(found: TokenizerFiles) -> Library:
    """Load a tokenizer by the library of its format.

    Raises:
        VocabularyError: there is none here, or it cannot use the tokenizer.
    """
    name = format_of(found.file)
    with library_errors(f"{found.file}: its library cannot use it"):
        if name == "gguf":
            raise VocabularyError(
                f"{found.file}: no library here writes the tokens of a GGUF file; check the "
                "tokenizer.json or the SentencePiece model that it was made of"
            )
        return _LOADERS[name](found)


def of_tokenizer_json(content: str) -> Library:
    """The library `tokenizers` with the text of a tokenizer.json."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(content)
    added = tokenizer.get_added_tokens_decoder()
    note = "" if tokenizer.decoder is not None else _set_decoder(tokenizer)
    return Library(
        name=_named("tokenizers"),
        size=1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1),
        write=lambda ids: tokenizer.decode_batch(ids, skip_special_tokens=False),
        literal=lambda one: added[one].content if one in added else tokenizer.id_to_token(one),
        is_special=lambda one: one in added and added[one].special,
        note=note,
    )


def _set_decoder(tokenizer: "Tokenizer") -> str:
    """Set what the reader takes for the decoder where a file has none, and say so.

    The library itself puts spaces between tokens as they are stored.
    """
    from tokenizers import decoders, models

    without = "the file has no decoder: its tokens are compared as"
    if isinstance(tokenizer.model, models.WordPiece):
        prefix = tokenizer.model.continuing_subword_prefix
        tokenizer.decoder = decoders.WordPiece(prefix, cleanup=False)
        return f"{without} the prefix {prefix!r} says"
    tokenizer.decoder = decoders.Fuse()
    return f"{without} they are stored"


def of_sentencepiece(model: bytes) -> Library:
    """The library `sentencepiece` with a serialized model."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_proto=model)
    return Library(
        name=_named("sentencepiece"),
        size=processor.get_piece_size(),
        write=lambda ids: [processor.decode(list(one)) for one in ids],
        literal=processor.id_to_piece,
        is_special=lambda one: processor.is_control(one) or processor.is_unknown(one),
        beyond="added by the files beside the model",
    )


def _of_json(found: TokenizerFiles) -> Library:
    if found.folder is not None:
        document = folder_document(found.file, folder_config(found.folder))
        return of_tokenizer_json(json.dumps(document)) if document else _of_tekken(found.file)
    if not json_file.is_tokenizer_json(json_file.parse(found.file)):
        return _of_tekken(found.file)
    return of_tokenizer_json(found.file.read_text("utf-8-sig"))


def _of_word_piece(found: TokenizerFiles) -> Library:
    if found.folder is not None:
        return _of_json(found)
    return of_tokenizer_json(json.dumps(word_piece.read_alone(found.file)))


def _of_tekken(path: Path) -> Library:
    if find_spec("mistral_common") is None:
        raise VocabularyError(f"{path}: a tekken.json is checked by `pip install mistral-common`")
    from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    tokenizer = Tekkenizer.from_file(path)
    return Library(
        name=_named("mistral-common"),
        size=tokenizer.n_words,
        write=lambda ids: [tokenizer.decode(list(one), SpecialTokenPolicy.KEEP) for one in ids],
        literal=tokenizer.id_to_piece,
        is_special=tokenizer.is_special,
    )


def _of_sentencepiece_file(found: TokenizerFiles) -> Library:
    return of_sentencepiece(found.file.read_bytes())


def _of_ranks(found: TokenizerFiles) -> Library:
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    os.environ.setdefault("TIKTOKEN_CACHE_DIR", "")  # the file is here: no copy of it elsewhere
    ranks = load_tiktoken_bpe(str(found.file))
    encoding = tiktoken.Encoding("ranks", pat_str=".", mergeable_ranks=ranks, special_tokens={})
    known = set(ranks.values())
    return Library(
        name=_named("tiktoken"),
        size=1 + max(known),
        write=lambda ids: [encoding.decode(list(one)) for one in ids],
        literal=lambda one: encoding.decode([one]) if one in known else None,
        is_special=lambda _: False,
        beyond="special tokens, which a rank file does not hold",
    )


def _named(package: str) -> str:
    return f"{package} {version(package)}"


_LOADERS: dict[str, Callable[[TokenizerFiles], Library]] = {
    "json_file": _of_json,
    "sentencepiece": _of_sentencepiece_file,
    "tiktoken": _of_ranks,
    "word_piece": _of_word_piece,
}
