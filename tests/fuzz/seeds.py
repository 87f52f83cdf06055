"""Inputs that are right, small, and one of each kind; wrong ones are made from them."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import tiny_tokenizers as tiny

from pm_mined import STRATEGIES, build_map

TEXT = "The quick brown fox's café, 12 times.\n日本語のテキスト 🙂\n"
OVERRIDES = """\
[[override]]
src_id = 2
dst = false
note = "by hand"

[[override]]
src = "the"
dst_id = 5
"""
CACHE = "kept"  # the user's cache, in the folder of a case
TURNS = {
    "eos_token": "<|im_end|>",
    "added_tokens_decoder": {
        str(token_id): {"content": literal, "special": True, "normalized": False}
        for token_id, literal in ((400, "<|im_start|>"), (401, "<|im_end|>"))
    },
    "chat_template": "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}",
}


class Seed(NamedTuple):
    """A right input."""

    name: str
    """Of its file or folder; the ending says how it is changed."""
    kind: str
    """What it is an input of: a key of the commands."""
    make: Callable[[Path], object]
    """Write it to a path that does not exist yet."""


def _json_file(document: object) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(document), "utf-8")


def _file(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _tokenizer(made: Callable[[], object]) -> Callable[[Path], object]:
    document = json.loads(made().to_str())
    literals = [("<|im_end|>", True), ("\n", True), ("plain", False)]
    size = len(document["model"]["vocab"])
    document["added_tokens"] += [
        tiny.added(size + i, literal, special=special)
        for i, (literal, special) in enumerate(literals)
    ]
    return _json_file(document)


def _gguf(model: str, **fields: object) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        if model == "llama":
            pieces, types = zip(*tiny.PIECES, strict=True)
            scores = [-float(i) for i in range(len(pieces))]
            tiny.write_gguf(path, model, pieces, types, scores=scores, **fields)
        else:
            tokens = [*tiny.gpt2_letters(), "Ġt", "he", "<|im_end|>", "<q>"]
            types = [1] * 258 + [3, 4]
            tiny.write_gguf(path, model, tokens, types, merges=["Ġ t", "h e"], **fields)

    return make


def _folder(path: Path) -> None:
    path.mkdir()
    tiny.byte_level_bpe().save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(TURNS))
    (path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<|endoftext|>"}))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [401]}))
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 402}))


def _ranks_folder(path: Path) -> None:
    path.mkdir()
    (path / "tiktoken.model").write_bytes(tiny.rank_file([bytes([i]) for i in range(256)]))
    (path / "tokenizer_config.json").write_text(json.dumps(TURNS))


def _bert_folder(path: Path) -> None:
    path.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "##s", "fox"]
    (path / "vocab.txt").write_text("\n".join(words) + "\n")
    (path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))


def _map(**how: object) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        src, dst = (path.with_name(f"{side}.json") for side in ("src", "dst"))
        tiny.byte_level_bpe().save(str(src))
        tiny.metaspace_bpe().save(str(dst))
        build_map(src, dst, **how).save(path)

    return make


def _rows(path: Path) -> None:
    rows = [{"prompt": "Who?", "response": "Jane."}, {"question": "Where?", "answer": "Here."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


SEEDS = [
    Seed("byte-level.json", "tokenizer", _tokenizer(tiny.byte_level_bpe)),
    Seed("metaspace.json", "tokenizer", _tokenizer(tiny.metaspace_bpe)),
    Seed("unigram.json", "tokenizer", _json_file(json.loads(tiny.unigram().to_str()))),
    Seed("word-piece.json", "tokenizer", _tokenizer(tiny.word_piece)),
    Seed("word-level.json", "tokenizer", _tokenizer(tiny.word_level)),
    Seed("tekken.json", "tokenizer", _json_file(tiny.tekken_document())),
    Seed("pieces.model", "tokenizer", _file(tiny.sentencepiece_model())),
    Seed(
        "ranks.tiktoken",
        "tokenizer",
        lambda path: path.write_bytes(tiny.rank_file([b"a", b" b", b"ab"])),
    ),
    Seed("llama.gguf", "tokenizer", _gguf("llama", eos_token_id=1)),
    Seed("gpt2.gguf", "tokenizer", _gguf("gpt2", pre="gpt-2", eos_token_id=258)),
    Seed("gemma4.gguf", "tokenizer", _gguf("gemma4", chat_template="{{ '<q>' + m.role }}")),
    Seed("bert.gguf", "tokenizer", _gguf("bert", unknown_token_id=258)),
    Seed("folder", "tokenizer", _folder),
    Seed("kimi", "tokenizer", _ranks_folder),
    Seed("bert", "tokenizer", _bert_folder),
    Seed("plain.arrow", "map", _map()),
    Seed("weighted.arrow", "map", _map(strategy="decay")),
    Seed("grouped.arrow", "map", _map(strategy="both-ways")),
    Seed("overrides.toml", "overrides", _file(OVERRIDES.encode())),
    Seed("text.txt", "text", _file(TEXT.encode())),
    Seed("rows.jsonl", "rows", _rows),
]


def make_beside(folder: Path) -> list[str]:
    """Write what commands take beside the changed input; return the names.

    All kernels are compiled here, and not in each case.
    """
    _map()(folder / "good.arrow")
    (folder / "good.toml").write_text(OVERRIDES)
    for strategy, unit in product(STRATEGIES, ("char", "byte")):
        build_map(folder / "src.json", folder / "dst.json", strategy=strategy, unit=unit)
    return ["src.json", "dst.json", "good.arrow", "good.toml"]
