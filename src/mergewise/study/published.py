"""What the paper that the study follows reports, to stand beside our numbers; never mixed with them.

"What Matters for Model Merging at Scale?", arXiv 2410.03617: task arithmetic with 2 and 8 experts, and a model trained
on all tasks together. The numbers were read from a secondary source of its Tables 1 to 4, not from the paper itself.
"""

from dataclasses import dataclass

__all__ = ["PUBLISHED", "PUBLISHED_NOTE", "PublishedRow"]


@dataclass(frozen=True)
class PublishedRow:
    """Normalised scores of one base: (2 experts, 8 experts), and the multitask model as printed."""

    base: str
    held_in: tuple[float, float]
    held_in_multitask: str
    held_out: tuple[float, float]
    held_out_multitask: str


PUBLISHED = (
    PublishedRow("PaLM-2-IT 1B", (0.91, 0.86), ".97 → .96", (1.03, 1.05), "1.11"),
    PublishedRow("PaLM-2-IT 8B", (0.95, 0.88), ".96", (1.06, 1.03), "1.12"),
    PublishedRow("PaLM-2-IT 24B", (0.96, 0.92), ".99 → .98", (1.05, 1.18), "1.18"),
    PublishedRow("PaLM-2-IT 64B", (1.00, 0.93), ".99", (1.00, 1.09), "1.05"),
    PublishedRow("PaLM-2 1B", (0.66, 0.39), ".88 → .87", (1.01, 1.07), "1.10"),
    PublishedRow("PaLM-2 8B", (0.68, 0.42), "–", (1.06, 1.00), "1.62"),
    PublishedRow("PaLM-2 64B", (0.80, 0.67), ".97 → .96", (1.29, 1.35), "1.73 → 1.72"),
)

PUBLISHED_NOTE = (
    "At PaLM-2-IT 64B with 8 experts Averaging, Task Arithmetic, DARE-TIES and TIES all score .93 held-in; held-out "
    "they score 1.09, 1.09, 1.09 and 1.10. IT: instruction-tuned base. RHT is from a later paper and has no published "
    "value here."
)
