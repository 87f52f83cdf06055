"""Vocabularies held against the libraries of their formats; internal."""
