"""``ppfer runs``: which runs there are."""

from __future__ import annotations

import argparse

from ppfer.cli.terminal import table
from ppfer.run.names import known_runs


def runs(args: argparse.Namespace) -> None:
    """List the runs there are."""
    rows = known_runs(args.runs_dir)
    print(table(rows) if rows else f"there are no runs in {args.runs_dir} yet")
