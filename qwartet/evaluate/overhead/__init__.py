"""How much an evaluation costs beside its engine: `qwartet bench evaluation`."""
