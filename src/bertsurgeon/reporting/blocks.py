"""What a page is made of: sections of paragraphs, tables, figures and lists, as plain data for the templates."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bertsurgeon.reporting.formats import DASH, integer, is_number


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it shows.
        tone: ``good``, ``warn``, ``bad``, ``muted`` or nothing.
        is_number: Aligned to the right.
        strong: Bold.
    """

    text: str
    tone: str = ""
    is_number: bool = False
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        columns: Headings.
        rows: Cells by row; plain strings are made cells.
        caption: What it shows, for everyone.
        numbers: Positions of the columns of numbers; None for all but the first.
        bold: Positions of rows that stand out.
        folded: It is shown on demand.
        is_half: It takes half of the width.
    """

    block: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    caption: str
    numbers: frozenset[int] | None = None
    bold: frozenset[int] = frozenset()
    folded: bool = False
    is_half: bool = False

    @property
    def cells(self) -> list[list[Cell]]:
        """All cells, without columns that hold nothing at all."""
        return [
            [self._cell(text, row, column) for column, text in self._kept(cells)] for row, cells in enumerate(self.rows)
        ]

    @property
    def headings(self) -> list[Cell]:
        """The headings of the columns that are shown."""
        return [Cell(text, is_number=self._is_number(column)) for column, text in self._kept(self.columns)]

    def _kept(self, cells: Sequence[Any]) -> list[tuple[int, Any]]:
        return [
            (column, cell)
            for column, cell in enumerate(cells)
            if column == 0 or any(_text(row[column]) not in ("", DASH) for row in self.rows)
        ]

    def _cell(self, cell: str | Cell, row: int, column: int) -> Cell:
        text, tone = _text(cell), cell.tone if isinstance(cell, Cell) else ""
        return Cell(text, tone, self._is_number(column), row in self.bold)

    def _is_number(self, column: int) -> bool:
        return column > 0 if self.numbers is None else column in self.numbers


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption, and its numbers as a table.

    Attributes:
        svg: The SVG element.
        caption: What it shows.
        table: The same numbers; None if a table with them follows.
    """

    block: ClassVar[str] = "figure"
    svg: str
    caption: str
    table: Table | None


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    block: ClassVar[str] = "paragraph"
    text: str
    tone: str = ""


@dataclass(frozen=True)
class Facts:
    """Names and values, such as settings.

    Attributes:
        items: The pairs.
        caption: Heading; empty for none.
        folded: They are shown on demand.
        is_half: They take half of the width.
    """

    block: ClassVar[str] = "facts"
    items: Sequence[tuple[str, str]]
    caption: str = ""
    folded: bool = False
    is_half: bool = False


@dataclass(frozen=True)
class Code:
    """Text that is shown as it is."""

    block: ClassVar[str] = "code"
    text: str
    caption: str


@dataclass(frozen=True)
class Examples:
    """Texts whose answers changed.

    Attributes:
        items: Rows with ``text``, ``text_pair``, ``label``, ``dense`` and ``chosen``; all but the first few are folded.
        caption: What they are.
    """

    block: ClassVar[str] = "examples"
    unfolded: ClassVar[int] = 4
    items: Sequence[Mapping[str, Any]]
    caption: str


Block = Table | Figure | Paragraph | Facts | Code | Examples


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        anchor: Its id.
        title: Its heading.
        blocks: What it holds; None is left out, and a section without blocks as well.
    """

    anchor: str
    title: str
    blocks: Sequence[Block | None]

    @property
    def content(self) -> list[Block]:
        """The blocks that there are."""
        return [block for block in self.blocks if block is not None]


@dataclass(frozen=True)
class Change:
    """A quantity before and after.

    Attributes:
        name: What it is.
        before: Before, with unit.
        after: After, with unit.
        note: What that means, such as ``5.3× smaller``.
        tone: See :class:`Cell`.
    """

    name: str
    before: str
    after: str
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        kicker: The kind of report.
        title: The model.
        subtitle: What it was made for and on.
        status: Verdict in two words; empty for none.
        tone: Color of the verdict.
        sentence: The verdict as a sentence.
        changes: What changed, the most important first.
        notes: Sentences below them.
        sections: The sections.
    """

    kicker: str
    title: str
    subtitle: str = ""
    status: str = ""
    tone: str = ""
    sentence: str = ""
    changes: Sequence[Change] = ()
    notes: Sequence[str] = ()
    sections: Sequence[Section] = field(default_factory=list)

    @property
    def shown(self) -> list[Section]:
        """The sections that hold something."""
        return [section for section in self.sections if section.content]


def figure(svg: str | None, caption: str, table: Table) -> Block | None:
    """Returns a figure; its table alone if nothing could be drawn, and None if that is empty."""
    if svg is not None:
        return Figure(svg, caption, table)
    return table if table.rows else None


def facts(
    values: Mapping[str, Any] | None, caption: str, *, folded: bool = False, is_half: bool = False
) -> Facts | None:
    """Returns options or other nested values as facts, one for each leaf; None if there are none."""
    items = [(name, text) for name, text in _leaves(values or {}) if text]
    return Facts(items, caption, folded, is_half) if items else None


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}: ")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(_scalar(item) for item in value)
        else:
            yield name, _scalar(value)


def _scalar(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if is_number(value):
        return integer(value) if float(value).is_integer() else f"{value:.4g}"
    return str(value)


def _text(cell: str | Cell) -> str:
    return cell.text if isinstance(cell, Cell) else cell
