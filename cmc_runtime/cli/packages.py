"""A check that the packages of a command are installed, before anything is imported."""

from importlib.util import find_spec

from pm_mined import PmMinedError


def check_runtime() -> None:
    """Refuse to run without torch and the like: building maps does not need them.

    Raises:
        PmMinedError: the extra `runtime` is not installed.
    """
    missing = [name for name in ("torch", "transformers", "accelerate") if find_spec(name) is None]
    if missing:
        raise PmMinedError(
            f"this needs {', '.join(missing)}: run `pip install 'pm-mined[runtime]'`, or "
            "`pip install '.[runtime]'` in a clone"
        )
