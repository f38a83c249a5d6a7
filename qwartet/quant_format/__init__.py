"""What a GPTQ checkpoint is: its configuration, its packed integers, its weights. No algorithm lives here."""
