"""Recipe: give the bundled model a new persona with Q-LoRA."""
