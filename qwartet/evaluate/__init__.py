"""Benchmarks of a model's answers, with the protocols of the published evaluation scripts."""
