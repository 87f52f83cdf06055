"""SentencePiece `.model` files: a ModelProto whose pieces each say what type they are."""

import re
from pathlib import Path

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.tokenizer.special_tokens import added_kind
from pm_mined.vocabulary import TokenTable

# ModelProto.SentencePiece.Type, sentencepiece_model.proto; GGUF uses the same numbers.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = PIECE_TYPES = range(1, 7)

_BYTE_PIECE = re.compile("<0x[0-9A-Fa-f]{2}>")


def read(path: Path) -> TokenTable:
    """The pieces of a model file, `▁` undone."""
    return read_model(path.read_bytes())


def read_model(content: bytes) -> TokenTable:
    """The pieces of a serialized model.

    Raises:
        VocabularyError: it is none, or is damaged.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise VocabularyError(
            f"not a SentencePiece model, or a damaged one ({error}); download it again"
        ) from error
    # Written after the pieces: without it, the file was cut off between two of them.
    if not model.pieces or not model.HasField("normalizer_spec"):
        raise VocabularyError(
            f"a damaged SentencePiece model: {len(model.pieces)} pieces and no normalizer; "
            "download it again"
        )
    table = TokenTable(len(model.pieces))
    for token_id, piece in enumerate(model.pieces):
        if not isinstance(piece.piece, str):
            raise VocabularyError(f"piece {token_id} ({piece.piece!r}) is not UTF-8")
        put_piece(table, token_id, piece.piece, piece.type)
    return table


def put_piece(table: TokenTable, token_id: int, piece: str, piece_type: int) -> None:
    """Write one piece in canonical form."""
    if piece_type == NORMAL:
        table.put(token_id, piece.replace("▁", " ").encode(), Kind.TEXT)
    elif piece_type == BYTE:
        table.put(token_id, byte_of(piece), Kind.BYTE)
    elif piece_type in (UNKNOWN, CONTROL):
        table.add(token_id, piece.encode(), added_kind(piece, special=True))
    elif piece_type == USER_DEFINED:
        kind = added_kind(piece, special=False)
        table.add(token_id, piece.replace("▁", " ").encode(), kind)
    elif piece_type == UNUSED:
        table.put(token_id, piece.encode(), Kind.UNUSED)
    else:
        raise VocabularyError(f"piece {token_id} ({piece!r}) is of unknown type {piece_type}")


def is_byte_piece(piece: str) -> bool:
    """True if a piece is of the form `<0x0A>`."""
    return len(piece) == 6 and piece.startswith("<0x") and _BYTE_PIECE.fullmatch(piece) is not None


def byte_of(piece: str) -> bytes:
    """The byte that a byte piece such as `<0x0A>` stands for."""
    if not is_byte_piece(piece):
        raise VocabularyError(f"{piece!r} is marked as a byte, but is not of the form <0xNN>")
    return bytes.fromhex(piece[3:5])
