"""The study's questions, answered from the data: what the paper claims, what is measured here, and whether it holds.

Every claim is put as an effect that is positive if the claim holds. With its 95 % interval over items and draws,
all comparisons paired, the verdict is

- *does not hold* if the whole interval lies below 0.01: there is no effect, a negligible one, or the opposite,
- *holds* if the whole interval lies above zero, and not below 0.01,
- *not enough evidence here* otherwise, and where the study lacks what the question compares.

An effect averages over everything that the claim does not speak of. Claims on the paper's methods are judged by these
(averaging, task arithmetic, TIES and DARE-TIES) as far as the study has them. A base counts where all scores are there
that the claim needs of it and have a value, as none has where what it is divided by is 0; each verdict says which
bases, methods, numbers of experts and how many merges it rests on.
Claims on strong bases take instruction-tuned ones: a study without any says nothing about them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mergewise.study.asked import Asked, Basis, mean, parameter_text
from mergewise.study.family import Base
from mergewise.study.intervals import interval
from mergewise.study.scores import Floats
from mergewise.study.spec import Study
from mergewise.study.store import Failure
from mergewise.study.summary import Row
from mergewise.study.tuning import Tuned

__all__ = ["DOES_NOT_HOLD", "HOLDS", "NEGLIGIBLE", "OPEN", "Verdict", "verdict_of", "verdicts"]

HOLDS, DOES_NOT_HOLD, OPEN = "holds", "does not hold", "not enough evidence here"
NEGLIGIBLE = 0.01  # of a normalised score: what is smaller counts as no effect
_QUARTILES = 1.349  # between those of a normal distribution, in standard deviations
STRONG = "It takes instruction-tuned bases, of which this study has none."
Rows = Mapping[tuple[str, str, int], Row]
Settings = Mapping[tuple[str, str, int], Tuned]


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
        basis: what it rests on.
    """

    question: str
    claim: str
    measure: str
    effect: Floats | None
    verdict: str
    evidence: str
    basis: Basis


def verdict_of(effect: Floats | None) -> str:
    """Return the verdict on an effect."""
    if effect is None or not np.isfinite(effect[0]):
        return OPEN
    found = interval(effect)
    return DOES_NOT_HOLD if found.below(NEGLIGIBLE) else HOLDS if found.above(0) else OPEN


def verdicts(
    study: Study, rows: Rows, failures: Sequence[Failure] = (), tuned: Settings | None = None
) -> list[Verdict]:
    """Judge the claims of the five questions, then those on further methods and on the best single expert.

    Where scores are missing that the study should have, the evidence names them, and how many cells failed; where some
    have no value, the bases and tasks. Where methods beyond the paper's are compared, it tells whose settings were
    chosen at the edge of their grids.

    Args:
        study: what was asked.
        rows: scores by base, method and number of experts.
        failures: as `lacking` takes them.
        tuned: settings by base, method and number of experts; None if nothing was tuned.
    """
    held_in, held_out = Asked(study, rows, failures, "held_in"), Asked(study, rows, failures, "held_out")
    return [
        _better_base(held_in),
        _larger(held_in),
        _held_out(held_out),
        _against_multitask(held_out),
        _more_experts(held_in),
        _alike(held_in),
        *_further_methods(held_in, tuned or {}),
        _best_expert(Asked(study, rows, failures)),
    ]


def _better_base(asked: Asked) -> Verdict:
    claim = "Merging works better when the experts come from an instruction-tuned base."
    measure = "normalised held-in, instruction-tuned minus pretrained base of the same size"
    pairs = [
        (pt, it) for pt in asked.bases for it in asked.bases
        if (pt.quality, it.quality) == ("pt", "it") and pt.size == it.size
    ]  # fmt: skip
    differences: dict[str, Floats] = {}
    used: list[Base] = []
    for pt, it in pairs:
        scores = [asked.held_in(base, asked.paper, asked.counts) for base in (pt, it)]
        if scores[0] is not None and scores[1] is not None:
            differences[pt.size] = scores[1] - scores[0]
            used += [pt, it]
    wanted = [base for pair in pairs for base in pair]
    basis = asked.basis(used, wanted, asked.paper, asked.counts)
    takes = "It takes a pretrained and an instruction-tuned base of the same size."
    lacks = asked.lacks(takes, bool(pairs), wanted)
    return _judged_mean("1", claim, measure, differences, lacks, basis)


def _larger(asked: Asked) -> Verdict:
    claim = "Larger models are easier to merge."
    measure = "change of normalised held-in from the smallest to the largest size, by a line over log2 of parameters"
    changes: dict[str, Floats] = {}
    used: list[Base] = []
    for quality in asked.qualities:
        scores = {base: asked.held_in(base, asked.paper, asked.counts) for base in asked.by_size(quality)}
        known = {base: one for base, one in scores.items() if one is not None}
        if len({base.parameters for base in known}) > 1:
            changes[quality] = _change_by_line([base.parameters for base in known], list(known.values()))
            used += known
    basis = asked.basis(used, asked.sized, asked.paper, asked.counts)
    if not changes:
        takes = "It takes bases of one kind in at least two sizes."
        return _nothing("2", claim, measure, asked.lacks(takes, bool(asked.sized), asked.sized), basis)
    effect = mean(list(changes.values()))
    each = ", ".join(f"{_signed(one)} for {quality}" for quality, one in changes.items())
    sizes = [base.parameters for base in used]
    span = f"from {parameter_text(min(sizes))} to {parameter_text(max(sizes))} parameters"
    return _judged("2", claim, measure, effect, f"The change {span} is {_signed(effect)} on average: {each}.", basis)


def _change_by_line(sizes: Sequence[int], scores: Sequence[Floats]) -> Floats:
    """Return the slope of the least-squares line over log2 of the sizes, times the range of these."""
    x = np.log2(np.array(sizes, np.float64))
    centred = x - x.mean()
    slope = np.tensordot(centred, np.stack(scores), axes=1) / (centred @ centred)
    return np.asarray(slope * (x.max() - x.min()), np.float64)


def _held_out(asked: Asked) -> Verdict:
    claim = "Merging experts of a strong base improves held-out tasks."
    measure = "normalised held-out minus 1, strong bases, all numbers of experts"
    found = asked.whole(asked.strong, asked.paper, asked.counts)
    basis = asked.basis(found, asked.strong, asked.paper, asked.counts)
    if not found:
        takes = "It takes merges of every method and number of experts."
        lacks = asked.lacks(takes, True, asked.strong) if asked.strong else STRONG + _elsewhere(asked)
        return _nothing("3a", claim, measure, lacks, basis)
    effect, wins = _gained(found)
    evidence = (
        f"Held-out scores are {_signed(effect)} against the base = 1; the probability of beating the base is "
        f"{np.mean(wins):.2f} on average over {len(wins)} rows, {min(wins):.2f} to {max(wins):.2f}."
    )
    return _judged("3a", claim, measure, effect, evidence, basis)


def _gained(found: Mapping[Base, Sequence[Row]]) -> tuple[Floats, list[float]]:
    """Return how far held-out scores lie above the base, and row by row the probability that they do."""
    effect = mean([mean([row.held_out.normalised for row in rows]) for rows in found.values()]) - 1
    return effect, [row.held_out.beats_base for rows in found.values() for row in rows]


def _elsewhere(asked: Asked) -> str:
    """Say what held-out scores are at bases that do not count as strong."""
    found = asked.whole(asked.bases, asked.paper, asked.counts)
    if not found:
        return ""
    names = ", ".join(base.name for base in found)
    return f" At the others, {names}, held-out scores are {_signed(_gained(found)[0])} against the base = 1."


def _against_multitask(asked: Asked) -> Verdict:
    claim = "On held-out tasks, merging many experts of a strong base beats multitask training."
    measure = "normalised held-out of merges minus that of the multitask model, strong bases, most experts"
    most = asked.counts[-1:]
    differences: dict[Base, Floats] = {}
    for base, rows in asked.whole(asked.strong, asked.paper, most).items():
        each = [
            row.held_out.normalised - row.held_out.multitask_normalised
            for row in rows
            if row.held_out.multitask_normalised is not None
        ]
        if each:
            differences[base] = mean(each)
    basis = asked.basis(differences, asked.strong if asked.multitask else (), asked.paper, most, ("multitask",))
    lacks = STRONG
    if asked.strong:
        takes = "It takes multitask models."
        lacks = asked.lacks(takes, asked.multitask, asked.strong, (*asked.paper, "multitask"), most)
    by_name = {base.name: one for base, one in differences.items()}
    return _judged_mean("3b", claim, measure, by_name, lacks, basis)


def _more_experts(asked: Asked) -> Verdict:
    claim = "Larger models can merge more experts."
    measure = "loss of normalised held-in from fewest to most experts, smallest size minus largest"
    ends = (asked.counts[0], asked.counts[-1])
    possible = ends[0] < ends[1] and bool(asked.sized)
    effects: list[Floats] = []
    losses: dict[Base, Floats] = {}
    for quality in asked.qualities if possible else ():
        found: dict[Base, Floats] = {}
        for base in asked.by_size(quality):
            few, most = (asked.held_in(base, asked.paper, [count]) for count in ends)
            if few is not None and most is not None:
                found[base] = few - most
        if len({base.parameters for base in found}) > 1:
            least, *_, largest = found.values()
            effects.append(least - largest)
            losses |= found
    basis = asked.basis(losses, asked.sized if possible else (), asked.paper, ends)
    if not effects:
        takes = "It takes bases of one kind in two sizes and two numbers of experts."
        return _nothing("4", claim, measure, asked.lacks(takes, possible, asked.sized, counts=ends), basis)
    effect = mean(effects)
    parts = ", ".join(f"{_signed(loss)} at {base.name}" for base, loss in losses.items())
    evidence = f"From {ends[0]} to {ends[1]} experts the loss is {parts}; the difference is {_signed(effect)}."
    return _judged("4", claim, measure, effect, evidence, basis)


def _alike(asked: Asked) -> Verdict:
    claim = "At scale the merge methods become alike."
    measure = (
        "standard deviation of normalised held-in between methods with most experts, without what chance adds to it, "
        "smallest strong base minus largest"
    )
    most = asked.counts[-1:]
    strong = sorted(asked.strong, key=lambda base: base.parameters)
    possible = len(asked.paper) > 1 and len({base.parameters for base in strong}) > 1
    spreads = {
        base: _spread(np.stack([row.held_in.normalised for row in rows]))
        for base, rows in asked.whole(strong if possible else (), asked.paper, most).items()
    }
    basis = asked.basis(spreads, strong if possible else (), asked.paper, most)
    if len({base.parameters for base in spreads}) < 2:
        takes = "It takes two methods and strong (instruction-tuned) bases of two sizes."
        return _nothing("5", claim, measure, asked.lacks(takes, possible, strong, counts=most), basis)
    smallest, *_, largest = spreads.values()
    effect = smallest - largest
    each = ", ".join(f"{one[0]:.3f} at {base.name}" for base, one in spreads.items())
    return _judged("5", claim, measure, effect, f"The spread is {each}; it shrinks by {_signed(effect)}.", basis)


def _spread(scores: Floats) -> Floats:
    """Return the standard deviation between methods without what the choice of items and draws adds to it.

    The variance of estimates is that of the true scores plus sampling noise, on average; that of resamples has the
    noise twice. Left in, it would make the base with the noisier scores seem to be the one where methods differ more.
    The noise is told by quartiles, as resamples over few draws have tails without a variance.

    Args:
        scores: (methods, replicates), the estimates first.
    """
    lower, upper = np.nanquantile(scores[:, 1:] - scores[:, 1:].mean(axis=0), [0.25, 0.75], axis=1)
    noise = np.mean(((upper - lower) / _QUARTILES) ** 2)
    variance = scores.var(axis=0)
    variance[0] -= noise
    variance[1:] -= 2 * noise
    return np.asarray(np.sqrt(np.maximum(variance, 0.0)), np.float64)


def _further_methods(asked: Asked, tuned: Settings) -> list[Verdict]:
    """Judge every method beyond the paper's against the best of these, which is chosen by its estimate.

    All are compared on the bases where none of them lacks a score; a method of the paper without any is left out.
    """
    found = []
    for number, method in enumerate(asked.further):
        question = f"6{chr(ord('a') + number)}" if number < 26 else f"6.{number}"
        claim = f"{asked.labels[method]} keeps more of the experts than the best of the paper's methods."
        measure = "normalised held-in minus that of the paper's best method here, over all bases and numbers of experts"
        own = asked.whole(asked.bases, [method], asked.counts)
        others = [name for name in asked.paper if asked.whole(own, [name], asked.counts)]
        names = [method, *others]
        bases = list(asked.whole(own, names, asked.counts)) if others else []
        basis = asked.basis(bases, asked.bases, names if others else [method, *asked.paper], asked.counts)
        if not bases:
            takes = "It takes merges by it and by the paper's methods at the same bases."
            needed = (method, *(() if others else asked.paper))
            found.append(_nothing(question, claim, measure, asked.lacks(takes, True, methods=needed), basis))
            continue
        rows = {name: asked.whole(bases, [name], asked.counts).values() for name in names}
        means = {
            name: mean([mean([row.held_in.normalised for row in at_base]) for at_base in of_method])
            for name, of_method in rows.items()
        }
        best = max(others, key=lambda name: float(means[name][0]))
        effect = means[method] - means[best]
        evidence = (
            f"{asked.labels[method]} scores {means[method][0]:.3f} and {asked.labels[best]}, the best of the others, "
            f"{means[best][0]:.3f}: {_signed(effect)}.{_at_edges(asked, tuned, bases, names)}"
        )
        found.append(_judged(question, claim, measure, effect, evidence, basis))
    return found


def _at_edges(asked: Asked, tuned: Settings, bases: Sequence[Base], methods: Sequence[str]) -> str:
    """Say which methods have settings that were chosen at the edge of their grid, and in how many places."""
    parts = []
    for method in methods:
        there = [tuned[base.name, method, k] for base in bases for k in asked.counts if (base.name, method, k) in tuned]
        if at_edge := sum(bool(one.at_edge) for one in there):
            parts.append(f"{asked.labels[method]} in {at_edge} of {len(there)}")
    if not parts:
        return ""
    return f" Settings were chosen at the edge of their grid, beyond which better ones may lie: {', '.join(parts)}."


def _best_expert(asked: Asked) -> Verdict:
    claim = "A merge is better than the best single one of its experts."
    measure = "raw held-in score of merges minus that of the best single expert, on the tasks of all merged experts"
    found = asked.whole(asked.bases, asked.paper, asked.counts)
    basis = asked.basis(found, asked.bases, asked.paper, asked.counts)
    gains = [row.held_in.gain for rows in found.values() for row in rows]
    if not gains:
        takes = "It takes merges of every method and number of experts."
        return _nothing("7", claim, measure, asked.lacks(takes, True), basis)
    effect = mean(gains)
    least, most = min(float(gain[0]) for gain in gains), max(float(gain[0]) for gain in gains)
    evidence = f"The gain is {_signed(effect)} on average, {least:+.3f} to {most:+.3f} row by row."
    return _judged("7", claim, measure, effect, evidence.replace("-", "−"), basis)


def _judged_mean(
    question: str, claim: str, measure: str, differences: Mapping[str, Floats], missing: str, basis: Basis
) -> Verdict:
    """Judge the mean of differences by size or base; without any, say what is missing."""
    if not differences:
        return _nothing(question, claim, measure, missing, basis)
    effect = mean(list(differences.values()))
    each = ", ".join(f"{_signed(one)} at {place}" for place, one in differences.items())
    evidence = f"The difference is {_signed(effect)} on average: {each}."
    return _judged(question, claim, measure, effect, evidence, basis)


def _judged(question: str, claim: str, measure: str, effect: Floats, evidence: str, basis: Basis) -> Verdict:
    evidence = f"{evidence} {basis.missing}".rstrip()
    return Verdict(question, claim, measure, effect, verdict_of(effect), evidence, basis)


def _nothing(question: str, claim: str, measure: str, lacking: str, basis: Basis) -> Verdict:
    return Verdict(question, claim, measure, None, OPEN, lacking, basis)


def _signed(replicates: Floats) -> str:
    found = interval(replicates)
    return f"{found.estimate:+.3f} [{found.low:+.3f}, {found.high:+.3f}]".replace("-", "−")
