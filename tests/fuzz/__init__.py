"""A fuzzer of the command lines: `python -m fuzz` in tests/, see `__main__`."""
