"""The hand-editable table of overrides; internal."""
