"""Real text in many scripts: article 1 of the Universal Declaration of Human Rights, and more."""

import json
from pathlib import Path

_ROWS = (Path(__file__).parents[1] / "docs" / "article-1.jsonl").read_text("utf-8").splitlines()

ARTICLE_1 = {row["script"]: row["text"] for row in map(json.loads, _ROWS)}

ODDITIES = (
    "def f(x):\n\treturn {'a': [1, 22, 333, 4444]}  # ok\r\n\r\n\n   \n"
    "👩‍👩‍👧‍👦 🇺🇳 🙂 naïve café cafe\u0301 ﬁ Å \x00\x1b[31m\u202e\u200d"
    " <think>x</think> <|eot_id|> <s> [INST] <0x0A> ▁ ␣ \ufeff"
    f"{'=' * 70}{' ' * 40}{'ab' * 30} 12345678901234567890 don't WE'LL\n"
)

PROSE = "\n\n".join([*ARTICLE_1.values(), ODDITIES, *ARTICLE_1.values()]) + "\n"
