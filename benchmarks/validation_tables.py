"""Tables of docs/validation.md: one figure per base and quantity at length, or over bases at a glance."""

from collections.abc import Mapping, Sequence

import numpy as np

import results
from quantities import BASELINES, DIRECTIONS

__all__ = ["Estimate", "details", "in_words", "named", "over_bases", "span", "spread", "table"]

Estimate = tuple[float, float, float]
"""A figure with the ends of its 95 % interval."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, without the end of its last line."""
    return results.table(head, rows).rstrip("\n")


def named(name: str) -> str:
    """Return the name of a row; those of baselines, and of what is no quantity, in italics."""
    return f"*{name}*" if name in BASELINES or name not in DIRECTIONS else name


def in_words(found: Estimate) -> str:
    """Return an estimate with its interval, bold if that excludes nought; a dash without one."""
    value, low, high = found
    if np.isnan(value):
        return "–"
    text = f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
    return f"**{text}**" if low > 0.0 or high < 0.0 else text


def spread(values: Sequence[float]) -> Estimate | None:
    """Return the median of figures with the least and the largest, leaving out NaN; None if nothing else is there."""
    known = np.array(values)[~np.isnan(values)]
    return (float(np.median(known)), float(known.min()), float(known.max())) if known.size else None


def span(values: Sequence[float], form: str) -> str:
    """Return the least and the largest of figures in words."""
    return f"{min(values):{form}} to {max(values):{form}}"


def over_bases(
    corner: str,
    names: Sequence[str],
    figures: Mapping[str, Sequence[Mapping[str, float]]],
    judged: Mapping[str, Sequence[Mapping[str, Estimate]]],
    counted: str = "bases + / −",
) -> str:
    """Return a table of medians over bases with their ranges.

    Beside each stands on how many bases an interval lies above and below nought; bold if on all of them on one side.

    Args:
        corner: Head of the first column.
        names: Of the rows.
        figures: By setting, for every base the figures by name.
        judged: The same of the estimates whose intervals are counted; names that it lacks have no count.
        counted: Head of the counts.
    """
    rows = []
    for name in names:
        row = [named(name)]
        for setting, bases in figures.items():
            found = spread([base[name] for base in bases])
            text = "–" if found is None else f"{found[0]:+.2f} ({found[1]:+.2f} to {found[2]:+.2f})"
            estimates = [base[name] for base in judged[setting] if name in base]
            above, below = sum(low > 0.0 for _, low, _ in estimates), sum(high < 0.0 for _, _, high in estimates)
            everywhere = len(estimates) > 0 and len(estimates) in (above, below)
            row += [f"**{text}**" if everywhere else text, f"{above} / {below}" if estimates else ""]
        rows.append(row)
    return table([corner, *(head for setting in figures for head in (setting, counted))], rows)


def details(summary: str, *parts: str) -> str:
    """Return what is shown when a reader asks for it."""
    return "\n\n".join([f"<details>\n<summary>{summary}</summary>", *parts, "</details>"])
