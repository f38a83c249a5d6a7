"""`qwartet profile`: the card's table of speed and memory."""
