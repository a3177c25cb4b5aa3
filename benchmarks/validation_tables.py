"""Tables of docs/validation.md: one figure per base and quantity at length, or over bases at a glance."""

from collections.abc import Sequence

import numpy as np

import results
from quantities import BASELINES, DIRECTIONS
from relabelling import Chance

__all__ = ["Estimate", "details", "in_words", "named", "p_in_words", "span", "spread", "table", "with_p", "with_range"]

Estimate = tuple[float, float, float]
"""A figure with the ends of its 95 % interval."""

_LEAST_P = 0.001


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
    """Return the mean of figures with the least and the largest, leaving out NaN; None if nothing else is there."""
    known = np.array(values)[~np.isnan(values)]
    return (float(known.mean()), float(known.min()), float(known.max())) if known.size else None


def span(values: Sequence[float], form: str) -> str:
    """Return the least and the largest of figures in words."""
    return f"{min(values):{form}} to {max(values):{form}}"


def with_range(values: Sequence[float]) -> str:
    """Return the mean of figures with the least and the largest in words; a dash where one has no value."""
    if np.isnan(values).any():
        return "–"
    return f"{np.mean(values):+.2f} ({min(values):+.2f} to {max(values):+.2f})"


def p_in_words(found: Chance) -> str:
    """Return a p, bold where it is clear of chance."""
    if np.isnan(found.p):
        return "–"
    text = f"{found.p:.3f}" if found.p >= _LEAST_P else f"< {_LEAST_P:g}"
    return f"**{text}**" if found.sign else text


def with_p(found: Chance) -> str:
    """Return a correlation with its p, bold where it is clear of chance; a dash where there is none."""
    if np.isnan(found.value):
        return "–"
    text = f"{found.value:+.2f} ({found.p:.2f})"
    return f"**{text}**" if found.sign else text


def details(summary: str, *parts: str) -> str:
    """Return what is shown when a reader asks for it."""
    return "\n\n".join([f"<details>\n<summary>{summary}</summary>", *parts, "</details>"])
