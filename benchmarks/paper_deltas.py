"""The delta models of the paper: small Llamas, here with random weights, and a real tokenizer."""

import sys
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from cmc_runtime import LoadedModel
from cmc_runtime.training.new_delta import delta_of_shape
from pm_mined import load_encoder, load_vocabulary
from pm_mined.tokenizer.locate import locate
from pm_mined.tokenizer.readers.sentencepiece import CONTROL

TOKENIZER = "mistral-v1"  # of the 32,000-token ones, this is in a package
TOKENS = 32_000
SEED = 20_241

_TEXTS = [
    "A plain  text,\n\twith 3 runs   of spaces. ",
    " def f(x):\n    return x",
    "你好, Grüße 𓀀\n",
]


def paper_delta(shape: str) -> LoadedModel:
    """A delta model in float32 on the CPU, the same for the same shape."""
    model = delta_of_shape(shape, TOKENS, seed=SEED)
    return LoadedModel(model.eval().requires_grad_(False), fast_tokenizer(TOKENIZER), TOKENIZER)


def step_parameters(model: Any) -> int:
    """The parameters that a decode step multiplies; embeddings that are looked up do not count."""
    looked_up, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    everything: int = sum(parameter.numel() for parameter in model.parameters())  # tied ones once
    return everything if looked_up is output else everything - int(looked_up.numel())


def fast_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A SentencePiece BPE tokenizer by its name in pm_mined, for transformers.

    Exits unless it has the vocabulary of that name and encodes texts alike. What transformers
    makes of such a file by itself ranks the merges by id, and so encodes runs of spaces otherwise.
    """
    tokenizer = _converted(locate(name).file.read_bytes())
    if load_vocabulary(tokenizer).fingerprint != load_vocabulary(name).fingerprint:
        sys.exit(f"{name}: the converted tokenizer has another vocabulary")
    for inside in (False, True):
        ours = load_encoder(tokenizer, inside=inside)(_TEXTS)
        library = load_encoder(name, inside=inside)(_TEXTS)
        if [ids.tolist() for ids in ours] != [ids.tolist() for ids in library]:
            sys.exit(f"{name}: the converted tokenizer encodes a text otherwise")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)  # type: ignore[no-untyped-call]


def _converted(model_proto: bytes) -> Tokenizer:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model_proto)
    pieces = [piece.piece for piece in proto.pieces]
    vocabulary = {piece: token_id for token_id, piece in enumerate(pieces)}
    ranked = sorted(proto.pieces, key=lambda piece: -piece.score)  # stable: then by id
    merges = [
        (piece.piece[:cut], piece.piece[cut:])
        for piece in ranked
        for cut in range(1, len(piece.piece))
        if piece.piece[:cut] in vocabulary and piece.piece[cut:] in vocabulary
    ]
    unknown = pieces[proto.trainer_spec.unk_id]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    control = [piece.piece for piece in proto.pieces if piece.type == CONTROL]
    tokenizer.add_special_tokens([unknown, *control])
    begin = pieces[proto.trainer_spec.bos_id]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, vocabulary[begin])]
    )
    return tokenizer
