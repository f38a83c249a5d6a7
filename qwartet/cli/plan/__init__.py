"""`qwartet plan`: whether a model fits this machine or given GPUs."""
