"""Tables that fit a terminal."""

from collections.abc import Callable, Sequence

WIDE = 100  # columns of a terminal


def table(rows: list[dict], text: Callable[[object], str] = str) -> str:
    """Rows as aligned columns, cells by `text`; the long "what_ran" column is left to the files.

    A table that is wider than a terminal is turned on its side, or else cut between columns.
    """
    columns = [c for c in dict.fromkeys(key for row in rows for key in row) if c != "what_ran"]
    cells = [columns, *([text(row.get(c, "")) for c in columns] for row in rows)]
    lines = _aligned(cells)
    turned = _aligned(list(zip(*cells, strict=True)))
    if len(lines[0]) > WIDE >= len(turned[0]):
        lines = turned
    if len(lines[0]) > WIDE and len(columns) > 2:
        first, *rest = columns
        half = (len(rest) + 1) // 2
        halves = ((first, *some) for some in (rest[:half], rest[half:]))
        parts = ([{c: row.get(c, "") for c in some} for row in rows] for some in halves)
        return "\n\n".join(table(part, text) for part in parts)
    return "\n".join(lines)


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ([v.ljust(w) for v, w in zip(line, widths, strict=True)] for line in cells)
    return ["  ".join(line) for line in padded]
