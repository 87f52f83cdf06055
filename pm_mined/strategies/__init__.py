"""How ordinary tokens match; internal, use what `pm_mined` exports."""
