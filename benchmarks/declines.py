"""How far off a forecast is where scores fall with every expert: what merges keep, from few experts to the most.

    python benchmarks/declines.py [--tasks docs/study/tasks.parquet]

For every base and method of a study, what merges keep of their experts on their own tasks (score over expert's score,
mean over tasks and draws) is forecast for larger numbers of experts from smaller ones, by the line of
`mergewise forecast`, and by no change since the largest of those. Printed are mean absolute errors and biases, and how
many of the line's 95 % intervals hold what was measured, with how wide they are on average.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pyarrow import parquet

from mergewise import forecast
from mergewise.theory.cells import Cells
from mergewise.theory.forecast import Forecast

Key = tuple[str, str]
Curve = Mapping[int, Sequence[float]]


def main() -> None:
    """Print a line for every choice of measured numbers and of one to forecast, overall and by method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, default=Path("docs/study/tasks.parquet"), help="a study's table of tasks")
    curves = kept(parser.parse_args().tasks)
    counts = sorted(next(iter(curves.values())))
    print(f"{len(curves)} curves; errors of what experts keep: mean of absolute values, mean")
    groups = {"all": list(curves)} | {method: [key for key in curves if key[1] == method] for _, method in curves}
    for use, k in ((counts[:-2], counts[-2]), (counts[:-2], counts[-1]), (counts[:-1], counts[-1])):
        print(f"of {k} from {', '.join(map(str, [1, *use]))} experts")
        for name, keys in groups.items():
            found = {key: foreseen(curves[key], use, k) for key in keys}
            line = [1.0 - found[key].curve[k - 1].loss - float(np.mean(curves[key][k])) for key in keys]
            same = [float(np.mean(curves[key][use[-1]]) - np.mean(curves[key][k])) for key in keys]
            print(f"  {name:16} line {_errors(line)}   no change {_errors(same)}   {_held(found, curves, k)}")


def kept(path: Path) -> dict[Key, Curve]:
    """Return, by base and method, what merges of each number of experts keep on their experts' tasks, by draw."""
    shares: dict[Key, dict[int, dict[int, list[float]]]] = {}
    for row in parquet.read_table(path).to_pylist():
        if row["draw"] is not None and row["merged"]:
            draws = shares.setdefault((row["base"], row["method"]), {}).setdefault(row["k"], defaultdict(list))
            draws[row["draw"]].append(row["score"] / row["expert"])
    return {
        key: {k: [float(np.mean(shared)) for shared in draws.values()] for k, draws in sorted(curve.items())}
        for key, curve in shares.items()
    }


def foreseen(curve: Curve, counts: Sequence[int], k: int) -> Forecast:
    """Return the forecast for k experts from what one keeps, which is all, and from these numbers."""
    numbers = [1] + [count for count in counts for _ in curve[count]]
    losses = [0.0] + [1.0 - share for count in counts for share in curve[count]]
    return forecast(Cells(np.array(numbers), np.array(losses), scores=True), experts=k)


def _held(found: Mapping[Key, Forecast], curves: Mapping[Key, Curve], k: int) -> str:
    """Say how many intervals hold what was measured, of the curves that fall, so that they have a line."""
    held, widths = 0, []
    for key, one in found.items():
        point = one.curve[k - 1]
        if one.decline is not None and point.low is not None and point.high is not None:
            held += int(point.low <= 1.0 - np.mean(curves[key][k]) <= point.high)
            widths.append(point.high - point.low)
    return f"intervals of lines hold {held} of {len(widths)}" + (f", {np.mean(widths):.3f} wide" if widths else "")


def _errors(errors: Sequence[float]) -> str:
    return f"{np.mean(np.abs(errors)):.3f} {np.mean(errors):+.3f}"


if __name__ == "__main__":
    main()
