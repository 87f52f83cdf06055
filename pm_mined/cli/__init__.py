"""The command line: one module per command group; results on stdout, notes on stderr.

Commands import what they need when they run: `pm-mined --help` loads no Numba and no Arrow.
"""

import gc

from . import audit, bench, build, compare, export, overrides, shell, verify, vocab
from .native_stderr import hold_back_native_stderr
from .show import command as show

app = shell.application("pm-mined", "Token maps between the vocabularies of language models.")
app.command("build", cls=build.BuildCommand)(build.build)
app.command("audit")(audit.audit)
app.command("show")(show.show)
app.command("verify")(verify.verify)
app.command("compare")(compare.compare)
app.command("export")(export.export)
app.command("bench")(bench.bench)
app.add_typer(vocab.app, name="vocab")
app.add_typer(overrides.app, name="overrides")


def main() -> None:
    """Run `pm-mined`."""
    gc.disable()  # a command is a short process, and what is loaded is never garbage
    try:
        with hold_back_native_stderr():
            shell.run(app)
    finally:
        gc.freeze()  # spares the exit a walk over all that Numba has loaded
