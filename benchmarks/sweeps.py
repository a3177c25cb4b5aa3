"""What a sweep saves: all settings of a method's grid at once, against one merge after another, on the zoo's experts.

    python benchmarks/sweeps.py SPEC [--base NAME] [--experts 8] [--runs 3]

Uses the models that a study has trained already (`mergewise study run SPEC`), on one thread, from the page cache, and
checks that both ways give the same bytes. Seconds are the least of the runs.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from mergewise.cache import cache_folder
from mergewise.engine.arrays import merge_to_arrays
from mergewise.engine.sweep import merge_sweep_to_arrays
from mergewise.recipe import Recipe
from mergewise.study.family import Training
from mergewise.study.spec import load_spec, resolve


def main() -> None:
    """Measure every tuned method of a spec and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--base")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    study = resolve(load_spec(chosen.spec))
    cache = cache_folder().absolute()
    shop = study.family.open(cache, print)
    name = chosen.base or study.bases[-1].name
    sources = [shop.base(name), *(shop.expert(name, category) for category in study.names)]
    paths = [str(cache / one.place if isinstance(one, Training) else one.path) for one in sources]
    base, experts = paths[0], [path for path in paths[1:] if Path(path).is_dir()][: chosen.experts]
    print(f"{name}, {len(experts)} experts")
    print("| method | settings | one by one, s | sweep, s | gain |")
    print("|---|---|---|---|---|")
    for method in study.protocol.methods:
        if not method.grid:
            continue
        settings = method.settings(study.protocol.seed)
        recipes = [
            Recipe(method=method.merge_method, base=base, experts=experts, parameters=setting, dtype="float32")
            for setting in settings
        ]
        apart = together = float("inf")
        for _ in range(chosen.runs):
            began = time.perf_counter()
            for recipe in recipes:
                merge_to_arrays(recipe, threads=1)
            apart = min(apart, time.perf_counter() - began)
            began = time.perf_counter()
            for _merged in merge_sweep_to_arrays(recipes, threads=1):
                pass
            together = min(together, time.perf_counter() - began)
        for recipe, merged in zip(recipes, merge_sweep_to_arrays(recipes, threads=1), strict=True):
            alone = merge_to_arrays(recipe, threads=1)
            if not all(np.array_equal(alone[key].view(np.uint8), merged[key].view(np.uint8)) for key in alone):
                raise SystemExit(f"{method.name} {recipe.parameters}: a sweep must give the same bytes, but does not")
        print(
            f"| {method.label} | {len(settings)} | {apart:.2f} | {together:.2f} | {apart / together:.1f}× |", flush=True
        )


if __name__ == "__main__":
    main()
