"""The hand-editable table of overrides; internal, use what `pm_mined` exports."""
