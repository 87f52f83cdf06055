"""A fuzzer of the command lines: see `__main__`."""
