"""A user model steered while it writes."""
