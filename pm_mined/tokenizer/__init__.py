"""Vocabularies and encoders of names, files, Hub repositories and objects; internal."""
