"""Turning a float checkpoint into a GPTQ one: the quantiser of a group, the Hessian of a linear, the solver."""
