"""docs/validation.md, from what `validate.py` measured."""

from collections.abc import Mapping, Sequence

import numpy as np

import svg
from quantities import BASELINES, DIRECTIONS
from validate_linear import TASKS
from validate_linear_ranks import FAMILIES, LinearForm
from validate_linear_ranks import FORMS as LINEAR_FORMS
from validate_synthetic import EXPERTS, SEEDS, Case, Found
from validate_zoo import Estimate, Evidence, correlations, expert_correlations, knees, settings, studied_correlations
from zoo_merges import Merge
from zoo_metrics import ANSWERED, INPUTS

__all__ = ["page"]

Linear = Mapping[str, Mapping[str, Mapping[str, Estimate]]]
Group = tuple[Evidence, str, Sequence[Merge]]
Table = list[Sequence[str]]

_LEAST_SETS = 12  # of studies: rank correlations of fewer say nothing

_HEAD = f"""\
# Does any of it predict anything?

Made by `make validate` (`benchmarks/validate.py`), which surveys every base of the zoo that has its eight experts,
merges many subsets of them, scores the merges, and compares. [limits.md](limits.md) says what each quantity is, which
parts are theorem, construction and measurement, and what follows from this page. Everything here is **measured**, but
for closed forms, which are marked as such.

| quantity | what it is | expected with better merges |
|---|---|---|
| k | number of experts; *baseline* | less |
| mean cosine | over pairs of task vectors; *baseline* | more |
| sign conflict | share of coordinates with opposite signs, over pairs; *baseline* | less |
| norm | mean length of the task vectors; *baseline* | less |
| width share | width over that of k orthogonal experts | more |
| marginal gain | what an expert of the set adds to its width, on average | more |
| coverage, conflict | of the largest fifth of the changes | more, less |
| occupancy | participation ratio of the experts' Gram matrices added up, over the side; median by energy | less |
| load | Σ c_i/d, which passes 1 at k*; median by energy | less |
| crosstalk | Σ a_ij, j ≠ i, over Σ a_ii: what others do to the inputs that an expert's change answers to | less |
| distance | mean over experts t of ‖λΣτ - τ_t‖²/‖τ_t‖², from the Gram matrix alone | less |
| input distance | the same, ‖τ‖² being Σ ‖τx‖² over inputs x of linear layers on {INPUTS} unlabelled texts | less |
| output distance | the same, ‖τ‖² being Σ ‖o‖², o how far the *whole expert* moves the output on these texts | less |
| agreement | share of {ANSWERED} unlabelled texts of t that e + λΣo answers as expert t; e: output of the base | more |
| nearest | the same share, the answer being which other text is nearest; needs no choices | more |
| changes kept | share of the answers that an expert changes which e + λΣo gives as the expert does | more |
| base agreement | share of these texts that the *base* answers as expert t does | more |

Directions were fixed beforehand, but the last four were thought of when the others had been seen to fail here.
Rank correlations are Spearman's, times that direction, so that positive is as expected. **Within k**: ranks are
taken among sets of the same number of experts, as that number alone explains much.
Intervals of 95 % are from a bootstrap over sets, bold where they exclude nought. There are eight experts per base and
sets share them, so intervals are too narrow for a claim about other experts; that a sign holds on all bases says more.
"""

_SYNTHETIC = """\
## Experts of known rank in known position

{experts} experts, each a change of rank r of one d x d matrix; means over {seeds} seeds. k₀ is the last number of
experts that can have directions of their own, by construction. *decay*: singular values fall as j^-decay; *noise*:
energy of full-rank noise over that of the change; *half*: all experts lie at random inside the same half of the space.
*c/r* is the entropy rank, which k* counts with, over r. *filled*: the first k with 95 % of the occupancy of all.
*width*: the number by width alone. *Interference*: ‖Σ_(j≠i) τ_j x‖²/‖τ_i x‖² over inputs x that expert i reads.

{table}

- k* is exact in {exact} of the {clean} families with equal singular values, no noise, and positions that are separate
  or random in all of the space; k₀ lies between k_safe and k_full in {held} of all {all}.
- Where singular values fall, entropy ranks are smaller than ranks, and k* says that more fit; noise makes them larger,
  and k* says that fewer do. Where all experts share half of the space, k* is twice k₀, since it takes their position to
  be random in all of it; occupancy, which stays below a half, is what shows that.
- Only separate experts have a threshold: no interference up to k₀. *In random position there is none at k₀*:
  interference grows in proportion from the second expert on, (k - 1)·r/d in expectation (closed form, tested), and is
  as large as what the expert does itself at k₀ + 1. That is all that k* marks.
- Width knows cosines alone. Experts in random position are nearly orthogonal whatever their ranks, so it says nothing
  of room; it finds that separate experts repeat themselves.
"""

_LINEAR = """\
## Linear models

{tasks} tasks, experts trained to the end by least squares, all sets of 2 to {tasks}; the excess loss of a merge over
its experts, as a share of what these gained on the base, is known in closed form (`benchmarks/validate_linear.py`). Two
things are **theorems** here, and tested as such: around an expert without gradient, the excess of its *training* loss
is the input distance over its training inputs; and over random designs with N ≤ d examples it is
(1 - λ)² + λ²(k - 1)N/d in expectation. The table is about the *true* loss, and the input distance about 16 fresh
unlabelled inputs.

{forms}

{table}

k itself is over all sets.

![rank correlations of the linear models](validation/linear.svg)
"""

_ZOO = """\
## The zoo

Bases: {bases}.
Sets are prefixes of permutations that lie far apart, merged by task arithmetic at λ = 1/k, which is averaging,
and at a fixed λ, and scored on test items of their experts' tasks. *Noise allows* is the correlation with
this measurement that a perfect prediction could be expected to have, from two halves of the items.
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

_COMPANIONS = """\
### Which companions harm an expert

The same expert among different companions, as many: its normalised performance against what its companions are. What
its task is like cannot matter here; this is interference alone.

{table}

![rank correlations for companions](validation/zoo-companions.svg)
"""

_KNEES = """\
### The number of experts

The *knee* is the smallest k after which one more expert raises a sum over the merged experts by less than 2 % of the
most that it can be: the sum of normalised performances, or of gains over the base (the last column: their share of what
all experts gain, means over sets, one expert alone first).

{table}

{counted}

![gains over the number of experts](validation/zoo-knees.svg)
"""

_STUDIES = """\
### Cells of studies

Merges by several methods, λ and density tuned for each, three draws of experts for every k: {used}.
A set counts once, with the mean over methods; distances are those of averaging. *Same base*: ranks among sets of one
base and k, of which there are no more than three; *all bases*: among all sets of one k.

{table}
"""


def page(
    known: Sequence[tuple[Case, Found]], linear: Linear, evidence: Sequence[Evidence]
) -> tuple[str, dict[str, str]]:
    """Return the page and its figures by file name."""
    figures: dict[str, str] = {}
    parts = [_HEAD, _synthetic(known), _linear(linear, figures), *_zoo(evidence, figures)]
    return "\n\n".join(part.strip() for part in parts) + "\n", figures


def _synthetic(known: Sequence[tuple[Case, Found]]) -> str:
    head = (
        "position", "decay", "noise", "d", "r", "k₀", "c/r", "k_safe", "k*", "k_full", "k* - k₀", "filled", "width",
        "occupied at k₀", "interference at k₀", "at k₀ + 1",
    )  # fmt: skip
    rows: Table = []
    for case, found in known:
        k = case.room
        stops = "none" if found.width_stops is None else f"{found.width_stops:.3g}"
        rows.append((
            case.position, f"{case.decay:g}", f"{case.noise:g}", f"{case.side}", f"{case.rank}", f"**{k}**",
            f"{found.consumed:.2f}", f"{found.safe:.3g}", f"{found.most:.3g}", f"{found.full:.3g}",
            f"{found.most - k:+.3g}", f"{found.filled:.3g}", stops, f"{found.occupied[k - 1]:.2f}",
            f"{found.interference[k - 1]:.2f}", f"{found.interference[k]:.2f}",
        ))  # fmt: skip
    clean = [(c, f) for c, f in known if c.position != "half" and c.noise == 0.0 and c.decay == 0.0]
    exact = sum(found.most == case.room for case, found in clean)
    held = sum(found.safe <= case.room <= found.full for case, found in known)
    return _SYNTHETIC.format(
        experts=EXPERTS, seeds=len(SEEDS), table=_table(head, rows), exact=exact, clean=len(clean), held=held,
        all=len(known),
    )  # fmt: skip


def _linear(linear: Linear, figures: dict[str, str]) -> str:
    columns = [(form, scale) for form in linear for scale in linear[form]]
    first = linear[columns[0][0]][columns[0][1]]
    quantities = [name for name in DIRECTIONS if name in first]
    rows: Table = [
        [_named(name), *(_estimate(linear[form][scale][name]) for form, scale in columns)] for name in quantities
    ]
    figures["linear.svg"] = svg.intervals(
        "Linear models, λ = 1/k: what goes with less excess loss",
        f"rank correlation within k, mean over {FAMILIES} families",
        list(linear),
        [(name, [_shown(linear[form]["λ = 1/k"][name]) for form in linear]) for name in quantities],
    )
    table = _table(["within k", *(f"{form}, {scale}" for form, scale in columns)], rows)
    forms = f"{FAMILIES} families each:\n\n" + "\n".join(_form(name, form) for name, form in LINEAR_FORMS.items())
    return _LINEAR.format(tasks=TASKS, forms=forms, table=table)


def _form(name: str, form: LinearForm) -> str:
    return (
        f"- *{name}*: {form.shared:.0%} of the targets' energy shared, their lengths spread by e^±{form.spread:g}, "
        f"variances of inputs\n  falling as j^-{form.decay:g}"
    )


def _zoo(evidence: Sequence[Evidence], figures: dict[str, str]) -> list[str]:
    groups = [(one, name, merges) for one in evidence for name, merges in settings(one.merges).items()]
    heads = [f"{one.zoo.name}, {name}" for one, name, _ in groups]
    bases = ", ".join(f"{one.zoo.name} ({len(one.merges)} merges)" for one in evidence)
    parts = [_ZOO.format(bases=bases or "none has all its experts yet")]
    if groups:
        parts += [_target(target, groups, heads, figures) for target in _TARGETS]
        parts += [_companions(groups, heads, figures), _knees(evidence, figures), _studies(evidence)]
    return parts


def _target(target: str, groups: Sequence[Group], heads: Sequence[str], figures: dict[str, str]) -> str:
    def value(merge: Merge) -> float:
        return merge.retained if target == "retained gain" else merge.performance

    found = [correlations(one.known, merges, value) for one, _, merges in groups]
    names = list(found[0][0])
    rows: Table = [[_named(name), *(_estimate(within[name]) for within, _, _ in found)] for name in names]
    rows.append(["*noise allows*", *(f"{most:.2f}" for _, _, most in found)])
    over: Table = [[_named(name), *(f"{every[name]:+.2f}" for _, every, _ in found)] for name in found[0][1]]
    figure = f"zoo-{target.replace(' ', '-')}.svg"
    figures[figure] = svg.intervals(
        f"The zoo: what goes with {target}", "rank correlation within k", heads,
        [(name, [_shown(within[name]) for within, _, _ in found]) for name in names],
    )  # fmt: skip
    return "\n\n".join([
        f"### {target.capitalize()}", _TARGETS[target], _table(["within k", *heads], rows),
        f"![rank correlations with {target}](validation/{figure})", _table(["over all k", *heads], over),
    ])  # fmt: skip


def _companions(groups: Sequence[Group], heads: Sequence[str], figures: dict[str, str]) -> str:
    found = [expert_correlations(one.known, merges) for one, _, merges in groups]
    names = list(found[0][0])
    rows: Table = [[_named(name), *(_estimate(one[name]) for one, _ in found)] for name in names]
    rows.append(["*noise allows*", *(f"{most:.2f}" for _, most in found)])
    figures["zoo-companions.svg"] = svg.intervals(
        "The zoo: which companions harm an expert", "rank correlation, same expert and same k", heads,
        [(name, [_shown(one[name]) for one, _ in found]) for name in names],
    )  # fmt: skip
    return _COMPANIONS.format(table=_table(["same expert and k", *heads], rows))


def _knees(evidence: Sequence[Evidence], figures: dict[str, str]) -> str:
    found = [knee for one in evidence for knee in knees(one)]
    head = (
        "base", "merged with", "knee, performance", "knee, gains", "k_safe", "k*", "k_full", "by width",
        "gains for k = 1, 2, …",
    )  # fmt: skip
    rows: Table = [
        (
            one.base, one.setting, _count(one.by_performance), _count(one.by_gain), *map(str, one.predicted),
            _count(one.width), " ".join(f"{value:.2f}" for value in one.curve),
        )
        for one in found
    ]  # fmt: skip
    figures["zoo-knees.svg"] = svg.lines(
        "What k experts gain on the base, of what all experts gain", "experts merged", "share of all gains",
        {f"{one.base}, {one.setting}": list(enumerate(one.curve, 1)) for one in found},
    )  # fmt: skip
    errors = [one.predicted[1] - one.by_gain for one in found if one.by_gain is not None]
    counted = (
        f"Against the knee by gains, where there is one, k* is off by {', '.join(f'{e:+d}' for e in errors)} experts: "
        f"{np.mean(np.abs(errors)):.1f}\non average."
        if errors
        else "There is no knee by gains to compare k* with."
    )
    return _KNEES.format(table=_table(head, rows), counted=counted)


def _studies(evidence: Sequence[Evidence]) -> str:
    sets = sum(len({tuple(sorted(merge.chosen)) for merge in one.studied}) for one in evidence)
    if sets < _LEAST_SETS:
        return (
            f"### Cells of studies\n\nStudies had merged {sets} sets of these bases' experts when this page was "
            f"made: fewer than the\n{_LEAST_SETS} that are asked for here, so nothing is said of them."
        )
    found = studied_correlations(evidence)
    used = "; ".join(f"{one.zoo.name}, {len(one.studied)} merges ({one.study})" for one in evidence if one.studied)
    rows: Table = [[_named(name), *(_estimate(estimate) for estimate in row)] for name, row in found.items()]
    return _STUDIES.format(used=used, table=_table(["normalised performance", "same base", "all bases"], rows))


def _table(head: Sequence[str], rows: Table) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _named(name: str) -> str:
    return f"*{name}*" if name in BASELINES else name


def _estimate(found: Estimate) -> str:
    value, low, high = found
    if np.isnan(value):
        return "–"
    text = f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
    return f"**{text}**" if low > 0.0 or high < 0.0 else text


def _shown(found: Estimate) -> Estimate | None:
    return None if np.isnan(found).any() else found


def _count(value: int | None) -> str:
    return "none" if value is None else str(value)
