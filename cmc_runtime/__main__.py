"""`python -m cmc_runtime` is `cmc-runtime`."""

from .cli import main

main()
