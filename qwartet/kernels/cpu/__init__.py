"""The native CPU backend: a C++ library with a plain C interface, the layout of its weights, its tensor operations."""
