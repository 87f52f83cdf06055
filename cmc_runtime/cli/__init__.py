"""The command line of the runtime: one module per command.

Commands import what they need when they run: `cmc-runtime --help` loads no torch.
"""

from pm_mined.cli import shell

from . import generate

app = shell.application("cmc-runtime", "Steer language models with delta models.")
app.command("generate")(generate.generate)


def main() -> None:
    """Run `cmc-runtime`."""
    shell.run(app)
