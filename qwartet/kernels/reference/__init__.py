"""The reference for each operation: plain torch on any device, differentiable where training needs it."""
