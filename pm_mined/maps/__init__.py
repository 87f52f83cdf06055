"""Token maps: in memory, in their file, and exported; internal, use what `pm_mined` exports."""
