"""Searching for a merge: candidates are merges, their fitness is measured on validation items, the best is kept.

`spec` says what a search is, `strategies` propose candidates, `candidates` turns them into cells and recipes, `run`
carries a search out, `results` sums it up.
"""

from mergewise.study.evolve.run import Estimate, EvolveResult, estimate, run_evolve
from mergewise.study.evolve.spec import EvolveSpec, Search, load_evolve_spec, resolve_evolve

__all__ = [
    "Estimate",
    "EvolveResult",
    "EvolveSpec",
    "Search",
    "estimate",
    "load_evolve_spec",
    "resolve_evolve",
    "run_evolve",
]
