"""The benchmarks are scripts, not a package: their folder comes last, so that it hides no package of tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
