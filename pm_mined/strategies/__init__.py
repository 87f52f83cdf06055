"""Strategies to match ordinary tokens; internal."""
