"""Tables that cut no word, however narrow the terminal: columns as wide as their longest word at least, or else another form.

What does not fit side by side is shown in blocks of columns under the same first one (numbers), or entry by entry (texts).
No torch here: the catalogue's doors print with it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

BREAK = "\x1f"
"""In a cell that is not wrapped: where a line may end if room is short (between an estimate and its interval)."""


def stdout() -> Console:
    """The console on stdout. A pipe has no width of its own: wide enough there for what is to be read by a program."""
    console = Console(highlight=False)
    return console if _has_width(console) else Console(width=160, highlight=False)


def say(console: Console, line: Text | str) -> None:
    """One line of prose: wrapped between words where there is a width, whole in a pipe."""
    console.print(line, soft_wrap=not _has_width(console))


def _has_width(console: Console) -> bool:
    return console.is_terminal or "COLUMNS" in os.environ


class Grid:
    """A table to be printed by rich. columns: titles; one that starts with ">" is set to the right and not wrapped, one
    with "|" only not wrapped.

    key: the column that names an entry. split: what does not fit is shown in blocks of columns. ruled: a line under the titles.
    spaced: an empty line between rows. header: whether titles are shown.
    """

    def __init__(
        self,
        *columns: str,
        key: int = 0,
        split: bool = False,
        ruled: bool = True,
        spaced: bool = False,
        header: bool = True,
        title: str = "",
    ) -> None:
        self.titles = [c[1:] if c[:1] in (">", "|") else c for c in columns]
        self.right, self.whole = [c.startswith(">") for c in columns], [c[:1] in (">", "|") for c in columns]
        self.key, self.split, self.ruled, self.spaced, self.header, self.title = key, split, ruled, spaced, header, title
        self.rows: list[list[str]] = []

    def add_row(self, *cells: str) -> None:
        """Cells in rich's markup, one a column."""
        self.rows.append([*cells, *[""] * (len(self.titles) - len(cells))])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(self.title, "italic")
        everything = range(len(self.titles))
        if self._widths(everything, options.max_width) is not None:
            yield self._table(everything, options.max_width)
        elif self.split and (blocks := self._blocks(options.max_width)):
            for number, block in enumerate(blocks):
                if number:
                    yield Text()
                yield self._table(block, options.max_width)
        else:
            yield from self._entries()

    # --- side by side -------------------------------------------------------------------------------------------------
    def _widths(self, columns: Sequence[int], room: int) -> tuple[list[int], bool] | None:
        """The columns' widths and whether breaks are taken; None where even their longest words do not fit."""
        room -= (3 if self.ruled else 2) * (len(columns) - 1)
        for broken in (False, True):
            least = [self._least(c, broken) for c in columns]
            if sum(least) > room:
                continue
            wish = [self._most(c, broken) - low for c, low in zip(columns, least, strict=True)]
            spare, wanted = room - sum(least), sum(wish)
            share = 1.0 if wanted <= spare else spare / wanted
            return [low + int(more * share) for low, more in zip(least, wish, strict=True)], broken
        return None

    def _least(self, column: int, broken: bool) -> int:
        heads = self.titles[column].split() if self.header else []
        cells = [line for row in self.rows for line in _lines(row[column], broken)]
        parts = cells if self.whole[column] else [word for line in cells for word in line.split()]
        return max(map(cell_len, [*heads, *parts, ""]))

    def _most(self, column: int, broken: bool) -> int:
        return max(map(cell_len, [self.titles[column] * self.header, *(line for row in self.rows for line in _lines(row[column], broken))]))

    def _table(self, columns: Sequence[int], room: int) -> Table:
        widths, broken = self._widths(columns, room) or ([], False)
        table = Table(
            box=SIMPLE_HEAD if self.ruled else None, show_edge=False, pad_edge=False, header_style="bold", show_header=self.header,
            leading=int(self.spaced),
        )  # fmt: skip
        for column, width in zip(columns, widths, strict=True):
            table.add_column(self.titles[column], justify="right" if self.right[column] else "left", width=width)
        for row in self.rows:
            table.add_row(*(Text.from_markup(row[c].replace(BREAK, "\n" if broken else " ")) for c in columns))
        return table

    def _blocks(self, room: int) -> list[list[int]]:
        """The columns in groups that fit, each beginning with the key; none where one alone does not fit beside it."""
        blocks: list[list[int]] = []
        for column in range(len(self.titles)):
            if column == self.key:
                continue
            if blocks and self._widths([*blocks[-1], column], room) is not None:
                blocks[-1].append(column)
            elif self._widths([self.key, column], room) is not None:
                blocks.append([self.key, column])
            else:
                return []
        return blocks

    # --- entry by entry -----------------------------------------------------------------------------------------------
    def _entries(self) -> RenderResult:
        for number, row in enumerate(self.rows):
            if number:
                yield Text()
            yield Text.from_markup(row[self.key].replace(BREAK, " "), style="bold")
            for column, cell in enumerate(row):
                if cell and column != self.key:
                    said = Text.from_markup(cell.replace(BREAK, " "))
                    name = f"{self.titles[column]}: " if self.header and self.titles[column] else ""
                    yield Padding(Text.assemble((name, "dim"), said), (0, 0, 0, 2))


def _lines(cell: str, broken: bool) -> list[str]:
    return Text.from_markup(cell.replace(BREAK, "\n" if broken else " ")).plain.split("\n")
