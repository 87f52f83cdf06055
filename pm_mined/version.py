"""The version of pm-mined, which maps and reports record."""

__version__ = "0.1.0"
