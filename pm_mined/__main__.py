"""`pm-mined`, which is also `python -m pm_mined`."""

from .interrupt import run_program


def main() -> None:
    """Run `pm-mined`; Ctrl-C is heard before anything large is imported."""
    run_program("pm-mined", _start)


def _start() -> None:
    from .cli import main as run

    run()


if __name__ == "__main__":
    main()
