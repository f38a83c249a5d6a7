"""Fine-tuning over transformers' Trainer: full, LoRA and Q-LoRA; merging adapters."""
