"""The tokenizer in a GGUF file, put together again for the library that it came from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pm_mined.errors import VocabularyError
from pm_mined.tokenizer.readers.gguf import read_tokenizer
from pm_mined.tokenizer.readers.sentencepiece import BYTE, UNKNOWN, USER_DEFINED
from pm_mined.tokenizer.special_tokens import NormalForm, splitting

from .libraries import Encode, by_sentencepiece, by_tokenizers

# How GPT-2 splits text: https://github.com/openai/gpt-2/blob/master/src/encoder.py
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def gguf_encoder(path: Path, *, inside: bool) -> Encode:
    """The encoder of a GGUF file, of SentencePiece BPE or byte-level BPE.

    With `inside`, no space is put before a text.

    Raises:
        VocabularyError: another tokenizer, or one whose way to split text is not known.
    """
    read = read_tokenizer(path)
    if read.model == "llama":
        add_dummy_prefix = read.more.get("add_space_prefix") is not False and not inside
        scores = read.entries("scores", float)
        return _sentencepiece(read.tokens, read.types, scores, add_dummy_prefix=add_dummy_prefix)
    if read.model == "gpt2":
        merges = read.entries("merges", str)
        return _byte_level(read.tokens, read.types, merges, read.more.get("pre"))
    raise VocabularyError(
        f"how a GGUF tokenizer of model {read.model!r} splits text is not known; give the model's "
        "tokenizer.json"
    )


def _sentencepiece(
    pieces: list[str], types: list[int], scores: list[float], *, add_dummy_prefix: bool
) -> Encode:
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    for piece, piece_type, score in zip(pieces, types, scores, strict=True):
        # GGUF has the spaces of user-defined pieces as spaces, the library as in all others.
        written = piece.replace(" ", "▁") if piece_type == USER_DEFINED else piece
        proto.pieces.add(piece=written, type=piece_type, score=score)
    proto.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = BYTE in types
    proto.trainer_spec.unk_id = types.index(UNKNOWN) if UNKNOWN in types else 0
    proto.normalizer_spec.add_dummy_prefix = add_dummy_prefix
    proto.normalizer_spec.remove_extra_whitespaces = False
    try:
        processor = SentencePieceProcessor(model_proto=proto.SerializeToString())
    except RuntimeError as error:
        raise VocabularyError(f"`sentencepiece` cannot use it: {error}") from error
    return by_sentencepiece(processor)


def _splits(pre: Any) -> tuple[Sequence[str], NormalForm | None]:
    """The patterns, one after the other, and the normal form, that a GGUF file has a name for."""
    if pre in ("gpt-2", "smollm"):
        return ([r"\p{N}", _GPT2] if pre == "smollm" else [_GPT2]), None
    families = {"llama-bpe": "llama3", "qwen2": "qwen3"}
    if pre in families:
        pattern, normal_form = splitting(families[pre])
        return [pattern], normal_form
    known = ", ".join(["gpt-2", "smollm", *families])
    raise VocabularyError(
        f"how a GGUF file splits text by {pre!r} is not known (only {known}); give the model's "
        "tokenizer.json"
    )


def _byte_level(tokens: list[str], types: list[int], merges: list[str], pre: Any) -> Encode:
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    patterns, normal_form = _splits(pre)
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    try:
        model = models.BPE(vocab, pairs, ignore_merges=pre == "llama-bpe")
    except Exception as error:  # what the library raises has no class of its own
        raise VocabularyError(f"`tokenizers` cannot use it: {error}") from error
    tokenizer = Tokenizer(model)
    if normal_form is not None:
        tokenizer.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, letters])
    added = [token for token, of in zip(tokens, types, strict=True) if of == USER_DEFINED]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    return by_tokenizers(tokenizer)
