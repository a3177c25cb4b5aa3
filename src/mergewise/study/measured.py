"""What a study found for one base: scores of models and merges, and limits, as far as their cells are there."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from mergewise.study.cells import Model, Scores, scores_of
from mergewise.study.family import Base
from mergewise.study.grid import Known, tuned
from mergewise.study.spec import Study
from mergewise.study.tuning import Tuned

__all__ = ["Cost", "Draw", "Measured", "measure"]


@dataclass(frozen=True)
class Draw:
    """One draw of which experts to merge, by their categories, and the merged model's scores by task."""

    experts: tuple[str, ...]
    answers: Scores


@dataclass(frozen=True)
class Cost:
    """What the merges of a method and a number of experts took, in seconds on one core.

    Attributes:
        merges: how many different ones there are; draws of the same experts are one, unless they have random masks.
        merge: median for one merge, which a merge that was disturbed moves little.
        score: median for scoring one on its test items.
        tuning: sum for all that was tried beforehand.
        nbytes: of the files of base and experts that one reads, median.
    """

    merges: int
    merge: float
    score: float
    tuning: float
    nbytes: int


@dataclass(frozen=True)
class Measured:
    """All scores of one base; what depends on cells that failed is missing.

    Attributes:
        base: scores of the base on the test items of all tasks.
        experts: the same for every expert, by category.
        multitask: the same for the multitask model, if there is one.
        tuned: the settings, by method and number of experts.
        merges: scores of the merged models, by method and number of experts, one per draw.
        costs: seconds, by method and number of experts.
        digests: of the bytes of base, experts (by category) and multitask model.
        limits: what the weights of the experts say, see `limits_cell`; None if that is not known.
    """

    base: Scores
    experts: Mapping[str, Scores]
    multitask: Scores | None
    tuned: Mapping[tuple[str, int], Tuned]
    merges: Mapping[tuple[str, int], tuple[Draw, ...]]
    costs: Mapping[tuple[str, int], Cost]
    digests: Mapping[str, str]
    limits: Mapping[str, Any] | None = None


def measure(study: Study, base: Base, known: Known) -> Measured | None:
    """Gather what is known of a base; None if not even the base itself was scored."""

    def reference(name: str) -> Scores | None:
        results = known.results.get(f"test/{base.name}/{name}")
        return scores_of(results[0]) if results else None

    own = reference("base")
    if own is None:
        return None
    experts = {name: scores for name in study.names if (scores := reference(name)) is not None}
    models = {name: known.models.get(f"model/{base.name}/{name}") for name in ("base", *study.names, "multitask")}
    sizes = {name: _nbytes(model) for name, model in models.items() if model is not None}
    chosen: dict[tuple[str, int], Tuned] = {}
    merges: dict[tuple[str, int], tuple[Draw, ...]] = {}
    costs: dict[tuple[str, int], Cost] = {}
    for count in study.protocol.counts:
        picks = study.protocol.picks(study.names, count)
        tried_picks = study.protocol.tuning_picks(study.names, count)
        for method in study.protocol.methods:
            place = f"{base.name}/{method.name}/{count}"
            found = [known.results.get(f"merge/{place}/{index}") for index in range(len(picks))]
            if None in found or any(name not in experts for pick in picks for name in pick.experts):
                continue
            results = [one[0] for one in found if one]
            pair = method.name, count
            merges[pair] = tuple(Draw(pick.experts, scores_of(one)) for pick, one in zip(picks, results, strict=True))
            seconds = [one["seconds"] for one in {one["key"]: one for one in results}.values()]
            tried = 0.0
            if method.grid:
                chosen[pair] = tuned(study, base.name, method, count, known)
                sweeps = [known.results[f"tuning/{place}/{index}"] for index in range(len(tried_picks))]
                tried = sum(sum(one["seconds"].values()) for sweep in sweeps for one in sweep)
            costs[pair] = Cost(
                len(seconds),
                median(one["merge"] for one in seconds),
                median(one["score"] for one in seconds),
                tried,
                int(median(sum(sizes.get(name, 0) for name in ("base", *pick.experts)) for pick in picks)),
            )
    digests = {name: model.digest for name, model in models.items() if model is not None}
    found_limits = known.results.get(f"limits/{base.name}")
    limits = found_limits[0]["limits"] if found_limits else None
    return Measured(own, experts, reference("multitask"), chosen, merges, costs, digests, limits)


def _nbytes(model: Model) -> int:
    """Return the bytes of a model's weights as they are stored."""
    return sum(path.stat().st_size for path in model.path.iterdir() if path.suffix in {".safetensors", ".bin"})
