"""What the paper that the study follows reports, to stand beside our numbers; never mixed with them.

"What Matters for Model Merging at Scale?", arXiv 2410.03617: task arithmetic with 2 and 8 experts, and a model trained
on all tasks together. The numbers were read from a secondary source of its Tables 1 to 4, not from the paper itself.
"""

from dataclasses import dataclass

__all__ = ["PUBLISHED", "PUBLISHED_NOTE", "PublishedRow", "arrow", "published_evidence"]

FEW, MOST = 0, 1  # experts: 2 and 8


@dataclass(frozen=True)
class PublishedRow:
    """Normalised scores of one base.

    Attributes:
        size: of the base.
        tuned: whether it is instruction-tuned.
        held_in: with 2 and with 8 experts.
        held_in_multitask: of the multitask model; two numbers where it was scored on both sets of tasks, none if none
            is printed.
        held_out: as `held_in`.
        held_out_multitask: as `held_in_multitask`.
    """

    size: str
    tuned: bool
    held_in: tuple[float, float]
    held_in_multitask: tuple[float, ...]
    held_out: tuple[float, float]
    held_out_multitask: tuple[float, ...]

    @property
    def base(self) -> str:
        """Its name in the paper."""
        return f"PaLM-2{'-IT' if self.tuned else ''} {self.size}"


PUBLISHED = (
    PublishedRow("1B", True, (0.91, 0.86), (0.97, 0.96), (1.03, 1.05), (1.11,)),
    PublishedRow("8B", True, (0.95, 0.88), (0.96,), (1.06, 1.03), (1.12,)),
    PublishedRow("24B", True, (0.96, 0.92), (0.99, 0.98), (1.05, 1.18), (1.18,)),
    PublishedRow("64B", True, (1.00, 0.93), (0.99,), (1.00, 1.09), (1.05,)),
    PublishedRow("1B", False, (0.66, 0.39), (0.88, 0.87), (1.01, 1.07), (1.10,)),
    PublishedRow("8B", False, (0.68, 0.42), (), (1.06, 1.00), (1.62,)),
    PublishedRow("64B", False, (0.80, 0.67), (0.97, 0.96), (1.29, 1.35), (1.73, 1.72)),
)
BY_METHOD = {"held-in": (0.93, 0.93, 0.93, 0.93), "held-out": (1.09, 1.09, 1.09, 1.10)}
"""Of averaging, task arithmetic, DARE-TIES and TIES at PaLM-2-IT 64B with 8 experts."""

PUBLISHED_NOTE = (
    "At PaLM-2-IT 64B with 8 experts Averaging, Task Arithmetic, DARE-TIES and TIES all score .93 held-in; held-out "
    "they score 1.09, 1.09, 1.09 and 1.10. IT: instruction-tuned base. RHT is from a later paper and has no published "
    "value here."
)


def arrow(values: tuple[float, ...]) -> str:
    """Write numbers as the paper's tables do.

    >>> arrow((0.91, 0.86))
    '0.91 → 0.86'
    """
    return " → ".join(f"{value:.2f}" for value in values) or "–"


def published_evidence() -> dict[str, str]:
    """Return what the published values say to the claims of `verdicts`, by the number of the question."""
    tuned = {row.size: row for row in PUBLISHED if row.tuned}
    plain = {row.size: row for row in PUBLISHED if not row.tuned}
    small, large = next(iter(tuned)), next(reversed(tuned))
    both = [size for size in tuned if size in plain]
    gaps = [", ".join(_signed(tuned[size].held_in[k] - plain[size].held_in[k]) for size in both) for k in (FEW, MOST)]
    gained = [score - 1 for row in tuned.values() for score in row.held_out]
    beyond = ", ".join(f"{_signed(row.held_out[MOST] - row.held_out_multitask[-1])} at {size}"
                       for size, row in tuned.items())  # fmt: skip
    losses = ", ".join(
        f"{rows[size].held_in[FEW] - rows[size].held_in[MOST]:.2f} at {rows[size].base}"
        for rows in (tuned, plain) for size in (small, large)
    )  # fmt: skip
    change = "; ".join(
        f"{name} {_signed(rows[large].held_in[FEW] - rows[small].held_in[FEW])} with 2 experts, "
        f"{_signed(rows[large].held_in[MOST] - rows[small].held_in[MOST])} with 8"
        for name, rows in (("instruction-tuned", tuned), ("pretrained", plain))
    )
    spread = " and ".join(f"{max(scores) - min(scores):.2f} {side}" for side, scores in BY_METHOD.items())
    return {
        "1": f"Held-in, instruction-tuned minus pretrained at {', '.join(both)}: {gaps[FEW]} with 2 experts, "
        f"{gaps[MOST]} with 8.",
        "2": f"Held-in, {large} minus {small}: {change}.",
        "3a": f"Held-out of instruction-tuned bases minus 1: {_signed(min(gained))} to {_signed(max(gained))}.",
        "3b": f"Held-out with 8 experts minus multitask, instruction-tuned: {beyond}.",
        "4": f"Loss of held-in from 2 to 8 experts: {losses}.",
        "5": f"At {tuned[large].base} with 8 experts the four methods lie within {spread}.",
    }


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−").replace("−0.00", "0.00").replace("+0.00", "0.00")
