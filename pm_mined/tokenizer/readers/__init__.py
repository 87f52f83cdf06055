"""Readers of tokenizer files, one module a format; internal."""
