"""Encoders of text, by the library that a format belongs to; internal."""
