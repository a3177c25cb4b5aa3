"""How many experts fit, from a survey alone: textbook tools put together in our own way; see ``docs/limits.md``.

And what more experts would bring, from a few measured merges: a published law; see ``docs/forecast.md``.

Functions of arrays, and a few frozen dataclasses that hold what they return.
"""
