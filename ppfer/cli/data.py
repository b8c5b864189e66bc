"""``ppfer data`` and ``ppfer twin``: what is in a folder of clips, and a folder of drawn ones."""

import argparse

from ppfer.base.errors import printable
from ppfer.base.progress import Progress
from ppfer.data.decoding import inspected
from ppfer.data.index import index


def data(args: argparse.Namespace) -> None:
    """Say what is in a folder of clips."""
    found = index(args.folder, fold=args.fold, labels=args.labels)
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
    from ppfer.twin import generate  # seconds, which `ppfer data` does without

    asked = ("out", "actors", "size", "frames", "seed", "difficulty", "wild", "device")
    generate(**{name: getattr(args, name) for name in asked})
