"""The first small study: the zoo's real experts, five merge methods, and 2, 4 and 8 experts."""

from importlib.resources import files
from pathlib import Path

from mergewise.study.spec import Study, load_spec, resolve

__all__ = ["demo_study"]


def demo_study() -> Study:
    """Return the study that the demo is: a preset like any other spec."""
    return resolve(load_spec(Path(str(files("mergewise.study") / "presets" / "demo.yaml"))))
