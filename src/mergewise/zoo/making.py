"""How the models of the zoo come about, and the processes that make them.

A `Making` says what a model is made from; its entry in the cache bears the hash of all that. Makings need each other
(an expert its base, a small base the whole one) and are carried out in an order in which needs come first, several at a
time, each in a process of its own. Whoever is killed loses the models in the making and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import mergewise
from mergewise.zoo.bases import HealingRecipe
from mergewise.zoo.errors import ZooError
from mergewise.zoo.experts import Recipe
from mergewise.zoo.store import is_whole, make_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["Healing", "Making", "Tuning", "Work", "carry_out", "make_missing", "missing_models"]


@dataclass(frozen=True)
class Tuning:
    """Train on tasks.

    Attributes:
        tasks_file: where the tasks are.
        heads: folder of the encoder that embeds the label texts.
        lessons: names of tasks, each with its recipe.
    """

    tasks_file: Path
    heads: Path
    lessons: tuple[tuple[str, Recipe], ...]


@dataclass(frozen=True)
class Healing:
    """Keep the first layers and distil.

    Attributes:
        texts_file: where the unlabelled texts are.
        layers: how many to keep.
        recipe: how to distil.
    """

    texts_file: Path
    layers: int
    recipe: HealingRecipe


Work: TypeAlias = Tuning | Healing

FOLDERS = {"base": "base", "expert": "experts", "multitask": "experts"}


@dataclass(frozen=True)
class Making:
    """How one model comes about.

    Attributes:
        name: for people, such as "it-2/spam".
        kind: what it is to a study.
        base: folder of the model it starts from, or how that comes about.
        base_key: what stands for that model: the SHA-256 of its weights, or the key of its making.
        inputs: all that the result depends on but the base, as plain JSON free of paths.
        work: what to do.
        seconds: that it takes on one core, estimated.
        given_place: where in the cache it is, if not where its name and key say.
    """

    name: str
    kind: Literal["base", "expert", "multitask"]
    base: Making | Path
    base_key: str
    inputs: Mapping[str, Any]
    work: Work
    seconds: float
    given_place: str = ""

    @cached_property
    def key(self) -> str:
        """SHA-256, in hexadecimal, of all that the model is made from."""
        content = json.dumps([self.kind, self.base_key, dict(self.inputs)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def place(self) -> str:
        """Where in the cache it is."""
        name = self.name.replace("/", "-").replace(" ", "_")
        return self.given_place or f"{FOLDERS[self.kind]}/{name}-{self.key[:16]}"


def carry_out(work: Work, base: Path, folder: Path) -> None:
    """Do the work on one thread, in this process: write the model made from `base` into a folder."""
    import torch  # noqa: PLC0415 - slow, and not needed to plan

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums keep their order, and two processes of one thread are faster than one of two
    try:
        if isinstance(work, Healing):
            from mergewise.zoo.healing import heal, load_texts  # noqa: PLC0415

            heal(base, load_texts(work.texts_file), work.layers, folder, work.recipe)
        else:
            from mergewise.zoo.store import load_tasks  # noqa: PLC0415
            from mergewise.zoo.training import train_on_tasks  # noqa: PLC0415

            tasks = load_tasks(work.tasks_file)
            train_on_tasks(base, [(tasks[name], recipe) for name, recipe in work.lessons], folder, work.heads)
    finally:
        torch.set_num_threads(threads)


def make_missing(cache: Path, makings: Iterable[Making], jobs: int, report: Callable[[str], None]) -> None:
    """Make all models that the cache lacks, and what they need, in several processes of one thread each.

    Args:
        cache: the folder that their places are in.
        makings: the models wanted.
        jobs: processes at a time.
        report: called with a line of progress after each model.

    Raises:
        ZooError: a process failed; models that were finished before stay.
    """
    missing = missing_models(cache, makings)
    waiting = dict(missing)
    running: dict[Future[float], Making] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                ready = [m for m in waiting.values() if isinstance(m.base, Path) or m.base.place not in missing]
                # What others wait for comes first, then the slowest, so that no core idles at the end.
                ready.sort(key=lambda making: (making.kind != "base", -making.seconds))
                for making in ready[: jobs - len(running)]:
                    running[pool.submit(_make, cache, making)] = waiting.pop(making.place)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    making = running.pop(future)
                    report(f"made {making.name} in {future.result():.0f} s ({len(waiting) + len(running)} to go)")
                    del missing[making.place]
        finally:
            pool.shutdown(cancel_futures=True)


def missing_models(cache: Path, makings: Iterable[Making]) -> dict[str, Making]:
    """Return which of the models wanted, and of those they need, the cache lacks, by place."""
    missing: dict[str, Making] = {}
    for making in makings:
        if making.place not in missing and not is_whole(cache / making.place):
            if isinstance(making.base, Making):
                missing |= missing_models(cache, [making.base])
            missing[making.place] = making
    return missing


def _make(cache: Path, making: Making) -> float:
    """Make one model from a base that is there, in a process of its own, and return the seconds."""
    start = time.monotonic()
    base = making.base if isinstance(making.base, Path) else cache / making.base.place
    facts = {"name": making.name, "base": making.base_key, **making.inputs}
    make_entry(cache / making.place, lambda folder: _run_process(making.work, base, folder), facts)
    return time.monotonic() - start


def _run_process(work: Work, base: Path, folder: Path) -> None:
    """Do the work in a process of its own, on one thread."""
    command = [sys.executable, "-m", "mergewise.zoo.making", work_to_json(work), str(base), str(folder)]
    settings = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    settings |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    packages = str(Path(mergewise.__file__).resolve().parent.parent)
    settings["PYTHONPATH"] = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise ZooError(
            f"the process that trains should have written a model into {folder}, but failed with "
            f"{lines[-1].strip()!r}; models already made are kept, so run it again"
        )


def work_to_json(work: Work) -> str:
    """Return the work as text that `work_from_json` understands."""
    if isinstance(work, Healing):
        return json.dumps({"heal": str(work.texts_file), "layers": work.layers, "recipe": asdict(work.recipe)})
    lessons = [[name, asdict(recipe)] for name, recipe in work.lessons]
    return json.dumps({"tune": str(work.tasks_file), "heads": str(work.heads), "lessons": lessons})


def work_from_json(text: str) -> Work:
    """Return what `work_to_json` wrote."""
    content = json.loads(text)
    if "heal" in content:
        return Healing(Path(content["heal"]), content["layers"], HealingRecipe(**content["recipe"]))
    lessons = tuple((name, Recipe(**recipe)) for name, recipe in content["lessons"])
    return Tuning(Path(content["tune"]), Path(content["heads"]), lessons)


def main(arguments: list[str]) -> None:
    """Do one piece of work in a process of its own: the work as JSON, folder of the base, new folder."""
    work, base, folder = arguments
    carry_out(work_from_json(work), Path(base), Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
