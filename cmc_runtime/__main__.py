"""`cmc-runtime`, which is also `python -m cmc_runtime`."""

from pm_mined.interrupt import run_program


def main() -> None:
    """Run `cmc-runtime`; Ctrl-C is heard before anything large is imported."""
    run_program("cmc-runtime", _start)


def _start() -> None:
    from .cli import main as run

    run()


if __name__ == "__main__":
    main()
