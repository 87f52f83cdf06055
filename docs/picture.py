"""Draw docs/build.svg: three commands and their real output.

python docs/picture.py
"""

import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

COMMANDS = [
    "pm-mined build --src llama --dst qwen",
    "pm-mined show llama3-to-qwen3.arrow ' hello' ' elde' 128011 '<|eot_id|>' 0x0a --limit 0",
    "pm-mined show llama3-to-qwen3.arrow ' Avrupa'",
]


def main() -> None:
    """Run the commands and draw their output."""
    console = Console(record=True, width=96, file=io.StringIO())
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            console.print(Text(f"$ {command}", style="bold green"))
            console.print(Text.from_ansi(output_of(command, folder)))
            console.print()
    svg = console.export_svg(title="pm-mined", theme=MONOKAI, code_format=without_fonts())
    Path(__file__).with_name("build.svg").write_text(svg, encoding="utf-8")


def output_of(command: str, folder: str) -> str:
    """The output of a command on a terminal with colours."""
    words = [sys.executable, "-m", "pm_mined", *shlex.split(command)[1:]]
    environ = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "96"}
    done = subprocess.run(
        words, cwd=folder, env=environ, capture_output=True, text=True, check=True
    )
    return done.stdout


def without_fonts() -> str:
    """Rich's frame without fonts from the network."""
    return re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


if __name__ == "__main__":
    main()
