"""The seven figures of "What Matters for Model Merging at Scale?" (arXiv 2410.03617) in a study's data, and the cost.

They are made from the tables of `columns` alone. Every base, method and number of experts that the study's spec names
has its point; where the tables have no row for it, the point is a missing one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergewise.study.chart import Axis, Figure, Panel, Point, Series, axis, log_axis
from mergewise.study.spec import label_of

__all__ = [
    "NOT_ASKED",
    "PAPER_FIGURES",
    "QUALITIES",
    "SIDES",
    "Grid",
    "base_name",
    "base_tags",
    "count_panel",
    "grid_of",
    "paper_figures",
    "shown_first",
]

Record = Mapping[str, Any]

QUALITIES = {"pt": "pretrained", "it": "instruction-tuned"}
SIDES = {"held_in": "held-in", "held_out": "held-out"}
MEANING = {"held_in": "each task's own expert = 1", "held_out": "base = 1"}
RATIO = {"held_in": "normalised held-in", "held_out": "normalised held-out"}
EXPERTS = "experts merged"
NOT_ASKED = "not in this study"
"""What is said in the place of what a study was never asked for; `missing` is what it was."""
PAPER_FIGURES = 7
"""How many of the figures are the paper's; what comes after them is ours."""


@dataclass(frozen=True)
class Grid:
    """What a study compares, and the rows that are there.

    Attributes:
        bases: records of the bases, by quality, then size.
        methods: labels by name.
        merge_methods: what the methods are in the recipe language, by name.
        counts: numbers of merged experts, in ascending order.
        multitask: whether there should be multitask models.
        limits: whether the experts' weights should foresee how many fit.
        scores: rows of the table of scores, by base, method and number of experts.
        costs: the same of the table of costs.
        forecasts: rows of the table of forecasts, by base and method.
    """

    bases: tuple[Record, ...]
    methods: Mapping[str, str]
    merge_methods: Mapping[str, str]
    counts: tuple[int, ...]
    multitask: bool
    limits: bool
    scores: Mapping[tuple[str, str, int], Record]
    costs: Mapping[tuple[str, str, int], Record]
    forecasts: Mapping[tuple[str, str], Record]

    @property
    def qualities(self) -> list[str]:
        """Kinds of bases, in order."""
        return list(dict.fromkeys(base["quality"] for base in self.bases))

    @property
    def sizes(self) -> list[str]:
        """Labels of the sizes, the smallest first."""
        ordered = sorted(self.bases, key=lambda base: int(base["parameters"]))
        return list(dict.fromkeys(base["size"] for base in ordered))

    @property
    def strong(self) -> list[Record]:
        """Bases that count as strong, the instruction-tuned ones; empty if there are none."""
        return [base for base in self.bases if base["quality"] == "it"]

    @property
    def largest(self) -> Record:
        """The largest strong base, or the largest of all if none is strong."""
        return max(self.strong or self.bases, key=lambda base: int(base["parameters"]))

    def named(self, merge_method: str) -> str:
        """Return what the study calls a method of the recipe language, the first of several; empty if it has none."""
        return next((name for name, one in self.merge_methods.items() if one == merge_method), "")

    def base(self, quality: str, size: str) -> Record | None:
        """Return the base of a kind and size."""
        return next((one for one in self.bases if (one["quality"], one["size"]) == (quality, size)), None)


def grid_of(document: Record) -> Grid:
    """Read what a study compares from the document that `run_study` gives."""

    def rows(table: str) -> dict[tuple[str, str, int], Record]:
        return {(row["base"], row["method"], row["k"]): row for row in document["tables"][table]}

    spec = document["study"]
    return Grid(
        bases=tuple(document["bases"]),
        methods={name: label_of(name, one["method"], one["label"]) for name, one in spec["methods"].items()},
        merge_methods={name: one["method"] or name for name, one in spec["methods"].items()},
        counts=tuple(sorted(spec["k"])),
        multitask=spec["multitask"],
        limits=spec.get("limits", True),
        scores=rows("scores"),
        costs=rows("costs"),
        forecasts={(row["base"], row["method"]): row for row in document["tables"].get("forecasts", ())},
    )


def shown_first(grid: Grid) -> dict[str, str]:
    """Return what is shown where one value is shown at a time: the most experts, and task arithmetic if it is there."""
    focus = grid.named("task_arithmetic") or next(iter(grid.methods))
    return {"k": str(grid.counts[-1]), "focus": focus}


def paper_figures(grid: Grid) -> list[Figure]:
    """Return the seven figures in the paper's order, then the cost of merges."""
    return [
        _headline(grid),
        _against_multitask(grid),
        _base_quality(grid),
        _over_size(grid),
        _held_out_by_size(grid),
        _count_by_size(grid),
        _methods_at_scale(grid),
        _cost(grid),
    ]


def _headline(grid: Grid) -> Figure:
    panels = [
        count_panel(grid, base_name(base), _all_methods(grid, base, "held_in"), base_tags(base)) for base in grid.bases
    ]
    return _scores(
        "headline", "What merges keep of their experts", "held_in", panels,
        f"Normalised held-in score by base, size, method and number of experts{_trained_on_all(grid)}",
    )  # fmt: skip


def _against_multitask(grid: Grid) -> Figure:
    panels = [
        count_panel(grid, base_name(base), _all_methods(grid, base, "held_out"), base_tags(base))
        for base in grid.strong or grid.bases
    ]
    which = "Strong (instruction-tuned) bases only."
    if not grid.strong:
        which = "This study has no instruction-tuned bases, which count as strong; those that it has are shown."
    dotted = f"Multitask models are {NOT_ASKED}."
    if grid.multitask:
        dotted = "Dotted: one model trained on all held-in tasks together, scored on the same tasks."
    return _scores(
        "multitask", "Held-out tasks: merging against multitask training", "held_out", panels,
        f"{which} {dotted}",
    )  # fmt: skip


def _base_quality(grid: Grid) -> Figure:
    if len(grid.qualities) < 2:
        return _nothing("base", "Pretrained against instruction-tuned bases", "It takes bases of two kinds.")
    panels = []
    for size in grid.sizes:
        series = [
            _over_count(grid, base, method, "held_in", QUALITIES.get(quality, quality), slot, focus=True)
            for slot, quality in enumerate(grid.qualities)
            for base in [grid.base(quality, size)]
            if base
            for method in grid.methods
        ]
        panels.append(count_panel(grid, size, series, {"size": size}))
    return _scores(
        "base", "Pretrained against instruction-tuned bases", "held_in", panels,
        "Normalised held-in score of one method, chosen above.",
    )  # fmt: skip


def _over_size(grid: Grid) -> Figure:
    panels = [
        Panel(
            QUALITIES.get(quality, quality), tuple(grid.sizes), "size",
            tuple(
                _over_sizes(grid, quality, method, "held_in", label, slot, grid.counts)
                for slot, (method, label) in enumerate(grid.methods.items())
            ),
            {"quality": quality},
        )
        for quality in grid.qualities
    ]  # fmt: skip
    return _scores(
        "size", "Held-in over the size of the base", "held_in", panels,
        "Normalised held-in score at one number of experts, chosen above.",
    )  # fmt: skip


def _held_out_by_size(grid: Grid) -> Figure:
    panels = []
    for quality in grid.qualities:
        series = []
        for slot, size in enumerate(grid.sizes):
            base = grid.base(quality, size)
            if base is None:
                continue
            series += [_over_count(grid, base, m, "held_out", size, slot, focus=True) for m in grid.methods]
            if grid.multitask:
                name = f"Multitask, {size}"
                series.append(_over_count(grid, base, "multitask", "held_out", name, slot, reference=True))
        panels.append(count_panel(grid, QUALITIES.get(quality, quality), series, {"quality": quality}))
    dotted = f"Multitask models are {NOT_ASKED}."
    if grid.multitask:
        dotted = "Dotted: the multitask model of the same size."
    return _scores(
        "held-out", "Held-out over the number of experts, by size", "held_out", panels,
        f"Normalised held-out score of one method, chosen above. {dotted}",
    )  # fmt: skip


def _count_by_size(grid: Grid) -> Figure:
    panels = [
        Panel(
            f"{QUALITIES.get(quality, quality)}, {SIDES[side]}", tuple(grid.sizes), "size",
            tuple(
                _over_sizes(grid, quality, method, side, f"{count} experts", slot, [count], focus=True)
                for slot, count in enumerate(grid.counts)
                for method in grid.methods
            ),
            {"quality": quality},
        )
        for side in SIDES
        for quality in grid.qualities
    ]  # fmt: skip
    return Figure(
        "count", "How many experts can be merged, by size",
        "One method, chosen above. Held-in is against each task's own expert, held-out against the base.",
        "normalised score", axis(panels, 1), tuple(panels), (1.0, "expert or base = 1"),
    )  # fmt: skip


def _methods_at_scale(grid: Grid) -> Figure:
    base, which = grid.largest, "largest strong base" if grid.strong else "largest base"
    panels = [count_panel(grid, SIDES[side], _all_methods(grid, base, side), {}) for side in SIDES]
    return Figure(
        "methods", f"The methods at the {which} ({base_name(base)})",
        f"Held-in is against each task's own expert, held-out against the base{_trained_on_all(grid)}",
        "normalised score", axis(panels, 1), tuple(panels), (1.0, "expert or base = 1"),
    )  # fmt: skip


def _cost(grid: Grid) -> Figure:
    panels = []
    for base in grid.bases:
        series = []
        for slot, (method, label) in enumerate(grid.methods.items()):
            points = []
            for index, count in enumerate(grid.counts):
                row = grid.costs.get((base["name"], method, count))
                where = f"{label}, {base_name(base)}, {count} experts"
                seconds = row["merge_seconds"] if row else None
                text = f"{where}: missing"
                if row and seconds:
                    text = f"{where}: {seconds:.3g} s on one core, {row['bytes_in'] / 1e6:.4g} MB read"
                points.append(Point(index, seconds or None, None, None, text))
            series.append(Series(label, slot, tuple(points), {"method": method}))
        panels.append(count_panel(grid, base_name(base), series, base_tags(base)))
    scale: Axis = log_axis(panels)
    return Figure(
        "cost", "What a merge costs", "Median seconds on one core for one merge in memory; not in the paper.",
        "seconds", scale, tuple(panels),
    )  # fmt: skip


def _trained_on_all(grid: Grid) -> str:
    """End a caption with what is dotted, if anything is."""
    return "; a model trained on all tasks is dotted." if grid.multitask else f". Multitask models are {NOT_ASKED}."


def _scores(name: str, title: str, side: str, panels: Sequence[Panel], caption: str) -> Figure:
    return Figure(name, title, caption, RATIO[side], axis(panels, 1), tuple(panels), (1.0, MEANING[side]))


def _nothing(name: str, title: str, lacks: str) -> Figure:
    return Figure(name, title, "", "", axis([]), (), None, lacks)


def count_panel(grid: Grid, title: str, series: Iterable[Series], tags: Mapping[str, str]) -> Panel:
    """Return a panel over the numbers of experts."""
    return Panel(title, tuple(str(count) for count in grid.counts), EXPERTS, tuple(series), tags)


def base_name(base: Record) -> str:
    """Return a base's name for readers: its quality and its size."""
    quality = QUALITIES.get(base["quality"], base["quality"])
    return f"{quality}, {base['size']}"


def base_tags(base: Record) -> dict[str, str]:
    """Return what readers choose a base by."""
    return {"quality": base["quality"], "size": base["size"]}


def _all_methods(grid: Grid, base: Record, side: str) -> list[Series]:
    series = [
        _over_count(grid, base, method, side, label, slot) for slot, (method, label) in enumerate(grid.methods.items())
    ]
    if grid.multitask:
        series.append(_over_count(grid, base, "multitask", side, "Multitask", None, reference=True))
    return series


def _over_count(
    grid: Grid,
    base: Record,
    method: str,
    side: str,
    name: str,
    slot: int | None,
    *,
    focus: bool = False,
    reference: bool = False,
) -> Series:
    """Return a score over the number of experts."""
    points = tuple(_point(grid, base, method, count, side, index) for index, count in enumerate(grid.counts))
    tags = base_tags(base) if reference else {**base_tags(base), "focus" if focus else "method": method}
    return Series(name, slot, points, tags, reference)


def _over_sizes(
    grid: Grid,
    quality: str,
    method: str,
    side: str,
    name: str,
    slot: int,
    counts: Sequence[int],
    *,
    focus: bool = False,
) -> Series:
    """Return a score over the size of the base; with several numbers of experts one of them is shown at a time."""
    points = tuple(
        _point(grid, base, method, count, side, index, {"size": size, **({"k": str(count)} if len(counts) > 1 else {})})
        for count in counts
        for index, size in enumerate(grid.sizes)
        for base in [grid.base(quality, size)]
        if base
    )
    return Series(name, slot, points, {"focus" if focus else "method": method})


def _point(
    grid: Grid, base: Record, method: str, count: int, side: str, x: float, tags: Mapping[str, str] | None = None
) -> Point:
    label = "Multitask" if method == "multitask" else grid.methods[method]
    where = f"{label}, {base_name(base)}, {count} experts"
    row = grid.scores.get((base["name"], method, count))
    if row is None:
        return Point(x, None, None, None, f"{where}: {SIDES[side]} missing", tags or {})
    value, low, high = (row[f"{side}_normalised{end}"] for end in ("", "_low", "_high"))
    against = "expert" if side == "held_in" else "base"
    known = value is not None
    score = f"{value:.3f} [{low:.3f}, {high:.3f}]" if known else f"undefined, as the {against} scores 0 on a task"
    text = (
        f"{where}: {SIDES[side]} {score}, raw {row[f'{side}_raw']:.3f} against "
        f"{row[f'{side}_{against}']:.3f} of the {against}, n {row[f'{side}_items']}"
    )
    return Point(x, value, low, high, text, tags or {})
