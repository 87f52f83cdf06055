"""A fuzzer of the command lines, and kills at any moment: see `__main__` and `kills`."""
