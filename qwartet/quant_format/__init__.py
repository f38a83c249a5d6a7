"""What a GPTQ or AWQ checkpoint is: its configuration, its packed integers, its weights. It contains no algorithm."""
