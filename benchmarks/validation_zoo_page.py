"""The part of docs/validation.md that is about the zoo."""

from collections.abc import Mapping, Sequence

import numpy as np

import svg
from mergewise.study.forecasts import KNEE
from validate_zoo import (
    Correlations,
    Evidence,
    Knee,
    correlations,
    expert_correlations,
    knees,
    settings,
    studied_correlations,
)
from validation_tables import Estimate, details, in_words, named, over_bases, span, spread, table
from zoo_merges import Merge

__all__ = ["zoo_sections"]

BySetting = Mapping[str, Sequence[tuple[Evidence, Sequence[Merge]]]]

_ALLOWED = "noise allows"
_LEAST_SETS = 12  # of studies: rank correlations of fewer say nothing

_ZOO = """\
## The zoo

Bases: {bases}.
Sets are prefixes of permutations that lie far apart, merged by task arithmetic at λ = 1/k, which is averaging,
and at a fixed λ, and scored on test items of their experts' tasks. *Noise allows* is the correlation with
this measurement that a perfect prediction could be expected to have, from two halves of the items.

Tables have the median over bases, with the least and the largest in brackets, and beside it on how many bases an
interval lies above and below nought (*+ / −*), bold if on all of them on one side. Figures have the same medians, with
lines from the least to the largest.
"""

_TARGETS = {
    "normalised performance": (
        "Mean over the merged experts of accuracy/accuracy of the expert. It depends on which tasks are in the set:\n"
        "where the base is good already, little can be lost."
    ),
    "retained gain": (
        "Σ(merge - base)/Σ(expert - base) over the merged experts' tasks: what is left of what the experts learned."
    ),
}

_AGAINST_K = """\
**Against k alone**, which reaches {alone} over all k: in how many of the {count} cases, base by λ, a quantity has a
larger rank correlation, and in brackets in how many the interval of the difference lies above nought: {beaten}.
In none: {never}. By such an interval in all cases: {everywhere}."""

_COMPANIONS = """\
### Which companions harm an expert

The same expert among different companions, as many: its normalised performance against what its companions are. What
its task is like cannot matter here; this is interference alone. Intervals are over merges, each with all its experts.

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
A set counts once, with the mean over its merges; distances are those of averaging. *Same base*: ranks among sets of one
base and k, of which there are no more than three; *all bases*: among all sets of one k.

{table}
"""


def zoo_sections(evidence: Sequence[Evidence], figures: dict[str, str]) -> list[str]:
    """Return the sections of the page, and add their figures by file name."""
    by_setting: BySetting = {name: [(one, settings(one.merges)[name]) for one in evidence] for name in settings([])}
    bases = ", ".join(f"{one.zoo.name} ({len(one.merges)} merges)" for one in evidence)
    parts = [_ZOO.format(bases=bases or "none has all its experts yet")]
    if evidence:
        parts += [_target(target, by_setting, figures) for target in _TARGETS]
        parts += [_companions(by_setting, figures), _knees(evidence, figures), _studies(evidence)]
    return parts


def _target(target: str, by_setting: BySetting, figures: dict[str, str]) -> str:
    def value(merge: Merge) -> float:
        return merge.retained if target == "retained gain" else merge.performance

    found = {
        setting: [correlations(one.known, merges, value) for one, merges in group]
        for setting, group in by_setting.items()
    }
    within = {setting: [one.within for one in group] for setting, group in found.items()}
    over = {setting: [one.over for one in group] for setting, group in found.items()}
    ahead = {setting: [one.ahead for one in group] for setting, group in found.items()}
    allowed = {setting: [one.allowed for one in group] for setting, group in found.items()}
    names = list(next(iter(over.values()))[0])
    figure = f"zoo-{target.replace(' ', '-')}.svg"
    figures[figure] = _figure(f"The zoo: what goes with {target}", "rank correlation within k", within)
    return "\n\n".join([
        f"### {target.capitalize()}", _TARGETS[target],
        _within_table("within k", within, allowed),
        f"![rank correlations with {target}](validation/{figure})",
        over_bases("over all k", names, over, ahead, "ahead of k + / −"),
        _against_k([one for group in found.values() for one in group]),
        *(
            details(
                f"Every base, {setting}", _at_length("within k", _bases(by_setting), within[setting], allowed[setting]),
                table(
                    ["over all k", *_bases(by_setting)],
                    [[named(name), *(f"{base[name]:+.2f}" for base in over[setting])] for name in names],
                ),
            )
            for setting in by_setting
        ),
    ])  # fmt: skip


def _against_k(columns: Sequence[Correlations]) -> str:
    """Say which quantities go with a target more than the number of experts does, over all k."""
    alone = [one.over["k"] for one in columns]
    larger = {name: sum(one.ahead[name][0] > 0.0 for one in columns) for name in columns[0].ahead}
    clearly = {name: sum(one.ahead[name][1] > 0.0 for one in columns) for name in larger}
    some = sorted((name for name in larger if larger[name]), key=lambda name: (-clearly[name], -larger[name]))
    return _AGAINST_K.format(
        alone=span(alone, "+.2f"), count=len(columns),
        beaten=", ".join(f"{name} {larger[name]} ({clearly[name]})" for name in some) or "none",
        never=", ".join(name for name in larger if not larger[name]) or "none",
        everywhere=", ".join(name for name in some if clearly[name] == len(columns)) or "none",
    )  # fmt: skip


def _companions(by_setting: BySetting, figures: dict[str, str]) -> str:
    found = {
        setting: [expert_correlations(one.known, merges) for one, merges in group]
        for setting, group in by_setting.items()
    }
    estimates = {setting: [one for one, _ in group] for setting, group in found.items()}
    allowed = {setting: [most for _, most in group] for setting, group in found.items()}
    corner = "same expert and k"
    figures["zoo-companions.svg"] = _figure(
        "The zoo: which companions harm an expert", "rank correlation, same expert and same k", estimates
    )
    return _COMPANIONS.format(
        table=_within_table(corner, estimates, allowed),
        details="\n\n".join(
            details(f"Every base, {name}", _at_length(corner, _bases(by_setting), estimates[name], allowed[name]))
            for name in by_setting
        ),
    )


def _within_table(
    corner: str, found: Mapping[str, Sequence[Mapping[str, Estimate]]], allowed: Mapping[str, Sequence[float]]
) -> str:
    medians = {
        setting: [
            {**{name: one[0] for name, one in base.items()}, _ALLOWED: most}
            for base, most in zip(bases, allowed[setting], strict=True)
        ]
        for setting, bases in found.items()
    }
    return over_bases(corner, list(next(iter(medians.values()))[0]), medians, found)


def _at_length(
    corner: str, bases: Sequence[str], found: Sequence[Mapping[str, Estimate]], allowed: Sequence[float]
) -> str:
    rows = [[named(name), *(in_words(base[name]) for base in found)] for name in found[0]]
    return table([corner, *bases], [*rows, [named(_ALLOWED), *(f"{most:.2f}" for most in allowed)]])


def _figure(title: str, note: str, found: Mapping[str, Sequence[Mapping[str, Estimate]]]) -> str:
    names = list(next(iter(found.values()))[0])
    rows = [(name, [spread([base[name][0] for base in bases]) for bases in found.values()]) for name in names]
    return svg.intervals(title, f"{note}; median over bases, least to largest", list(found), rows)


def _bases(by_setting: BySetting) -> list[str]:
    return [one.zoo.name for one, _ in next(iter(by_setting.values()))]


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
    found = studied_correlations(evidence)
    used = "; ".join(f"{one.zoo.name}, {len(one.studied)} merges ({one.study})" for one in evidence if one.studied)
    rows = [[named(name), *map(in_words, row)] for name, row in found.items()]
    return _STUDIES.format(used=used, table=table(["normalised performance", "same base", "all bases"], rows))
