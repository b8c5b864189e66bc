"""Commands of a few lines. Each imports what it needs, since most of them are done at once."""

from __future__ import annotations

import argparse

from ppfer.base.errors import printable
from ppfer.base.progress import Progress
from ppfer.cli import notebooks
from ppfer.cli.settings import config_of
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


def data(args: argparse.Namespace) -> None:
    """Say what is in a folder of clips."""
    from ppfer.data.decoding import inspected  # with PyAV and pandas
    from ppfer.data.index import index

    found = index(args.folder)
    if not args.quick:
        progress = Progress("looking into files", len(found.table), "files")
        found = inspected(found, on_file=progress.update)
    print(found.summary())
    for row in found.rejected.itertuples():
        print(printable(f"rejected {row.path}: {row.reason}"))
    for path, remark in found.remarks:
        print(printable(f"remark {path}: {remark}"))


def twin(args: argparse.Namespace) -> None:
    """Draw synthetic clips."""
    from ppfer.twin import generate  # with PyTorch

    generate(
        args.out,
        actors=args.actors,
        size=args.size,
        frames=args.frames,
        seed=args.seed,
        difficulty=args.difficulty,
        wild=args.wild,
        device=args.device,
    )


def cost(args: argparse.Namespace) -> None:
    """Say what each stage of a config takes."""
    config = config_of(args)

    from ppfer.study.cost import report  # with PyTorch, once the settings are right

    print(report(config))
