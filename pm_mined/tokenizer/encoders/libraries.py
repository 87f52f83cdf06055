"""Encoders of the three libraries that tokenize: `tokenizers`, `sentencepiece` and `tiktoken`."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tiktoken import Encoding
    from tokenizers import Tokenizer

Ids = NDArray[np.int64]  # [tokens]

Encode = Callable[[Sequence[str]], list[Ids]]
"""Texts to their token ids, int64 [tokens] each; many texts are shared among all cores."""

_FEW = 4  # texts
_SHORT = 2**10  # characters; handing a shorter text to another thread takes longer than encoding it


def by_tokenizers(tokenizer: "Tokenizer") -> Encode:
    """The encoder of a tokenizer of the library `tokenizers`."""

    def encode_batch(texts: Sequence[str]) -> list[Ids]:
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(one.ids, np.int64) for one in encoded]

    def encode(texts: Sequence[str]) -> list[Ids]:
        if len(texts) <= _FEW and sum(map(len, texts)) <= _SHORT:  # waking threads takes longer
            return [ids for text in texts for ids in encode_batch([text])]
        return encode_batch(texts)

    return encode


def by_sentencepiece(processor: "SentencePieceProcessor") -> Encode:
    """The encoder of a model of the library `sentencepiece`."""

    def encode(texts: Sequence[str]) -> list[Ids]:
        if len(texts) <= _FEW:  # starting threads takes longer
            encoded = [processor.encode(text) for text in texts]
        else:
            encoded = processor.encode(list(texts), num_threads=os.cpu_count())
        return [np.array(ids, np.int64) for ids in encoded]

    return encode


def by_tiktoken(encoding: "Encoding") -> Encode:
    """The encoder of an encoding of the library `tiktoken`, which finds its special tokens."""

    def encode_one(text: str) -> Ids:
        return np.array(encoding.encode(text, allowed_special="all"), np.int64)

    # Its own encode_batch starts new threads each time, and each compiles the pattern anew.
    pool = ThreadPoolExecutor(os.cpu_count())

    def encode(texts: Sequence[str]) -> list[Ids]:
        ahead = {i: pool.submit(encode_one, t) for i, t in enumerate(texts) if len(t) > _SHORT}
        return [ahead[i].result() if i in ahead else encode_one(t) for i, t in enumerate(texts)]

    return encode
