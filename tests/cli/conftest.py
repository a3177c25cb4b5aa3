"""A folder with a base and two experts to stand in, and the command line as a function."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import support
from mergewise.cli.app import main


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)


class World:
    """The folder that a command runs in.

    Attributes:
        folder: Where it is; commands run in it.
        base: Arrays of the checkpoint ``base``.
        experts: Arrays of the checkpoints ``e1`` and ``e2``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = support.model_arrays(0)
        self.experts = [support.expert_of(self.base, seed) for seed in (1, 2)]
        for name, arrays in (("base", self.base), ("e1", self.experts[0]), ("e2", self.experts[1])):
            support.save_model(folder / name, arrays)

    def recipe(self, **changes: Any) -> str:
        """Write ``recipe.yaml``, a task arithmetic of both experts but for the changes, and return its name."""
        content = {
            "merge_method": "task_arithmetic",
            "base_model": "base",
            "models": [{"model": "e1"}, {"model": "e2"}],
            "parameters": {"weight": 0.5},
        }
        content = {key: value for key, value in (content | changes).items() if value is not None}
        support.write_recipe(self.folder / "recipe.yaml", content)
        return "recipe.yaml"

    def text(self, content: str | bytes) -> str:
        """Write ``recipe.yaml`` as it is given, and return its name."""
        (self.folder / "recipe.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
        return "recipe.yaml"

    def expert(self, **changes: Any) -> None:
        """Write ``e2`` anew, with other arrays under some names; ``None`` takes a tensor out."""
        arrays = {name: array for name, array in (self.experts[1] | changes).items() if array is not None}
        support.save_model(self.folder / "e2", arrays)

    @property
    def weights(self) -> Path:
        """The file of weights of ``e2``."""
        return self.folder / "e2" / "model.safetensors"


@pytest.fixture
def world(tmp_path, monkeypatch):
    folder = tmp_path / "world"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "300")  # so that no message is broken into lines
    monkeypatch.setenv("NO_COLOR", "1")
    return World(folder)


@pytest.fixture
def run(monkeypatch, capfd):
    """Run a command in this process."""

    def command(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mergewise", *map(str, arguments)])
        capfd.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        out, err = capfd.readouterr()
        err = support.without_progress(err)
        return Outcome(0 if code is None else code, out, err)

    return command
