"""How far off a forecast is where scores fall with every expert: what merges keep, from few experts to the most.

    python benchmarks/declines.py [--tasks docs/study/tasks.parquet]

For every base and method of a study, what merges keep of their experts on their own tasks (score over expert's score,
mean over tasks and draws) is forecast for the largest number of experts from smaller ones, by the line of
`mergewise forecast`, and by no change since the largest of those. Printed are mean absolute errors and biases.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pyarrow import parquet

from mergewise import forecast

Curve = Mapping[int, float]


def main() -> None:
    """Print a line for every choice of measured numbers, overall and by method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, default=Path("docs/study/tasks.parquet"), help="a study's table of tasks")
    curves = kept(parser.parse_args().tasks)
    counts = sorted(next(iter(curves.values())))
    print(f"{len(curves)} curves; errors of what {counts[-1]} experts keep: mean of absolute values, mean")
    for use in (counts[:-2], counts[:-1]):
        print(f"from {', '.join(map(str, [1, *use]))} experts")
        groups = {"all": list(curves)} | {method: [key for key in curves if key[1] == method] for _, method in curves}
        for name, keys in groups.items():
            line = [line_at(curves[key], use, counts[-1]) - curves[key][counts[-1]] for key in keys]
            same = [curves[key][use[-1]] - curves[key][counts[-1]] for key in keys]
            print(f"  {name:16} line {_errors(line)}   no change {_errors(same)}")


def kept(path: Path) -> dict[tuple[str, str], Curve]:
    """Return, by base and method, what merges of each number of experts keep on their experts' tasks."""
    shares: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in parquet.read_table(path).to_pylist():
        if row["draw"] is not None and row["merged"]:
            shares[row["base"], row["method"]][row["k"]].append(row["score"] / row["expert"])
    return {key: {k: float(np.mean(found)) for k, found in sorted(curve.items())} for key, curve in shares.items()}


def line_at(curve: Curve, counts: Sequence[int], k: int) -> float:
    """Return the forecast for k experts from what one expert keeps, which is all, and from these numbers."""
    cells = {1: [0.0]} | {count: [1.0 - curve[count]] for count in counts}
    found = forecast(cells, experts=k, replicates=0)
    return 1.0 - found.curve[k - 1].loss


def _errors(errors: Sequence[float]) -> str:
    return f"{np.mean(np.abs(errors)):.3f} {np.mean(errors):+.3f}"


if __name__ == "__main__":
    main()
