"""docs/validation.md, from what `validate.py` measured."""

from collections.abc import Mapping, Sequence

import numpy as np

import svg
from quantities import DIRECTIONS
from validate_linear import TASKS
from validate_linear_ranks import FAMILIES, LinearForm
from validate_linear_ranks import FORMS as LINEAR_FORMS
from validate_synthetic import EXPERTS, SEEDS, Case, Found, expected_interference
from validate_zoo import Evidence
from validation_tables import Estimate, in_words, named, span, table
from validation_zoo_page import zoo_sections
from zoo_metrics import ANSWERED, INPUTS

__all__ = ["HEAD", "page"]

Linear = Mapping[str, Mapping[str, Mapping[str, Estimate]]]

HEAD = f"""\
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
| overlap | tr(M_i M_j), M = ττᵀ/‖τ‖² and τᵀτ/‖τ‖², mean over companions; by energy; *companions only* | less |
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
Square brackets are 95 % intervals.
"""

_SYNTHETIC = """\
## Experts of known rank in known position

{experts} experts, each a change of rank r of one d x d matrix; means over {seeds} seeds. k₀ is the last number of
experts that can have directions of their own, by construction. *decay*: singular values fall as j^-decay; *noise*:
energy of full-rank noise over that of the change; *half*: all experts lie at random inside the same half of the space.
*c/r* is the entropy rank, which k* counts with, over r. *filled*: the first k with 95 % of the occupancy of all.
*width*: the number by width alone. *Interference*: ‖Σ_(j≠i) τ_j x‖²/‖τ_i x‖² over inputs x that expert i reads,
and in brackets its expectation in closed form.

{table}

- **By definition** k* is k₀ where the surveyed rank c is r, as k* counts how many times c goes into d: in the {clean}
  families with equal singular values, no noise, and positions that are separate or random in all of the space. Nothing
  is tested there but c, which is off by at most {off:.1%}; k* is k₀ in {exact} of them. Of all {all} families, k₀ lies
  between k_safe and k_full in {held}.
- Elsewhere k* follows c. Where singular values fall, c/r is {falling} and k* - k₀ {falling_off}; with noise, c/r is
  {noisy} and k* - k₀ {noisy_off}. Where all experts share half of the space, k* - k₀ is {half_off}, as k* takes
  their position to be random in all of it; occupancy, never above {half_occupied:.2f} there, is what shows that.
- **What is tested** is the interference, which is off its closed form by at most {missed:.2f}. Separate experts have a
  threshold: up to k₀ it is {separate:.2f}. *In random position there is none*: it grows in proportion from the second
  expert on, (k - 1)·r/d in expectation without noise, is {random} at k₀ already, and as large as what the expert does
  itself at k₀ + 1. That is all that k* marks.
- Width knows cosines alone, and gives a number in {stops} of the {all} families: experts that share directions without
  being copies are nearly orthogonal whatever their ranks, so it says nothing of room.
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

k itself is over all sets. Intervals here are Student's over the families.

![rank correlations of the linear models](validation/linear.svg)
"""


def page(
    known: Sequence[tuple[Case, Found]], linear: Linear, evidence: Sequence[Evidence]
) -> tuple[str, dict[str, str]]:
    """Return the page and its figures by file name."""
    figures: dict[str, str] = {}
    parts = [HEAD, _synthetic(known), _linear(linear, figures), *zoo_sections(evidence, figures)]
    return "\n\n".join(part.strip() for part in parts) + "\n", figures


def _synthetic(known: Sequence[tuple[Case, Found]]) -> str:
    head = (
        "position", "decay", "noise", "d", "r", "k₀", "c/r", "k_safe", "k*", "k_full", "k* - k₀", "filled", "width",
        "occupied at k₀", "interference at k₀", "at k₀ + 1",
    )  # fmt: skip
    rows = []
    for case, found in known:
        k = case.room
        stops = "none" if found.width_stops is None else f"{found.width_stops:.3g}"
        rows.append((
            case.position, f"{case.decay:g}", f"{case.noise:g}", f"{case.side}", f"{case.rank}", f"**{k}**",
            f"{found.consumed:.2f}", f"{found.safe:.3g}", f"{found.most:.3g}", f"{found.full:.3g}",
            f"{found.most - k:+.3g}", f"{found.filled:.3g}", stops, f"{found.occupied[k - 1]:.2f}",
            *(f"{found.interference[n - 1]:.2f} ({expected_interference(case, n):.2f})" for n in (k, k + 1)),
        ))  # fmt: skip
    half = [(case, found) for case, found in known if case.position == "half"]
    others = [(case, found) for case, found in known if case.position != "half"]
    falling = [(case, found) for case, found in others if case.decay]
    noisy = [(case, found) for case, found in others if case.noise]
    clean = [(case, found) for case, found in others if not (case.decay or case.noise)]
    missed = [
        abs(found.interference[k - 1] - expected_interference(case, k))
        for case, found in known
        for k in (case.room, case.room + 1)
    ]
    at_room = {
        name: [found.interference[case.room - 1] for case, found in others if case.position == name and not case.noise]
        for name in ("separate", "random")
    }
    return _SYNTHETIC.format(
        experts=EXPERTS, seeds=len(SEEDS), table=table(head, rows), all=len(known), clean=len(clean),
        off=max(abs(found.consumed - 1.0) for _, found in clean),
        exact=sum(found.most == case.room for case, found in clean),
        held=sum(found.safe <= case.room <= found.full for case, found in known),
        falling=span([found.consumed for _, found in falling], ".2f"), falling_off=span(_off(falling), "+.3g"),
        noisy=span([found.consumed for _, found in noisy], ".2f"), noisy_off=span(_off(noisy), "+.3g"),
        half_off=span(_off(half), "+.3g"), half_occupied=max(found.occupied.max() for _, found in half),
        missed=max(missed), separate=max(at_room["separate"]), random=span(at_room["random"], ".2f"),
        stops=sum(found.width_stops is not None for _, found in known),
    )  # fmt: skip


def _off(known: Sequence[tuple[Case, Found]]) -> list[float]:
    return [found.most - case.room for case, found in known]


def _linear(linear: Linear, figures: dict[str, str]) -> str:
    columns = [(form, scale) for form in linear for scale in linear[form]]
    first = linear[columns[0][0]][columns[0][1]]
    quantities = [name for name in DIRECTIONS if name in first]
    rows = [[named(name), *(in_words(linear[form][scale][name]) for form, scale in columns)] for name in quantities]
    figures["linear.svg"] = svg.intervals(
        "Linear models, λ = 1/k: what goes with less excess loss",
        f"rank correlation within k, mean over {FAMILIES} families",
        list(linear),
        [(name, [_shown(linear[form]["λ = 1/k"][name]) for form in linear]) for name in quantities],
    )
    head = ["within k", *(f"{form}, {scale}" for form, scale in columns)]
    forms = f"{FAMILIES} families each:\n\n" + "\n".join(_form(name, form) for name, form in LINEAR_FORMS.items())
    return _LINEAR.format(tasks=TASKS, forms=forms, table=table(head, rows))


def _form(name: str, form: LinearForm) -> str:
    return (
        f"- *{name}*: {form.shared:.0%} of the targets' energy shared, their lengths spread by e^±{form.spread:g}, "
        f"variances of inputs\n  falling as j^-{form.decay:g}"
    )


def _shown(found: Estimate) -> Estimate | None:
    return None if np.isnan(found).any() else found
