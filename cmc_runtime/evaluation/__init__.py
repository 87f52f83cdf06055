"""How well models predict and answer, alone and with a delta model."""
