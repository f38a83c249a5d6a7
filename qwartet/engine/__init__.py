"""Requests in, tokens out: schedule, build a batch, run the model, sample, commit."""
