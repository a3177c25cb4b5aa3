"""What examples say about models: statistics for merges, and coefficients learned without labels.

Merging itself needs nothing of this: statistics are files, and what is learned is a recipe.
"""

from importlib.util import find_spec

from mergewise.learning.errors import ExamplesError

__all__ = ["ExamplesError"]

if find_spec("torch") is None or find_spec("transformers") is None:
    raise ExamplesError("Running models on examples needs torch and transformers; install 'mergewise[learning]'.")
