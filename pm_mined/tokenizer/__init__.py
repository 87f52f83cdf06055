"""Where vocabularies and encoders come from; internal, use what `pm_mined` exports."""
