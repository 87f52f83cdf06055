"""Adapters to inference engines, one file each; internal."""
