"""The study's questions, answered from the data: what the paper claims, what is measured here, and whether it holds.

Every claim is put as an effect that is positive if the claim holds. With its 95 % bootstrap interval over items and
draws, all comparisons paired, the verdict is

- *holds* if the whole interval lies above zero,
- *does not hold* if the whole interval lies below 0.01: there is no effect, a negligible one, or the opposite,
- *not enough evidence here* otherwise, and where the study lacks what the question compares.

An effect averages over everything that the claim does not speak of. Claims on the paper's methods are judged by these
(averaging, task arithmetic, TIES and DARE-TIES) as far as the study has them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mergewise.study.family import Base
from mergewise.study.intervals import interval
from mergewise.study.lacking import lacking
from mergewise.study.scores import Floats
from mergewise.study.spec import Study
from mergewise.study.store import Failure
from mergewise.study.summary import Row

__all__ = ["DOES_NOT_HOLD", "HOLDS", "NEGLIGIBLE", "OPEN", "Verdict", "verdict_of", "verdicts"]

HOLDS, DOES_NOT_HOLD, OPEN = "holds", "does not hold", "not enough evidence here"
NEGLIGIBLE = 0.01  # of a normalised score: what is smaller counts as no effect
PAPER = ("average", "task_arithmetic", "ties", "dare_ties")
Rows = Mapping[tuple[str, str, int], Row]


@dataclass(frozen=True)
class Verdict:
    """One claim, judged.

    Attributes:
        question: its number, with a letter where a question has parts.
        claim: a sentence that can hold or not.
        measure: what is measured.
        effect: replicates, positive where they speak for the claim; None where nothing can be measured.
        verdict: in the words of the module.
        evidence: a sentence with the figures, or with what is missing.
    """

    question: str
    claim: str
    measure: str
    effect: Floats | None
    verdict: str
    evidence: str


def verdict_of(effect: Floats | None) -> str:
    """Return the verdict on an effect."""
    if effect is None or not np.isfinite(effect[0]):
        return OPEN
    found = interval(effect)
    return HOLDS if found.above(0) else DOES_NOT_HOLD if found.below(NEGLIGIBLE) else OPEN


def verdicts(study: Study, rows: Rows, failures: Sequence[Failure] = ()) -> list[Verdict]:
    """Judge the claims of the five questions, then those on further methods and on the best single expert.

    Where scores are missing that the study should have, the evidence names them, and how many cells failed.
    """
    asked = _Asked(study, rows, failures)
    return [
        _better_base(asked),
        _larger(asked),
        _held_out(asked),
        _against_multitask(asked),
        _more_experts(asked),
        _alike(asked),
        *_further_methods(asked),
        _best_expert(asked),
    ]


class _Asked:
    """The rows of a study, by what the questions compare."""

    def __init__(self, study: Study, rows: Rows, failures: Sequence[Failure]) -> None:
        names = [method.name for method in study.protocol.methods]
        self.rows = rows
        self.failures = failures
        self.multitask = study.spec.multitask
        self.labels = {method.name: method.label for method in study.protocol.methods}
        self.labels["multitask"] = "the multitask model"
        self.paper = [name for name in names if name in PAPER] or names
        self.further = [name for name in names if name not in self.paper]
        self.counts = sorted(study.protocol.counts)
        self.bases = study.bases
        self.qualities = list(dict.fromkeys(base.quality for base in study.bases))
        strong = [base for base in study.bases if base.quality == "it"]
        self.strong = strong or list(study.bases)

    def of(self, base: Base, methods: Iterable[str], counts: Iterable[int]) -> list[Row] | None:
        """Return the rows of a base, or None if one is missing."""
        found = [self.rows.get((base.name, method, count)) for count in counts for method in methods]
        return None if None in found or not found else [row for row in found if row is not None]

    def lacks(
        self,
        takes: str,
        possible: bool,
        bases: Iterable[Base] | None = None,
        methods: Iterable[str] | None = None,
        counts: Iterable[int] | None = None,
    ) -> str:
        """Say what a question takes if the study never compares it, and else which of its scores are missing."""
        if not possible:
            return takes
        wanted = [
            (base.name, method, count)
            for base in bases or self.bases
            for method in methods or self.paper
            for count in counts or self.counts
        ]
        return lacking(wanted, self.rows.keys(), self.labels, self.failures) or takes

    def held_in(self, base: Base, methods: Iterable[str], counts: Iterable[int]) -> Floats | None:
        """Return the mean normalised held-in score."""
        rows = self.of(base, methods, counts)
        return None if rows is None else _mean([row.held_in.normalised for row in rows])

    def several_sizes(self) -> bool:
        """Say whether there are bases of one kind in two sizes."""
        return any(len({base.size for base in self.by_size(quality)}) > 1 for quality in self.qualities)

    def by_size(self, quality: str) -> list[Base]:
        """Return the bases of a quality, the smallest first."""
        return sorted((base for base in self.bases if base.quality == quality), key=lambda base: base.parameters)


def _better_base(asked: _Asked) -> Verdict:
    claim = "Merging works better when the experts come from an instruction-tuned base."
    measure = "normalised held-in, instruction-tuned minus pretrained base of the same size"
    differences: dict[str, Floats] = {}
    for pt in asked.bases:
        for it in asked.bases:
            if (pt.quality, it.quality) == ("pt", "it") and pt.size == it.size:
                scores = [asked.held_in(base, asked.paper, asked.counts) for base in (pt, it)]
                if scores[0] is not None and scores[1] is not None:
                    differences[pt.size] = scores[1] - scores[0]
    sizes = [{base.size for base in asked.bases if base.quality == quality} for quality in ("pt", "it")]
    takes = "It takes a pretrained and an instruction-tuned base of the same size."
    return _judged_mean("1", claim, measure, differences, asked.lacks(takes, bool(sizes[0] & sizes[1])))


def _larger(asked: _Asked) -> Verdict:
    claim = "Larger models are easier to merge."
    measure = "change of normalised held-in from the smallest to the largest size, by a line over log2 of parameters"
    changes: dict[str, Floats] = {}
    for quality in asked.qualities:
        bases = asked.by_size(quality)
        scores = [asked.held_in(base, asked.paper, asked.counts) for base in bases]
        known = [(base.parameters, s) for base, s in zip(bases, scores, strict=True) if s is not None]
        if len({size for size, _ in known}) > 1:
            changes[quality] = _change_by_line([size for size, _ in known], [s for _, s in known])
    if not changes:
        takes = "It takes bases of one kind in at least two sizes."
        return _nothing("2", claim, measure, asked.lacks(takes, asked.several_sizes()))
    effect = _mean(list(changes.values()))
    each = ", ".join(f"{_signed(one)} for {quality}" for quality, one in changes.items())
    return _judged("2", claim, measure, effect, f"The change is {_signed(effect)} on average: {each}.")


def _change_by_line(sizes: Sequence[int], scores: Sequence[Floats]) -> Floats:
    """Return the slope of the least-squares line over log2 of the sizes, times the range of these."""
    x = np.log2(np.array(sizes, np.float64))
    centred = x - x.mean()
    slope = np.tensordot(centred, np.stack(scores), axes=1) / (centred @ centred)
    return np.asarray(slope * (x.max() - x.min()), np.float64)


def _held_out(asked: _Asked) -> Verdict:
    claim = "Merging improves held-out tasks."
    measure = "normalised held-out minus 1, strong bases, all numbers of experts"
    found = [asked.of(base, asked.paper, asked.counts) for base in asked.strong]
    scores = [_mean([row.held_out.normalised for row in rows]) for rows in found if rows is not None]
    if not scores:
        takes = "It takes merges of every method and number of experts."
        return _nothing("3a", claim, measure, asked.lacks(takes, True, asked.strong))
    effect = _mean(scores) - 1
    wins = [row.held_out.beats_base for rows in found if rows is not None for row in rows]
    evidence = (
        f"Held-out scores are {_signed(effect)} against the base = 1; the probability of beating the base is "
        f"{np.mean(wins):.2f} on average over {len(wins)} rows, {min(wins):.2f} to {max(wins):.2f}."
    )
    return _judged("3a", claim, measure, effect, evidence)


def _against_multitask(asked: _Asked) -> Verdict:
    claim = "On held-out tasks, merging many experts of a strong base beats multitask training."
    measure = "normalised held-out of merges minus that of the multitask model, strong bases, most experts"
    differences: dict[str, Floats] = {}
    for base in asked.strong:
        rows = asked.of(base, asked.paper, asked.counts[-1:])
        each = [
            row.held_out.normalised - row.held_out.multitask_normalised
            for row in rows or []
            if row.held_out.multitask_normalised is not None
        ]
        if each:
            differences[base.name] = _mean(each)
    lacks = asked.lacks(
        "It takes multitask models.", asked.multitask, asked.strong, (*asked.paper, "multitask"), asked.counts[-1:]
    )
    return _judged_mean("3b", claim, measure, differences, lacks)


def _more_experts(asked: _Asked) -> Verdict:
    claim = "Larger models can merge more experts."
    measure = "loss of normalised held-in from fewest to most experts, smallest size minus largest"
    few, most = asked.counts[0], asked.counts[-1]
    effects: list[Floats] = []
    parts: list[str] = []
    for quality in asked.qualities:
        losses: list[tuple[Base, Floats]] = []
        for base in asked.by_size(quality):
            scores = [asked.held_in(base, asked.paper, [count]) for count in (few, most)]
            if scores[0] is not None and scores[1] is not None:
                losses.append((base, scores[0] - scores[1]))
        parts += [f"{_signed(loss)} at {base.name}" for base, loss in losses]
        if few < most and len(losses) > 1:
            effects.append(losses[0][1] - losses[-1][1])
    if not effects:
        takes = "It takes bases of one kind in two sizes and two numbers of experts."
        return _nothing(
            "4", claim, measure, asked.lacks(takes, few < most and asked.several_sizes(), counts=(few, most))
        )
    effect = _mean(effects)
    evidence = f"From {few} to {most} experts the loss is {', '.join(parts)}; the difference is {_signed(effect)}."
    return _judged("4", claim, measure, effect, evidence)


def _alike(asked: _Asked) -> Verdict:
    claim = "At scale the merge methods become alike."
    measure = (
        "standard deviation of normalised held-in between methods with most experts, smallest strong base minus largest"
    )
    spreads: list[tuple[Base, Floats]] = []
    for base in sorted(asked.strong, key=lambda base: base.parameters):
        rows = asked.of(base, asked.paper, asked.counts[-1:])
        if rows is not None and len(rows) > 1:
            spreads.append((base, np.asarray(np.std([row.held_in.normalised for row in rows], axis=0), np.float64)))
    if len({base.size for base, _ in spreads}) < 2:
        possible = len(asked.paper) > 1 and len({base.size for base in asked.strong}) > 1
        takes = "It takes two methods and strong bases of two sizes."
        return _nothing("5", claim, measure, asked.lacks(takes, possible, asked.strong, counts=asked.counts[-1:]))
    effect = spreads[0][1] - spreads[-1][1]
    each = ", ".join(f"{one[0]:.3f} at {base.name}" for base, one in spreads)
    return _judged("5", claim, measure, effect, f"The spread is {each}; it shrinks by {_signed(effect)}.")


def _further_methods(asked: _Asked) -> list[Verdict]:
    """Judge every method beyond the paper's against the best of these, which is chosen by its estimate."""
    found = []
    for number, method in enumerate(asked.further):
        question = f"6{chr(ord('a') + number)}" if number < 26 else f"6.{number}"
        claim = f"{asked.labels[method]} keeps more of the experts than the best of the paper's methods."
        measure = "normalised held-in minus that of the paper's best method here, over all bases and numbers of experts"
        means: dict[str, Floats] = {}
        for name in (method, *asked.paper):
            scores = [asked.held_in(base, [name], asked.counts) for base in asked.bases]
            known = [one for one in scores if one is not None]
            if len(known) == len(asked.bases):
                means[name] = _mean(known)
        others = [name for name in asked.paper if name in means]
        if method not in means or not others or others == [method]:
            takes = "It takes merges by it and by the paper's methods."
            needed = (method, *(() if others else asked.paper))
            found.append(_nothing(question, claim, measure, asked.lacks(takes, True, methods=needed)))
            continue
        best = max(others, key=lambda name: float(means[name][0]))
        effect = means[method] - means[best]
        evidence = (
            f"{asked.labels[method]} scores {means[method][0]:.3f} and {asked.labels[best]}, the best of the others, "
            f"{means[best][0]:.3f}: {_signed(effect)}."
        )
        found.append(_judged(question, claim, measure, effect, evidence))
    return found


def _best_expert(asked: _Asked) -> Verdict:
    claim = "A merge is better than the best single one of its experts."
    measure = "raw held-in score of merges minus that of the best single expert, on the tasks of all merged experts"
    found = [asked.of(base, asked.paper, asked.counts) for base in asked.bases]
    gains = [row.held_in.gain for rows in found if rows is not None for row in rows]
    if not gains:
        takes = "It takes merges of every method and number of experts."
        return _nothing("7", claim, measure, asked.lacks(takes, True))
    effect = _mean(gains)
    least, most = min(float(gain[0]) for gain in gains), max(float(gain[0]) for gain in gains)
    evidence = f"The gain is {_signed(effect)} on average, {least:+.3f} to {most:+.3f} row by row."
    return _judged("7", claim, measure, effect, evidence.replace("-", "−"))


def _judged_mean(question: str, claim: str, measure: str, differences: Mapping[str, Floats], missing: str) -> Verdict:
    """Judge the mean of differences by size or base; without any, say what is missing."""
    if not differences:
        return _nothing(question, claim, measure, missing)
    effect = _mean(list(differences.values()))
    each = ", ".join(f"{_signed(one)} at {place}" for place, one in differences.items())
    return _judged(question, claim, measure, effect, f"The difference is {_signed(effect)} on average: {each}.")


def _judged(question: str, claim: str, measure: str, effect: Floats, evidence: str) -> Verdict:
    return Verdict(question, claim, measure, effect, verdict_of(effect), evidence)


def _nothing(question: str, claim: str, measure: str, lacking: str) -> Verdict:
    return Verdict(question, claim, measure, None, OPEN, lacking)


def _mean(values: Sequence[Floats]) -> Floats:
    return np.asarray(np.mean(values, axis=0), np.float64)


def _signed(replicates: Floats) -> str:
    if not np.isfinite(replicates[0]):
        return "undefined"
    found = interval(replicates)
    return f"{found.estimate:+.3f} [{found.low:+.3f}, {found.high:+.3f}]".replace("-", "−")
