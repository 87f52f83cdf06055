"""A tokenizer of transformers with SentencePiece's pieces, as those of Llama 2 are."""

import tiny_tokenizers as tiny
from sentencepiece import sentencepiece_model_pb2
from transformers import LlamaTokenizer
from transformers.tokenization_utils_base import generate_merges


def sentencepiece_tokenizer(folder, **options):
    """One of 700 pieces, trained on the spot."""
    path = tiny.trained_sentencepiece(
        folder,
        vocab_size=700,
        character_coverage=0.98,
        model_type="bpe",
        normalization_rule_name="identity",
        **options,
    )
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(path.read_bytes())
    vocab = {piece.piece: token_id for token_id, piece in enumerate(model.pieces)}
    merges = generate_merges(vocab, {piece.piece: piece.score for piece in model.pieces})
    return LlamaTokenizer(vocab, merges, add_bos_token=True)
