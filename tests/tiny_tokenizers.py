"""Tiny tokenizers of every format, made on the spot, and how to look at what was read."""

import base64
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
from conftest import real_vocabulary
from sentencepiece import sentencepiece_model_pb2
from texts import ARTICLE_1
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from pm_mined import Vocabulary, VocabularyError, load_vocabulary
from pm_mined.tokenizer.registry import named_vocabularies

TEXT = [
    "the quick brown fox jumps over the lazy dog",
    "The naïve café's menu: crème brûlée, 12 euros!",
    "日本語のテキスト 日本語 한국어 русский текст 🙂🙃",
    "    indented\tand\n\nbroken lines ... don't, can't; won't?",
] * 4

# SentencePiece's piece types, which GGUF uses too.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

PIECES = [
    ("<unk>", UNKNOWN),
    ("<s>", CONTROL),
    ("<0x0A>", BYTE),
    ("<0xFF>", BYTE),
    ("▁the", NORMAL),
    ("▁▁", USER_DEFINED),
    ("日本", NORMAL),
    ("<0x41>", NORMAL),
    ("[control_7]", CONTROL),
    ("<gone>", UNUSED),
]


def byte_level_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def gpt2_letters() -> list[str]:
    """The letter that byte-level BPE writes for each byte: itself, or one from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(b if b in printable else 256 + others.index(b)) for b in range(256)]


def metaspace_bpe() -> Tokenizer:
    """Like Llama 2's: byte fallback, and a decoder that is a Sequence."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", "<s>", *pieces], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    # The trainer registers the byte pieces as added tokens; real files do not.
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = document["added_tokens"][:2]
    return Tokenizer.from_str(json.dumps(document))


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<pad>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def word_piece(*, cleanup: bool = True, more: tuple[str, ...] = ()) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=150, special_tokens=["[UNK]", "[CLS]"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    document = json.loads(tokenizer.to_str())
    vocab = document["model"]["vocab"]
    for token in more:
        vocab.setdefault(token, len(vocab))
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=cleanup)
    return tokenizer


def word_level() -> Tokenizer:
    words = ["[UNK]", "hello", "world", "Ġnot", "▁this", "##one", "<0x41>", "日本"]
    return Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))


def trained_sentencepiece(folder: Path, **options: object) -> Path:
    """A SentencePiece model with byte fallback."""
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join([*TEXT, *ARTICLE_1.values()]), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "model"),
        byte_fallback=True,
        minloglevel=2,
        **options,
    )
    return folder / "model.model"


def bpe_document(vocab: dict[str, int], **fields: object) -> dict[str, object]:
    """A tokenizer.json as small as it gets."""
    return {"model": {"type": "BPE", "vocab": vocab, "merges": []}, **fields}


def added(token_id: int, content: str, *, special: bool) -> dict[str, object]:
    """An entry of `added_tokens`, as the library itself writes it."""
    token = AddedToken(content, special=special)
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {"id": token_id, "content": content, **{flag: getattr(token, flag) for flag in flags}}


def sentencepiece_model(pieces: list[tuple[str, int]] = PIECES) -> bytes:
    model = sentencepiece_model_pb2.ModelProto()
    for piece, piece_type in pieces:
        model.pieces.add(piece=piece, score=-1.0, type=piece_type)
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = False
    model.normalizer_spec.name = "identity"
    return model.SerializeToString()


def rank_file(tokens: list[bytes]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % i for i, token in enumerate(tokens))


def tekken_document() -> dict[str, object]:
    """Three special ids of which two are listed, four ranks of which three are in use."""
    tokens = [b"a", b" b", "é".encode()[:1], b"dropped"]
    return {
        "config": {"default_vocab_size": 6, "default_num_special_tokens": 3, "version": "v11"},
        "special_tokens": [
            {"rank": 0, "token_str": "<unk>", "is_control": True},
            {"rank": 1, "token_str": "<s>", "is_control": True},
        ],
        "vocab": [
            {"rank": i, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for i, token in enumerate(tokens)
        ],
    }


def write_gguf(
    path: Path,
    model: str | None,
    tokens: object = (),
    types: object = None,
    *,
    chat_template: str | None = None,
    **fields: object,
) -> Path:
    """A GGUF file; without `model`, it has no tokenizer. Its tensor needs no padding.

    `tokens` and `types` of wrong types are written as they are; `fields` are further ones of
    the tokenizer.
    """
    writer = gguf.GGUFWriter(path, "llama")
    if model is not None:
        writer.add_tokenizer_model(model)
        _add_field(writer, "tokenizer.ggml.tokens", tokens)
    if types is not None:
        _add_field(writer, "tokenizer.ggml.token_type", types)
    for name, value in fields.items():
        _add_field(writer, f"tokenizer.ggml.{name}", value)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    writer.add_tensor("weight", np.zeros(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_field(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))


def gguf_bytes(folder: Path) -> bytes:
    pieces, types = zip(*PIECES, strict=True)
    return write_gguf(folder / "whole.gguf", "llama", pieces, types).read_bytes()


def read(path: Path, content: object) -> Vocabulary:
    """The vocabulary in a file of this content; JSON unless it is bytes."""
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return load_vocabulary(path)


def entries(vocabulary: Vocabulary) -> list[tuple[bytes, str]]:
    return [(vocabulary[i], vocabulary.kind(i).name.lower()) for i in range(len(vocabulary))]


def installed_file(name: str) -> Path:
    """The path of a real vocabulary; skips the test where it is not installed."""
    real_vocabulary(name)
    path = named_vocabularies()[name].installed_file()
    assert path is not None
    return path


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Turn a hang into a failure."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def error_of(path: Path) -> str | None:
    """The reason for which this file is refused, None if it is read; other exceptions pass.

    A hang comes back as text, too: its traceback can hold millions of values to be printed.
    """
    try:
        with time_limit(2):
            load_vocabulary(path)
    except (VocabularyError, TimeoutError) as error:
        return str(error)
    return None
