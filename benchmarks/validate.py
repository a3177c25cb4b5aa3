"""How far `limits` can be trusted: docs/validation.md with its figures, from families of known truth and from the zoo.

    python benchmarks/validate.py [--cache FOLDER] [--cells FOLDER] [--studies FOLDER] [--write docs]

Merges of the zoo are scored once and kept (`zoo_cells.py`); a study's cells are taken as they are.
"""

import argparse
import sys
from pathlib import Path

import validation_page
from mergewise.zoo.build import default_cache
from validate_linear_ranks import FORMS, linear_ranks
from validate_synthetic import cases, find
from validate_zoo import gather

__all__ = ["main"]


def main() -> None:
    """Measure, print the page, and write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=None, help="where the zoo is kept")
    parser.add_argument("--cells", type=Path, default=None, help="where merges of subsets are kept (CACHE/subsets)")
    parser.add_argument("--studies", type=Path, default=None, help="cells of studies (CACHE/cells)")
    parser.add_argument("--bases", default="", help="only these of the zoo, with commas between them")
    parser.add_argument("--write", type=Path, default=None, help="a folder for validation.md and its figures")
    options = parser.parse_args()
    import torch  # noqa: PLC0415 - which asking for help does not need

    torch.set_num_threads(1)
    cache = (options.cache or default_cache()).absolute()
    cells, studies = options.cells or cache / "subsets", options.studies or cache / "cells"
    evidence = gather(cache, cells, studies, [name for name in options.bases.split(",") if name], _report)
    _report("linear models")
    linear = {name: linear_ranks(form) for name, form in FORMS.items()}
    _report("experts of known rank")
    known = [(case, find(case)) for case in cases()]
    text, figures = validation_page.page(known, linear, evidence)
    print(text)
    if options.write:
        (options.write / "validation").mkdir(parents=True, exist_ok=True)
        (options.write / "validation.md").write_text(text, "utf-8")
        for name, figure in figures.items():
            (options.write / "validation" / name).write_text(figure, "utf-8")


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
