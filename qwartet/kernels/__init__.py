"""Tensors in, tensors out: each operation once per backend, chosen by `select`."""
