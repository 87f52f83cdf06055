"""`python -m pm_mined` is `pm-mined`."""

from .cli import main

main()
