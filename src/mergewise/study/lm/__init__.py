"""Causal language models of transformers as a family: trained by its Trainer, scored by lm-evaluation-harness.

Everything here needs the `lm` extra, but for the catalogue (`options`, `presets`, `bases`) that specs are checked with.
"""
