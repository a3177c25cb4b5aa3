"""Fused CPU loops: raw storage bytes in, raw storage bytes out, nothing else.

Every kernel takes its inputs as one ``uint8`` matrix with a row per model, and works tile by tile: decode to
float64, compute, encode once. float64 inside is what makes one rounding step of *any* storage dtype hold; on
half-precision checkpoints the loops stay bound by memory, not by arithmetic.

Importing this package compiles nothing; the first call of each kernel does, once per machine (numba's disk cache).
"""
