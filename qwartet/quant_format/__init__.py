"""What a GPTQ checkpoint is: its configuration, its packed integers, its weights. It contains no algorithm."""
