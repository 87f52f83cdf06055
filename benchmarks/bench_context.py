"""The cost of keeping the delta model's context, per token of the user model.

    python benchmarks/bench_context.py [--src NAME] [--dst NAME...] [--text FILE] [--runs N]

The text, repeated to at least 10,000 user tokens, is appended token by token. No time is printed
before the ids after the last token were found to be those of the text encoded as a whole.
`encoded` is how many characters the delta tokenizer was given for each user token, `at the end`
the time of the last 1,000 tokens, and `from scratch` that of encoding the whole text for one token.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from measure import Report, Spread, command_line, spread

from cmc_runtime.contexts.reencoded import ContextTables, ReencodedContext
from pm_mined import Vocabulary, load_vocabulary
from pm_mined.bench import timed
from pm_mined.tokenizer.encoders.libraries import Encode, Ids
from pm_mined.tokenizer.encoders.load import load_encoder

TOKENS = 10_000
LAST = 1000
NAMES = ["llama3", "qwen3", "deepseek", "mistral-tekken", "mistral-v1"]
TEXT = Path(__file__).parents[1] / "README.md"
PACKAGES = ("numpy", "tokenizers", "tiktoken", "sentencepiece")


class Cost(NamedTuple):
    """Times with one delta tokenizer, in microseconds per user token."""

    encoded: float  # characters
    per_token: Spread
    at_the_end: Spread
    from_scratch: Spread


def cost(src: Vocabulary, generated: Ids, dst: Vocabulary, encode: Encode, runs: int) -> Cost:
    """Time the context of `generated`, once it was found to be right."""
    text = b"".join(src[token_id] for token_id in generated.tolist()).decode()
    tables = ContextTables.of(src, dst, np.full(len(src), -1), encode)
    encoded = check(tables, generated, text)

    def append() -> list[float]:
        row = ReencodedContext(tables, [])
        parts = generated[:-LAST].tolist(), generated[-LAST:].tolist()
        early, late = (timed(partial(append_all, row, part))[1] for part in parts)
        return [(early + late) / len(generated), late / LAST, timed(lambda: encode([text]))[1]]

    times = zip(*(append() for _ in range(runs)), strict=True)
    return Cost(encoded, *(spread(samples).scaled(1e6) for samples in times))


def check(tables: ContextTables, generated: Ids, text: str) -> float:
    """Exit if ids are wrong; returns the characters that were encoded for each token."""
    asked = 0

    def counting(texts: Sequence[str]) -> list[Ids]:
        nonlocal asked
        asked += sum(map(len, texts))
        return tables.encode(texts)

    row = ReencodedContext(ContextTables(tables.pieces, tables.strays, counting), [])
    append_all(row, generated.tolist())
    if row.ids != tables.encode([text])[0].tolist():
        sys.exit("wrong ids, so no times: they differ from those of the text as a whole")
    return asked / len(generated)


def append_all(row: ReencodedContext, generated: list[int]) -> None:
    """Append tokens one by one, as a model generates them."""
    for token_id in generated:
        row.append(token_id)


def tokens_of(name: str, text: str) -> Ids:
    """The tokens of the text, again and again, at least `TOKENS` of them."""
    (once,) = load_encoder(name, inside=True)([text])
    return np.tile(once, -(-TOKENS // len(once)))


def main() -> None:
    """Print a table and a JSON line."""
    parser = command_line(__doc__)
    parser.add_argument("--src", default="llama3", help="the user model's tokenizer")
    parser.add_argument("--dst", nargs="+", default=NAMES, help="the delta model's tokenizers")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()

    report = Report("context", json_only=options.json, packages=PACKAGES)
    src = load_vocabulary(options.src)
    generated = tokens_of(options.src, options.text.read_text("utf-8"))
    report.line(f"{options.text.name}: {len(generated):,} tokens of {options.src}; us per token")
    costs = {}
    for name in options.dst:
        encode = load_encoder(name, inside=True)
        costs[name] = cost(src, generated, load_vocabulary(name), encode, options.runs)
    rows = [
        [name, f"{each.encoded:.0f}", *(f"{times.median:.1f}" for times in each[1:])]
        for name, each in costs.items()
    ]
    report.table(["delta tokenizer", "encoded", "per token", "at the end", "from scratch"], rows)
    report.document["costs"] = {name: found._asdict() for name, found in costs.items()}
    report.finish()


if __name__ == "__main__":
    main()
