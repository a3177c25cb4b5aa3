"""The part of docs/validation.md that is about the zoo."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

import svg
from mergewise.study.forecasts import KNEE
from relabelling import CLEAR, RELABELLINGS, chance
from validate_zoo import (
    SETTINGS,
    Correlations,
    Evidence,
    Knee,
    correlations,
    expert_correlations,
    knees,
    over_bases,
    settings,
    studied_correlations,
)
from validation_tables import (
    Estimate,
    details,
    named,
    p_in_words,
    spread,
    table,
    with_p,
    with_range,
)
from zoo_merges import SPLITS, Merge

__all__ = ["zoo_sections"]

Floats = NDArray[np.float64]

_ALLOWED = "noise allows"
_LEAST_SETS = 12  # of studies: rank correlations of fewer say nothing

_ZOO = """\
## The zoo

Bases: {bases}.
Sets are prefixes of permutations that lie far apart, merged by task arithmetic at λ = 1/k, which is averaging,
and at a fixed λ, and scored on test items of their experts' tasks.

**Could it be chance?** All bases have experts of the same eight tasks, and sets share experts. So the experts of a
quantity are relabelled, the same way on all bases, and **p** is the share of {count:,} relabellings, the true one
among them, whose mean correlation over bases is as far from nought as the true one (two-sided; bold below {clear:g}).
That holds whatever sets have in common; of rows where nothing is, one in twenty has such a p.
Tables have the mean over bases, with the least and the largest in brackets; figures the same.

*Noise allows* is the correlation with this measurement that a perfect prediction could be expected to have, from two
halves of the items: the mean over {splits} ways to halve them.
"""

_TARGETS: Mapping[str, tuple[str, Callable[[Merge], float]]] = {
    "normalised performance": (
        """\
Mean over the merged experts of accuracy/accuracy of the expert. It depends on which tasks are in the set:
where the base is good already, little can be lost.""",
        lambda one: one.performance,
    ),
    "retained gain": (
        "Σ(merge - base)/Σ(expert - base) over the merged experts' tasks: what is left of what the experts learned.",
        lambda one: one.retained,
    ),
}

_BEYOND = """\
**Beyond the baselines.** What is left of the ranks of a quantity and of merges when both are regressed on those of mean
cosine, sign conflict and norm; for quantities that look at inputs, on that of base agreement too. Positive: it says
more than they do. Three or four of these leave little to be told by eight experts, so only much can be clear."""

_AGAINST_K = """\
**Against k alone**, over all k. No interval: relabelled experts keep their number, and the bases are not independent
(smaller ones are cut from larger ones, instruction-tuned ones made of pretrained ones, and all are scored on the same
items)."""

_COMPANIONS = """\
### Which companions harm an expert

The same expert among different companions, as many: its normalised performance against what its companions are. What
its task is like cannot matter here; this is interference alone.

{table}

![rank correlations for companions](validation/zoo-companions.svg)

{details}
"""

_KNEES = """\
### The number of experts

The *knee*, as studies have it, is the smallest k after which no further expert brings {knee:.0%} of the gains over the
base that all experts have, with its interval over sets. The last column has the summed gains of merges of k as a share
of these, over all sets, one expert alone first.

{table}

{counted}

{figures}
"""

_STUDIES = """\
### Cells of studies

Merges by several methods, λ and density tuned for each, three draws of experts for every k: {used}.
A set counts once, with the mean over its merges; distances are those of averaging. Ranks are among the sets of one base
and k, of which there are no more than three.

{table}
"""


def zoo_sections(evidence: Sequence[Evidence], figures: dict[str, str]) -> list[str]:
    """Return the sections of the page, and add their figures by file name."""
    bases = ", ".join(f"{one.zoo.name} ({len(one.merges)} merges)" for one in evidence)
    parts = [_ZOO.format(bases=bases or "none has all its experts yet", count=RELABELLINGS, clear=CLEAR, splits=SPLITS)]
    if evidence:
        names, values = [one.zoo.name for one in evidence], [value for _, value in _TARGETS.values()]
        found = {
            setting: [correlations(one.known, settings(one.merges)[setting], setting, values) for one in evidence]
            for setting in SETTINGS
        }
        parts += [
            _target(
                target, names, {setting: [one[place] for one in group] for setting, group in found.items()}, figures
            )
            for place, target in enumerate(_TARGETS)
        ]
        parts += [_companions(evidence, names, figures), _knees(evidence, figures), _studies(evidence)]
    return parts


def _target(
    target: str, bases: Sequence[str], found: Mapping[str, Sequence[Correlations]], figures: dict[str, str]
) -> str:
    within = {setting: [one.within for one in group] for setting, group in found.items()}
    beyond = {setting: [one.beyond for one in group] for setting, group in found.items()}
    over = {setting: [one.over for one in group] for setting, group in found.items()}
    allowed = {setting: [one.allowed for one in group] for setting, group in found.items()}
    figure = f"zoo-{target.replace(' ', '-')}.svg"
    figures[figure] = _figure(f"The zoo: what goes with {target}", "rank correlation within k", within)
    return "\n\n".join([
        f"### {target.capitalize()}", _TARGETS[target][0],
        _glance("within k", within, allowed),
        f"![rank correlations with {target}](validation/{figure})",
        _BEYOND,
        _glance("within k, beyond the baselines", beyond),
        _AGAINST_K,
        _over_all(over),
        *(
            details(
                f"Every base, {setting}", _at_length("within k (p)", bases, within[setting], allowed[setting]),
                _at_length("beyond the baselines (p)", bases, beyond[setting]),
                table(
                    ["over all k", *bases],
                    [[named(name), *(f"{base[name]:+.2f}" for base in over[setting])] for name in over[setting][0]],
                ),
            )
            for setting in found
        ),
    ])  # fmt: skip


def _companions(evidence: Sequence[Evidence], bases: Sequence[str], figures: dict[str, str]) -> str:
    found = {
        setting: [expert_correlations(one.known, settings(one.merges)[setting], setting) for one in evidence]
        for setting in SETTINGS
    }
    estimates = {setting: [one for one, _ in group] for setting, group in found.items()}
    allowed = {setting: [most for _, most in group] for setting, group in found.items()}
    corner = "same expert and k"
    figures["zoo-companions.svg"] = _figure(
        "The zoo: which companions harm an expert", "rank correlation, same expert and same k", estimates
    )
    return _COMPANIONS.format(
        table=_glance(corner, estimates, allowed),
        details="\n\n".join(
            details(f"Every base, {name}", _at_length(f"{corner} (p)", bases, estimates[name], allowed[name]))
            for name in found
        ),
    )


def _glance(
    corner: str,
    found: Mapping[str, Sequence[Mapping[str, Floats]]],
    allowed: Mapping[str, Sequence[Estimate]] | None = None,
) -> str:
    """Return a table of means over bases with the least and the largest, and p of the means."""
    means = {setting: over_bases(bases) for setting, bases in found.items()}
    rows = [
        [
            named(name),
            *(
                text
                for setting, bases in found.items()
                for text in (
                    with_range([float(base[name][0]) for base in bases]),
                    p_in_words(chance(means[setting][name])),
                )
            ),
        ]
        for name in next(iter(means.values()))
    ]
    if allowed:
        values = (with_range([most for most, _, _ in allowed[setting]]) for setting in found)
        rows.append([named(_ALLOWED), *(text for value in values for text in (value, ""))])
    return table([corner, *(head for setting in found for head in (setting, "p"))], rows)


def _over_all(over: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return a table of rank correlations over all k, and how much larger they are than that of k alone."""
    rows = []
    for name in next(iter(over.values()))[0]:
        row = [named(name)]
        for bases in over.values():
            row.append(with_range([base[name] for base in bases]))
            ahead = [base[name] - base["k"] for base in bases]
            larger = f"{sum(value > 0.0 for value in ahead)} of {len(ahead)}"
            row += ["", ""] if name == "k" else [with_range(ahead), larger]
        rows.append(row)
    return table(["over all k", *(head for setting in over for head in (setting, "less that of k", "larger on"))], rows)


def _at_length(
    corner: str,
    bases: Sequence[str],
    found: Sequence[Mapping[str, Floats]],
    allowed: Sequence[Estimate] = (),
) -> str:
    rows = [[named(name), *(with_p(chance(base[name])) for base in found)] for name in found[0]]
    if allowed:
        rows.append([named(_ALLOWED), *(f"{most:.2f} [{least:.2f}, {top:.2f}]" for most, least, top in allowed)])
    return table([corner, *bases], rows)


def _figure(title: str, note: str, found: Mapping[str, Sequence[Mapping[str, Floats]]]) -> str:
    names = list(next(iter(found.values()))[0])
    rows = [(name, [spread([float(base[name][0]) for base in bases]) for bases in found.values()]) for name in names]
    return svg.intervals(title, f"{note}; mean over bases, least to largest", list(found), rows)


def _knees(evidence: Sequence[Evidence], figures: dict[str, str]) -> str:
    found = [knee for one in evidence for knee in knees(one)]
    head = ("base", "merged with", "knee", "k_safe", "k*", "k_full", "k* - knee", "by width", "gains for k = 1, 2, …")
    rows = [
        (
            one.base, one.setting, _knee_in_words(one), *map(str, one.predicted), _error_in_words(one),
            "none" if one.width is None else str(one.width), " ".join(f"{value:.2f}" for value in one.curve),
        )
        for one in found
    ]  # fmt: skip
    links = []
    for place, setting in enumerate(settings([])):
        figures[f"zoo-knees-{place + 1}.svg"] = svg.lines(
            f"What k experts gain on the base, of what all experts gain; {setting}", "experts merged",
            "share of all gains", {one.base: list(enumerate(one.curve, 1)) for one in found if one.setting == setting},
        )  # fmt: skip
        links.append(f"![gains over the number of experts, {setting}](validation/zoo-knees-{place + 1}.svg)")
    return _KNEES.format(
        knee=KNEE, table=table(head, rows), counted=_errors_of_k_star(found), figures="\n\n".join(links)
    )


def _errors_of_k_star(found: Sequence[Knee]) -> str:
    reached = [one for one in found if np.isfinite(one.found[0])]
    if not reached:
        return "No row has a knee that k* could be off by."
    inside = sum(one.found[1] <= one.predicted[1] <= one.found[2] for one in reached)
    knees = np.array([one.found[0] for one in reached])
    errors = np.array([one.predicted[1] for one in reached]) - knees
    best = min(range(1, len(reached[0].curve) + 1), key=lambda count: float(np.abs(knees - count).mean()))
    return (
        f"Of the {len(reached)} rows that have a knee, k* lies inside its interval in {inside}. It is off by "
        f"{', '.join(f'{error:+.0f}' for error in errors)} experts:\n{np.abs(errors).mean():.1f} on average, where the "
        f"same number for all, {best}, known only afterwards, is off by {np.abs(knees - best).mean():.1f}."
    )


def _ends(one: Knee) -> list[float]:
    """Return the knee and the ends of its interval; where all experts are not past it, it is at least that many."""
    return [min(end, float(len(one.curve))) for end in one.found]


def _knee_in_words(one: Knee) -> str:
    knee, low, high = (
        f"≥ {end:.0f}" if np.isinf(given) else f"{end:.0f}" for end, given in zip(_ends(one), one.found, strict=True)
    )
    return f"{knee} [{low}, {high}]"


def _error_in_words(one: Knee) -> str:
    """Return how many more k* says than the knee is, and the ends of that by those of the knee."""
    error, most, least = (
        f"≤ {one.predicted[1] - end:+.0f}" if np.isinf(given) else f"{one.predicted[1] - end:+.0f}"
        for end, given in zip(_ends(one), one.found, strict=True)
    )
    return f"{error} [{least}, {most}]"


def _studies(evidence: Sequence[Evidence]) -> str:
    sets = sum(len({tuple(sorted(merge.chosen)) for merge in one.studied}) for one in evidence)
    if sets < _LEAST_SETS:
        return (
            f"### Cells of studies\n\nStudies had merged {sets} sets of these bases' experts when this page was "
            f"made: fewer than the\n{_LEAST_SETS} that are asked for here, so nothing is said of them."
        )
    found = {name: chance(each) for name, each in studied_correlations(evidence).items()}
    used = "; ".join(f"{one.zoo.name}, {len(one.studied)} merges ({one.study})" for one in evidence if one.studied)
    rows = [[named(name), f"{one.value:+.2f}", p_in_words(one)] for name, one in found.items()]
    return _STUDIES.format(used=used, table=table(["normalised performance", "mean over bases", "p"], rows))
