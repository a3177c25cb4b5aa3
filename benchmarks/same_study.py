"""Whether two runs of a study scored the same, task by task: exits with 1 and names what differs if they did not.

    python benchmarks/same_study.py OUT docs/study/tasks.parquet    # a run of one's own and the one in the docs

Rows are one task of one merge or reference. A run of some bases or methods is compared on what both have.
"""

import argparse
import sys
from pathlib import Path

from pyarrow import parquet

__all__ = ["differences", "main"]

KEY = ("base", "method", "k", "draw", "experts", "task")
SHOWN = 5


def main() -> None:
    """Compare, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2, help="folders of results, or their tasks.parquet")
    one, other = (read(path) for path in parser.parse_args().runs)
    shared, found = differences(one, other)
    print(f"{len(shared)} scores are in both runs ({len(one)} and {len(other)}); {len(found)} differ")
    for key in found[:SHOWN]:
        print(f"  {', '.join(map(str, key))}: {one[key]} and {other[key]}")
    sys.exit(1 if found or not shared else 0)


def read(path: Path) -> dict[tuple[object, ...], float]:
    """Return the scores of a run by what they are of."""
    rows = parquet.read_table(path / "tasks.parquet" if path.is_dir() else path).to_pylist()
    return {tuple(row[name] for name in KEY): row["score"] for row in rows}


def differences(
    one: dict[tuple[object, ...], float], other: dict[tuple[object, ...], float]
) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Return what both runs scored, and where they differ."""
    shared = [key for key in one if key in other]
    return shared, [key for key in shared if one[key] != other[key]]


if __name__ == "__main__":
    main()
