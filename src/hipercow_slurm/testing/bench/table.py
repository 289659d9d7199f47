"""What is printed: tables of numbers, and each goal with what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal.

    Attributes:
        text: what it asks for.
        measured: what was found, in words.
        met: None if this run cannot tell.
    """

    text: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """``met``, ``short`` or ``not measured``."""
        return "not measured" if self.met is None else "met" if self.met else "SHORT"


@dataclass(frozen=True, slots=True)
class Table:
    """A title, column heads and rows."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[object]]


def show(table: Table) -> None:
    """Print a table in Markdown, columns aligned: what is seen can be pasted into docs/benchmarks.md."""
    cells = [list(map(str, table.heads)), *(list(map(text, row)) for row in table.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.heads))]
    cells.insert(1, ["-" * width for width in widths])
    print(f"\n{table.title}\n")
    for row in cells:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |", flush=True)


def show_goals(goals: Sequence[Goal]) -> None:
    """Print the goals' table."""
    show(Table("Goals", ("goal", "measured", "verdict"), [(goal.text, goal.measured, goal.verdict) for goal in goals]))


def text(value: object) -> str:
    """A number with three significant digits, or the text; ``-`` for None."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"
