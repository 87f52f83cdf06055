"""What a person reads of a map; internal, use what `pm_mined` exports."""
