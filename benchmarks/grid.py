"""What the cells of a study take: seconds of sweeps and of scoring, beside the estimates of a dry run.

    python benchmarks/grid.py SPEC [--base NAME ...] [--experts 2 8] [--items 120]

Uses the models that are trained already (`mergewise study run SPEC`), on one thread, from the page cache. Seconds are
processor seconds, so that other programs disturb them little. What `SPEED`, `KEPT` and `SCALED` of `study/grid.py` and
`ITEM_SECONDS` of `zoo/family.py` should be follows from the last table.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.numpy import load_file

from mergewise.cache import cache_folder
from mergewise.engine.sweep import merge_sweep_to_arrays
from mergewise.method import find_method
from mergewise.recipe import Recipe
from mergewise.study.cells import Bench, Model
from mergewise.study.family import Training
from mergewise.study.protocol import Method, Value
from mergewise.study.spec import load_spec, resolve


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--base", nargs="*")
    parser.add_argument("--experts", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--items", type=int, default=120)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    study = resolve(load_spec(chosen.spec))
    shop = study.family.open(cache_folder().absolute(), print)
    bases = [base for base in study.bases if base.name in (chosen.base or [base.name])]
    speeds = _Speeds()
    print("| base | experts | method | first, s | each further change, s | each further λ, s |")
    print("|---|---|---|---|---|---|")
    for base in bases:
        sources = [shop.base(base.name), *(shop.expert(base.name, category) for category in study.names)]
        folders = [_folder(one) for one in sources]
        if all(folder.is_dir() for folder in folders):
            for count in chosen.experts:
                for method in study.protocol.methods:
                    print(speeds.row(base.name, folders[: count + 1], base.nbytes, method), flush=True)
    print("\n| base | items | ms an item | estimated |")
    print("|---|---|---|---|")
    for base in bases:
        source = shop.base(base.name)
        folder = _folder(source)
        if folder.is_dir():
            bench = shop.bench(Model(base.name, folder, ""))
            for label, categories in (("held-in", study.held_in), ("held-out", study.held_out)):
                tasks = [task for category in categories for task in category.tasks]
                each = _item_seconds(bench, folder, tasks, chosen.items)
                print(
                    f"| {base.name} | {label} | {1e3 * each:.2f} | {1e3 * study.family.item_seconds(base.name):.2f} |"
                )
    speeds.summary()


def _folder(source: Training | Model) -> Path:
    return cache_folder().absolute() / source.place if isinstance(source, Training) else source.path


class _Speeds:
    """Seconds and bytes of all sweeps, by what they are for."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def row(self, base: str, folders: Sequence[Path], nbytes: int, method: Method) -> str:
        """Time a single merge (the second one, as the first compiles), then the method's whole grid."""
        settings = method.settings(0)
        _seconds(method, folders, settings[:1])
        (alone,) = _seconds(method, folders, settings[:1])
        self._add(find_method(method.merge_method).family, alone, nbytes * len(folders))
        if len(settings) == 1:
            return f"| {base} | {len(folders) - 1} | {method.label} | {alone:.2f} | | |"
        took = _seconds(method, folders, settings)
        changes = [{name: value for name, value in one.items() if name != "lambda"} for one in settings]
        new = [index for index, change in enumerate(changes) if change not in changes[:index]]
        scaled = [seconds for index, seconds in enumerate(took) if index not in new]
        others = [took[index] for index in new[1:]]
        self._add("scaled", sum(scaled), nbytes * len(scaled))
        self._add("kept", sum(took[index] - alone for index in new), nbytes * len(new))
        cells = [f"{took[0]:.2f}", *(f"{sum(part) / len(part):.2f}" if part else "" for part in (others, scaled))]
        return f"| {base} | {len(folders) - 1} | {method.label} | {' | '.join(cells)} |"

    def _add(self, kind: str, seconds: float, nbytes: float) -> None:
        self._sums[kind][0] += seconds
        self._sums[kind][1] += nbytes

    def summary(self) -> None:
        """Print bytes per second over all that was timed."""
        print("\n| what | bytes a second |")
        print("|---|---|")
        for kind, (seconds, nbytes) in self._sums.items():
            print(f"| {kind} | {nbytes / seconds:.1e} |")


def _seconds(method: Method, folders: Sequence[Path], settings: Sequence[dict[str, Value]]) -> list[float]:
    """Return the processor seconds of every setting of a sweep."""
    base, *experts = (str(folder) for folder in folders)
    recipes = [
        Recipe(method=method.merge_method, base=base, experts=experts, parameters=setting, dtype="float32")
        for setting in settings
    ]
    took, began = [], time.process_time()
    for _ in merge_sweep_to_arrays(recipes, threads=1):
        took.append(time.process_time() - began)
        began = time.process_time()
    return took


def _item_seconds(bench: Bench, folder: Path, tasks: Sequence[str], items: int) -> float:
    """Return the mean over tasks, once texts are tokenized and choices embedded."""
    tensors = load_file(folder / "model.safetensors")
    bench.score(tensors, tasks, "test", items)
    began = time.process_time()
    scores = bench.score(tensors, tasks, "test", items)
    return (time.process_time() - began) / sum(map(len, scores.values()))


if __name__ == "__main__":
    main()
