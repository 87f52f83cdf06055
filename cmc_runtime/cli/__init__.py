"""The command line of the runtime: one module per command.

Commands import what they need when they run: `cmc-runtime --help` loads no torch.
"""

from pm_mined.cli.shell import application, run

from . import cache, chat, convert, generate, train
from .eval import evaluate

app = application("cmc-runtime", "Steer language models with delta models.")
app.command("train")(train.train)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("eval")(evaluate)
app.command("convert")(convert.convert)
app.command("cache")(cache.cache)


def main() -> None:
    """Run `cmc-runtime`."""
    run(app)
