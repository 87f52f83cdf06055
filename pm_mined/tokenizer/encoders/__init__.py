"""Encode text: by the library that a tokenizer's format belongs to; internal."""
