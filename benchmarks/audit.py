"""The time of an audit: the command, its page, and text beside the tokenizer's own speed.

    python benchmarks/audit.py [--src NAME...] [--dst NAME] [--megabytes N] [--runs N] [--json]

Nothing is timed before the tokens counted block by block are those of the text as a whole.
benchmarks/README.md says what each figure means.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import (
    ProcessRun,
    Report,
    Spread,
    command_line,
    interleaved,
    run_process,
    seconds_of,
    spread,
)
from numpy.typing import NDArray

from pm_mined import TokenMap, build_map
from pm_mined.reports.usage import count_uses
from pm_mined.tokenizer.encoders.libraries import Encode
from pm_mined.tokenizer.encoders.load import load_encoder

COMMAND = [sys.executable, "-m", "pm_mined", "audit"]
DEFAULT_SOURCES = ["qwen", "deepseek", "mistral-v1"]  # tiktoken, tokenizers, sentencepiece
MOST_IDS = 300_000  # more than any of the tokenizers has
ONCE = (
    "All human beings are born free and equal in dignity and rights.\n"
    "Все люди рождаются свободными и равными в своем достоинстве и правах.\n"
    "人人生而自由，在尊严和权利上一律平等。\n\n"
    "for (int i = 0; i < 1234; i++) {\n    total += weights[i] * 0.5;  // naïve\n}\n"
    "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق.\n"
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है।\n"
)


def make_text(megabytes: int, seed: int = 0) -> str:
    """Lines of five scripts and code in random order, so that no two blocks are alike."""
    lines = np.array(ONCE.splitlines(keepends=True), object)
    size = sum(len(line.encode()) for line in lines) / len(lines)
    picks = np.random.default_rng(seed).integers(0, len(lines), int(megabytes * 1e6 / size))
    return "".join(lines[picks])


def count_text(text: str, encode: Encode) -> NDArray[np.int64]:
    """The uses of each token in one text."""
    return count_uses([iter([text])], encode, MOST_IDS).uses


def check_counts(encode: Encode, text: str, what: str) -> None:
    """The correctness gate: exit 1 unless the counts are those of the text as a whole."""
    sample = text[:300_000]
    (whole,) = encode([sample])
    if not np.array_equal(count_text(sample, encode), np.bincount(whole, minlength=MOST_IDS)):
        sys.exit(f"{what}: wrong counts, so no times")


def text_speeds(report: Report, names: list[str], text: str, runs: int) -> list[dict[str, Any]]:
    """Counting the uses in a text, beside the tokenizer alone on the same text in pieces."""
    rows, found = [], []
    pieces = ["".join(chunk) for chunk in np.array_split(text.splitlines(keepends=True), 256)]
    megabytes = len(text.encode()) / 1e6
    for name in names:
        encode = load_encoder(name)
        check_counts(encode, text, name)
        seconds = seconds_of(
            runs,
            {
                "counted": partial(count_text, text, encode),
                "tokenizer": partial(encode, pieces),
            },
        )
        speeds = {key: megabytes / value.median for key, value in seconds.items()}
        ratio = speeds["counted"] / speeds["tokenizer"]
        shown = (f"{speeds[key]:.1f}" for key in ("counted", "tokenizer"))
        rows.append((name, *shown, f"{ratio:.2f}"))
        found.append({"tokenizer": name, "seconds": seconds, "ratio": ratio})
    report.table(("tokenizer", "MB/s", "alone, MB/s", "ratio"), rows)
    return found


def whole_commands(report: Report, token_map: TokenMap, text: str, runs: int) -> dict[str, Any]:
    """The command from start to end: alone, with the page, and with the text."""
    with tempfile.TemporaryDirectory() as folder:
        map_file, page, corpus = (Path(folder, name) for name in ("map.arrow", "page", "text"))
        token_map.save(map_file)
        corpus.write_text(text, encoding="utf-8")
        commands = {
            "audit": [*COMMAND, str(map_file)],
            "audit --html": [*COMMAND, str(map_file), "--html", str(page)],
            "audit --text": [*COMMAND, str(map_file), "--text", str(corpus)],
        }
        runners = {name: partial(run_process, command) for name, command in commands.items()}
        samples: dict[str, list[ProcessRun]] = interleaved(runs, runners)
        size = page.stat().st_size / 1e6
    seconds: dict[str, Spread] = {
        name: spread([run.seconds for run in found]) for name, found in samples.items()
    }
    peaks = {name: max(run.peak_mb for run in found) for name, found in samples.items()}
    rows = [(name, f"{seconds[name].median:.2f}", f"{peaks[name]:.0f}") for name in commands]
    report.table(("whole process", "s", "peak MB"), rows)
    report.line(f"the page has {size:.1f} MB")
    return {"seconds": seconds, "peak_mb": peaks, "page_mb": size}


def main() -> None:
    """Measure and report."""
    parser = command_line(__doc__)
    parser.add_argument("--src", nargs="+", default=DEFAULT_SOURCES, help="vocabularies by name")
    parser.add_argument("--dst", default="llama", help="what the first of them is mapped onto")
    parser.add_argument("--megabytes", type=int, default=20, help="of text")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()

    report = Report("audit", json_only=options.json)
    text = make_text(options.megabytes)
    report.line(f"{options.megabytes} MB of text in five scripts\n")
    report.document["text"] = text_speeds(report, options.src, text, options.runs)
    token_map = build_map(options.src[0], options.dst)
    src, dst = token_map.info.src, token_map.info.dst
    report.line(f"{src.name} ({src.size:,} tokens) -> {dst.name} ({dst.size:,} tokens)")
    report.document["whole"] = whole_commands(report, token_map, text, options.runs)
    report.finish()


if __name__ == "__main__":
    main()
