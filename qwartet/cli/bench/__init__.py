"""`qwartet bench`: what is measured, one verb each."""
