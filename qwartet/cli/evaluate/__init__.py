"""`qwartet evaluate`."""
