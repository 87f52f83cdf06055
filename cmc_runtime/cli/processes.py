"""The processes of a training, as accelerate and torchrun number them in variables."""

import os

from pm_mined import OptionError

_NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


def check_processes() -> None:
    """Refuse numbers of processes that are none.

    Raises:
        OptionError: a variable is not a number.
    """
    for name in _NUMBERS:
        value = os.environ.get(name, "0")
        if not value.isdecimal():
            raise OptionError(f"the variable {name} is {value!r}; expected a number: unset it")


def is_main_process() -> bool:
    """True in the one process that writes and speaks."""
    return int(os.environ.get("RANK", "0")) == 0
