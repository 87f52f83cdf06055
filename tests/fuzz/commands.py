"""The commands that take each kind of input, and what must hold of an input that is accepted."""

from pathlib import Path
from random import Random

import pyarrow as pa

from pm_mined import STRATEGIES, MapFileError, load_map
from pm_mined.maps.export.formats import FORMATS

MARK = "WRONG"
"""Stands for the path of the input in a command."""

_NUMBERS = ["0", "0.1", "0.5", "1"] * 4 + ["-1", "1.5", "1e308", "nan", "-inf", "1e-320", "x"]

_COMMANDS = {
    "tokenizer": [
        "vocab info WRONG --json",
        "vocab check WRONG",
        "build --src WRONG --dst dst.json --strategy STRATEGY --unit UNIT -o out.arrow",
        "build --src src.json --dst WRONG --strategy STRATEGY --unit UNIT -o out.arrow",
        "overrides check good.toml --src WRONG --dst dst.json",
    ],
    "map": [
        "verify WRONG",
        "audit WRONG --json",
        "audit WRONG --html page.html",
        "show WRONG the 5 --json",
        "show WRONG --reverse the",
        "compare WRONG good.arrow",
        "export WRONG --format FORMAT -o exported",
        "overrides suggest WRONG",
    ],
    "overrides": [
        "overrides check WRONG --src src.json --dst dst.json",
        "build --src src.json --dst dst.json --overrides WRONG -o out.arrow",
    ],
    "text": ["audit good.arrow --text WRONG --src src.json"],
    "rows": ["audit good.arrow --text WRONG --field prompt --src src.json"],
    # Of `cmc-runtime`.
    "model": [
        "generate --model WRONG --prompt Hello --form chat --max-new-tokens 2",
        "generate --model WRONG --delta delta --prompt Hello --max-new-tokens 2 --json",
        "generate --model user --delta WRONG --prompt Hello --max-new-tokens 2",
        "eval --model WRONG --delta delta --data rows.jsonl --json",
        "train --template WRONG --data rows.jsonl --delta-layers 1 --epochs 1 --output out",
        "train --template user --data rows.jsonl --delta WRONG --epochs 1 --output out",
    ],
    "delta": [
        "generate --model user --delta WRONG --prompt Hello --max-new-tokens 2",
        "eval --model user --delta WRONG --data rows.jsonl --json",
        "train --template user --data rows.jsonl --delta WRONG --epochs 1 --output out --json",
    ],
    "training rows": [
        "generate --model user --file WRONG --max-new-tokens 1",
        "eval --model user --delta delta --data WRONG --json",
        "train --template user --data WRONG --delta-layers 1 --epochs 1 --output out",
        "train --template user --data rows.jsonl --retain WRONG --delta-layers 1 --objective kl "
        "--epochs 1 --output out",
    ],
    "run": [
        "train --template user --data rows.jsonl --delta-layers 1 --epochs 1 --output WRONG "
        "--resume",
    ],
    "options": [
        "train --template user --data rows.jsonl --delta-layers 1 --output out --config WRONG",
    ],
    "adapter": [
        "generate --model user --delta WRONG --prompt Hello --max-new-tokens 2 --plausible NUMBER",
        "generate --model tiny.gguf --delta WRONG --prompt Hello --max-new-tokens 2 --gate NUMBER",
        "eval --model user --delta WRONG --adapter-base user --data rows.jsonl --alpha NUMBER",
        "eval --model user --delta WRONG --data rows.jsonl --json --plausible NUMBER",
        "eval --model user --model tiny.gguf --delta WRONG --data rows.jsonl --shifts "
        "--gate NUMBER",
        "train --template user --data rows.jsonl --delta WRONG --epochs 1 --output out --json",
        "chat --model user --delta WRONG --max-new-tokens 2 --gate NUMBER < talk",
    ],
    "base": [
        "generate --model user --delta adapter --adapter-base WRONG --prompt Hi --max-new-tokens 2",
        "eval --model user --delta foreign --adapter-base WRONG --data rows.jsonl --json",
        "train --template user --data rows.jsonl --delta-adapter 2 --adapter-base WRONG "
        "--epochs 1 --output out",
        "train --template WRONG --data rows.jsonl --delta-adapter 2 --epochs 1 --output out",
    ],
    "talker": [
        "chat --model WRONG --max-new-tokens 2 --temperature NUMBER < talk",
        "chat --model WRONG --delta delta --max-new-tokens 2 --gate NUMBER < talk",
        "chat --model user --delta WRONG --max-new-tokens 2 --alpha NUMBER --no-plain < talk",
    ],
    "talk": [
        "chat --model user --delta delta --max-new-tokens 2 --plausible NUMBER < WRONG",
        "chat --model user --delta foreign --max-new-tokens 2 --gate NUMBER --no-plain < WRONG",
    ],
    "gguf": [
        "generate --model WRONG --prompt Hello --max-new-tokens 2",
        "generate --model user --delta WRONG --prompt Hello --max-new-tokens 2 --json",
        "generate --model user --delta foreign --adapter-base WRONG --prompt Hi --max-new-tokens 2",
        "eval --model WRONG --delta delta --data rows.jsonl --json",
        "train --template WRONG --data rows.jsonl --delta-layers 1 --epochs 1 --output out",
    ],
    "cache": [
        "cache",
        "cache --json",
        "cache --clear",
        "generate --model tiny.gguf --prompt Hello --max-new-tokens 2",
        "eval --model tiny.gguf --delta delta --data rows.jsonl --json",
    ],
}


def commands(random: Random, kind: str) -> list[list[str]]:
    """Up to three commands, without their program, that take an input of this kind."""
    chosen = {
        "STRATEGY": random.choice(list(STRATEGIES)),
        "UNIT": random.choice(["char", "byte"]),
        "FORMAT": random.choice(list(FORMATS)),
    }
    some = random.sample(_COMMANDS[kind], min(3, len(_COMMANDS[kind])))
    words = [one.split() for one in some]
    return [[_given(random, word, chosen) for word in one] for one in words]


def _given(random: Random, word: str, chosen: dict[str, str]) -> str:
    return random.choice(_NUMBERS) if word == "NUMBER" else chosen.get(word, word)


def check_map(path: Path) -> None:
    """A map that is accepted holds what pyarrow, reading it by itself, finds in it."""
    try:
        token_map = load_map(path)
        columns = {name: token_map.column(name).to_pylist() for name in ("dst_id", "distance")}
    except MapFileError:
        return
    table = pa.ipc.open_file(path).read_all()
    for name, values in columns.items():
        assert values == table.column(name).to_pylist(), f"{name} is not what the file holds"
