"""The model card's own Python interface on Qwartet's engine, its quirks included; imports no transformers."""
