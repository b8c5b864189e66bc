"""``ppfer runs`` and ``ppfer student``, which are done at once."""

from __future__ import annotations

import argparse

from ppfer.cli import notebooks
from ppfer.cli.terminal import table
from ppfer.run.names import known_runs


def runs(args: argparse.Namespace) -> None:
    """List the runs there are."""
    rows = known_runs(args.runs_dir)
    print(table(rows) if rows else f"there are no runs in {args.runs_dir} yet")


def student(args: argparse.Namespace) -> None:
    """Copy the notebooks to work in."""
    written = notebooks.student(args.folder, solutions=args.solutions)
    kept = len(notebooks.chosen("all")) - len(written)
    print(
        f"{args.folder}: {len(written)} notebooks written, {kept} that were there are as they were"
    )
