"""`qwartet plan`: whether a model fits, on this machine and on GPUs."""
