"""Which notebooks there are, and copies of them to work in: ``ppfer student``."""

import argparse
import os
from pathlib import Path

import nbformat

from ppfer.base.errors import PpferError
from ppfer.config import REPO

NOTEBOOKS = REPO / "notebooks"
MAIN = ("00", "01", "02", "03", "04", "05", "06", "07", "12")  # the whole method, once
TABLES = ("08", "09", "10", "11")  # comparisons, attacks, ablations, beyond the paper


def chosen(which: str) -> list[Path]:
    """Notebook files for "main", "tables", "all" or a comma-separated list of numbers, in order; a
    `PpferError` if a number has no notebook.
    """
    groups = {"main": MAIN, "tables": TABLES, "all": tuple(sorted(MAIN + TABLES))}
    numbers = groups.get(which) or tuple(n.strip().zfill(2) for n in which.split(","))
    found = {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
    if missing := [n for n in numbers if n not in found]:
        known, none = ", ".join(found), ", ".join(missing)
        raise PpferError(f"there is no notebook {none} in {NOTEBOOKS}; there are {known}")
    return [found[n] for n in numbers]


def student(args: argparse.Namespace) -> None:
    """Copy the notebooks to work in."""
    new = len(copies(args.folder, solutions=args.solutions))
    kept = len(chosen("all")) - new
    print(f"{args.folder}: {new} notebooks written, {kept} that were there are as they were")


def copies(folder: Path, *, solutions: bool = False) -> list[Path]:
    """Copies of the notebooks to work in, without outputs, with links that fit the folder; files
    that are there already stay. Returns those that were written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    here, written = Path(os.path.relpath(REPO, folder.resolve())).as_posix(), []
    moved = {"](../": f"]({here}/"}
    moved |= {f"]({name})": f"]({here}/notebooks/{name})" for name in ("README.md", "GLOSSARY.md")}
    for path in chosen("all"):
        copy = folder / path.name
        if copy.exists():
            continue
        book = nbformat.read(path, as_version=4)
        for cell in list(book.cells):
            if not solutions and "solution" in cell.metadata.get("tags", []):
                book.cells.remove(cell)
            for old, new in moved.items():
                cell.source = cell.source.replace(old, new)
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(book, copy)
        written.append(copy)
    return written
