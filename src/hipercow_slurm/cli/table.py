"""Tables: cut to fit a terminal, complete when they go to a file or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table as RichTable

GAP = 2
LEAST = 6
Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table's columns.

    Attributes:
        whole: never cut, because half of it is something else: ids, states, times.
        dropped: what goes first where there is no room, in this order.
        right: set to the right.
        colours: a cell's first word -> rich's name of a colour.
    """

    headings: Row
    whole: Collection[str] = ()
    dropped: Sequence[str] = ()
    right: Collection[str] = ()
    colours: Mapping[str, str] = field(default_factory=dict)

    def print(self, rows: Sequence[Row]) -> None:
        """Print it; on a terminal in colours, and without columns that are empty."""
        if sys.stdout.isatty():
            from rich.console import Console

            console = Console(highlight=False)
            console.print(self.drawn(rows, console.width))
            return
        widths = [max(map(len, column)) for column in zip(self.headings, *rows, strict=True)]
        for cells in (self.headings, *rows):
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())

    def drawn(self, rows: Sequence[Row], available: int) -> RichTable:
        """The table for a terminal of so many columns."""
        from rich.cells import cell_len
        from rich.table import Table as RichTable
        from rich.text import Text

        longest = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
        needed = {h: max(len(h), w) for h, w in zip(self.headings, longest, strict=True) if w}
        widths = self.fit(needed, available)
        table = RichTable(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        for heading, width in widths.items():
            table.add_column(heading, width=width, no_wrap=True, justify="right" if heading in self.right else "left")
        for cells in rows:
            shown = dict(zip(self.headings, cells, strict=True))
            table.add_row(*(Text(shown[h], self.colours.get(shown[h].partition(" ")[0], "")) for h in widths))
        return table

    def fit(self, widths: dict[str, int], available: int) -> dict[str, int]:
        """Widths that together fit ``available`` characters: the widest texts are cut, then whole columns go."""
        widths = dict(widths)
        for leaving in (None, *self.dropped):
            if leaving is not None:
                widths.pop(leaving, None)
            excess = sum(widths.values()) + GAP * (len(widths) - 1) - available
            spare = {heading: width - LEAST for heading, width in widths.items() if heading not in self.whole}
            if excess <= sum(room for room in spare.values() if room > 0):
                break
        while excess > 0 and any(room > 0 for room in spare.values()):
            widest = max(spare, key=lambda heading: spare[heading])
            spare[widest] -= 1
            widths[widest] -= 1
            excess -= 1
        return widths
