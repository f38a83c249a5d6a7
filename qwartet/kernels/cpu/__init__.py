"""The native CPU backend: a C++ library with a plain C interface, its weights in panels, its operations on tensors."""
