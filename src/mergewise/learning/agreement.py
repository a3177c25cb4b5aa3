"""How much of what experts do to their base survives in a merge, from a few unlabelled inputs.

``mergewise.learning.answers`` holds the definition. What a merge is measured by here needs no labels and no scores; it
says how far merges answer as their experts do, and not how good these answers are.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint import Connections
from mergewise.engine.layout import parse_size
from mergewise.engine.references import open_models
from mergewise.learning.answers import Answers, added, changes_kept
from mergewise.learning.answers import agreement as agreements
from mergewise.learning.errors import ExamplesError
from mergewise.learning.network import Network, open_network
from mergewise.learning.outputs import PURPOSE, Inputs, Models, read_inputs

__all__ = ["CAVEAT", "AgreementReport", "Candidate", "agreement"]

Progress = Callable[[int, int], None]
"""Called with the runs of a model on an input that are done, and those that will be."""

Said = list[list[Answers]]
"""Answers by file and input."""

CAVEAT = (
    "Agreement is a hint, not a score: it was compared with what merges retain on small encoders alone, where it went "
    "with that among merges of the same experts, less so among sets of experts, and without choices to answer with "
    "hardly at all (docs/validation.md and docs/agreement.md have the figures). Evaluate what you choose."
)

_SCALES = tuple(n / 10 for n in range(1, 11))
_COPIES = 2  # of outputs in memory: those of the base, and the sum of changes
_CLEAR = 2.0  # standard errors


@dataclass(frozen=True)
class Candidate:
    """A merge, or what may be one.

    Attributes:
        name: The checkpoint, or λ.
        scale: λ of a sum of all changes that is predicted; ``None`` for a checkpoint.
        agreement: The mean over the experts t of A_t, from 0 to 1.
        error: Its standard error over inputs; ``None`` with one input.
        kept: The mean of K_t over the experts that change an answer; ``None`` if none does.
        by_expert: A_t.
        kept_by_expert: K_t; ``None`` where an expert changes no answer.
        behind: How much less its agreement is than that of the best.
        behind_error: The standard error of that difference, over the same inputs; ``None`` with one input.
    """

    name: str
    scale: float | None
    agreement: float
    error: float | None
    kept: float | None
    by_expert: tuple[float, ...]
    kept_by_expert: tuple[float | None, ...]
    behind: float
    behind_error: float | None

    @property
    def level(self) -> bool:
        """Whether it is within two standard errors of the best."""
        return self.behind_error is None or self.behind <= _CLEAR * self.behind_error


@dataclass(frozen=True)
class AgreementReport:
    """What was found.

    Attributes:
        kind: What the models predict: ``causal``, ``masked``, ``classifier``, or ``encoder``.
        experts: The experts.
        inputs: How many inputs there are of each.
        predictions: How many predictions were made on these.
        base: The base, as if it were a merge.
        candidates: The merges in the order given, or sums by λ.
        best: The place among these of the one with the most agreement; the first among equals.
        passes: How often the models were opened.
        seconds: Wall time.
    """

    kind: str
    experts: tuple[str, ...]
    inputs: tuple[int, ...]
    predictions: tuple[int, ...]
    base: Candidate
    candidates: tuple[Candidate, ...]
    best: int
    passes: int
    seconds: float

    @property
    def sentence(self) -> str:
        """Which candidate to prefer, and whether that is clear."""
        best = self.candidates[self.best]
        others = [_short(one) for one in self.candidates if one is not best and one.level]
        what = f"{best.name} has the most agreement, {best.agreement:.3f}"
        if best.agreement <= self.base.agreement:
            return (
                f"{what}, which is no more than the base has, {self.base.agreement:.3f}: nothing is gained by it here."
            )
        if len(self.candidates) == 1:
            return f"{what}, where the base has {self.base.agreement:.3f}."
        if not others:
            return f"Prefer {best.name}: {what}, and all others have clearly less."
        prefix = "λ = " if best.scale is not None else ""
        return f"{what}; on these inputs it is not clearly ahead of {prefix}{', '.join(others)}."

    def summary(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self) | {"sentence": self.sentence, "caveat": CAVEAT}


def agreement(
    base: str,
    experts: Sequence[str],
    examples: Sequence[str | Path],
    merged: Sequence[str] = (),
    *,
    choices: Sequence[str | Path] = (),
    limit: int | None = None,
    max_length: int = 512,
    seed: int = 0,
    memory: str | int = "4GiB",
    progress: Progress | None = None,
) -> AgreementReport:
    """Say how far merges answer as their experts do, or what to expect of a sum by task arithmetic before it is made.

    With A_t(y) = mean over the inputs x of expert t of [argmax_c y(x)_c = argmax_c y_t(x)_c], the agreement of a model
    y is the mean of A_t over the experts. With ``merged``, y is each of these, and what is compared are candidates for
    one merge. Without, y is e + λ Σ_j o_j for λ of .1, .2, …, 1 and 1/n: e is what the base gives, o_j how far expert j
    moves that, and nothing is merged. Outcomes c are tokens (of every prediction of a causal language model, or of
    hidden tokens), classes, or for encoders the choices, embedded by the base, with the largest product; without
    choices, which other text of the file is nearest. Sums are of log probabilities, or of embeddings.

    One model at a time is in memory, in float32.

    Args:
        base: The base: a folder, or any other reference that a recipe takes. Its tokenizer serves all models.
        experts: The experts; adapters are put on the base.
        examples: Files of unlabelled inputs: one for each expert, of what it was made for, or one for all.
        merged: Merges of these experts.
        choices: For encoders, files of what may be answered: one for each file of examples, or one for all.
        limit: How many inputs of each file to read; ``None`` for all.
        max_length: Longer ones are cut to so many tokens.
        seed: Of the tokens that are hidden from masked language models.
        memory: Budget for outputs beside the model, where nothing is merged; with less, models are opened more often.
        progress: Told how far it is.

    Returns:
        Agreement and changes kept of every merge and expert: shares from 0 to 1, with standard errors over inputs.

    Raises:
        MergewiseError: The models, the inputs or the choices do not allow it.
    """
    began = time.perf_counter()
    budget = parse_size(memory, "memory budget")
    if not experts:
        raise ExamplesError("Agreement is with experts, found none; name the experts that are merged.")
    sources = open_models([base, *experts, *merged], base, Connections())
    network = open_network(sources[base], PURPOSE)
    _require_answers(network)
    if choices and network.kind != "encoder":
        raise ExamplesError(f"{base}: choices are for encoders, found a model that is {network.kind}; leave them out.")
    files = _files(network, examples, choices, len(experts), limit, max_length, seed)
    done, total = 0, sum(map(len, files)) * len([base, *experts, *merged])

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    models = Models(sources, base, network, files, advance)
    del network  # it is the models' now, and goes when its turn is over
    scales = () if merged else tuple(sorted({*_SCALES, 1.0 / len(experts)}))
    if merged:
        said, passes = [_said(models, name) for name in (base, *experts, *merged)], 1
    else:
        said, passes = _foresee(models, base, experts, scales, budget)
    own = [answers[_file(t, files)] for t, answers in enumerate(said[1 : len(experts) + 1])]
    names = merged or [_name(scale, len(experts)) for scale in scales]
    rows = [said[0], *said[len(experts) + 1 :]]
    found = _compare(rows, own, ["the base", *names], scales, shared=len(files) == 1)
    best = max(range(len(names)), key=lambda n: found[n + 1].agreement)
    of = [files[_file(t, files)] for t in range(len(experts))]
    return AgreementReport(
        kind=models.kind, experts=tuple(experts), inputs=tuple(map(len, of)),
        predictions=tuple(sum(one.predictions for one in file.inputs) for file in of), base=found[0],
        candidates=tuple(found[1:]), best=best, passes=passes, seconds=time.perf_counter() - began,
    )  # fmt: skip


def _require_answers(network: Network) -> None:
    problem = getattr(network.config, "problem_type", None)
    if network.kind == "classifier" and (network.config.num_labels < 2 or problem == "multi_label_classification"):
        raise ExamplesError(
            f"{network.location}: agreement needs a classifier of one class out of several, found "
            f"{network.config.num_labels} outputs{f' for {problem}' if problem else ''}."
        )


def _files(
    network: Network,
    examples: Sequence[str | Path],
    choices: Sequence[str | Path],
    experts: int,
    limit: int | None,
    max_length: int,
    seed: int,
) -> list[Inputs]:
    for what, given, most in (("examples", examples, experts), ("choices", choices, len(examples))):
        if len(given) not in {1, most} and (given or what == "examples"):
            raise ExamplesError(
                f"Expected one file of {what} for all experts, or one for each of {most}, found {len(given)}."
            )
    offered = [Path(choices[n if len(choices) > 1 else 0]) if choices else None for n in range(len(examples))]
    return [
        read_inputs(network, Path(path), own, limit=limit, max_length=max_length, seed=seed)
        for path, own in zip(examples, offered, strict=True)
    ]


def _file(expert: int, files: Sequence[Inputs]) -> int:
    """Return the number of the file that holds an expert's inputs."""
    return expert if len(files) > 1 else 0


def _said(models: Models, name: str) -> Said:
    outputs = models.run(name, models.whole())
    return [models.answer(n, islice(outputs, len(file))) for n, file in enumerate(models.files)]


def _foresee(
    models: Models, base: str, experts: Sequence[str], scales: Sequence[float], budget: int
) -> tuple[list[Said], int]:
    """Return the answers of base, experts, and sums by λ if outputs add up; and in how many passes they were found."""
    said: list[Said] = [[[] for _ in models.files] for _ in range(1 + len(experts) + len(scales))]
    passes = 0
    for pieces in models.passes(budget, _COPIES):
        passes += 1
        at_base = list(models.run(base, pieces))
        moved = [np.zeros_like(one) for one in at_base]
        for place, name in enumerate(experts, 1):
            outputs, at = models.run(name, pieces), 0
            for file, first, stop in pieces:
                own = list(islice(outputs, stop - first))
                for output in own:
                    moved[at] += output - at_base[at]
                    at += 1
                said[place][file] += models.answer(file, own)
        at = 0
        for file, first, stop in pieces:
            here = slice(at, at + stop - first)
            said[0][file] += models.answer(file, at_base[here])
            for place, scale in enumerate(scales, 1 + len(experts)):
                sums = (added(e, o, scale) for e, o in zip(at_base[here], moved[here], strict=True))
                said[place][file] += models.answer(file, sums)
            at += stop - first
    return said, passes


def _compare(
    rows: Sequence[Said], own: Sequence[list[Answers]], names: Sequence[str], scales: Sequence[float], *, shared: bool
) -> list[Candidate]:
    """Return what was found of every row, the base first; ``shared`` says that all experts have the same inputs."""
    base, count = rows[0], len(own)
    at = [0 if shared else t for t in range(count)]
    alike = [[agreements(row[at[t]], own[t]) for t in range(count)] for row in rows]
    best = max(alike[1:], key=_mean)
    found = []
    for n, (row, mine) in enumerate(zip(rows, alike, strict=True)):
        kept = [_known(changes_kept(row[at[t]], own[t], base[at[t]])) for t in range(count)]
        some = [one for one in kept if one is not None]
        behind = [b - m for b, m in zip(best, mine, strict=True)]
        found.append(
            Candidate(
                name=names[n], scale=scales[n - 1] if n and scales else None, agreement=_mean(mine),
                error=_error(mine, shared=shared), kept=float(np.mean(some)) if some else None,
                by_expert=tuple(float(one.mean()) for one in mine), kept_by_expert=tuple(kept), behind=_mean(behind),
                behind_error=_error(behind, shared=shared),
            )
        )  # fmt: skip
    return found


def _mean(by_expert: Sequence[NDArray[np.float64]]) -> float:
    return float(np.mean([one.mean() for one in by_expert]))


def _error(by_expert: Sequence[NDArray[np.float64]], *, shared: bool) -> float | None:
    """Return the standard error of the mean over experts of the mean over inputs, which are what varies."""
    samples = [np.mean(by_expert, axis=0)] if shared else by_expert
    if min(map(len, samples)) < 2:
        return None
    return math.sqrt(sum(float(one.var(ddof=1)) / len(one) for one in samples)) / len(samples)


def _short(one: Candidate) -> str:
    return one.name if one.scale is None else f"{one.scale:.3g}"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _name(scale: float, experts: int) -> str:
    mean = f" (1/{experts}, the mean)" if scale == 1.0 / experts else ""
    return f"λ = {scale:.3g}{mean}"
