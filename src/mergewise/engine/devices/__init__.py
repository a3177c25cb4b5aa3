"""Merging on a device of torch's, by the methods' own definitions in place of the compiled kernels."""
