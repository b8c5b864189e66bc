"""What of a data set's people lies in a folder of runs, and how it is removed.

Whatever is not known to hold numbers alone counts as theirs: stores of clips, pictures in
notebooks, landmarks, names of files.
"""

import argparse
import contextlib
import csv
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ppfer.base.errors import PpferError
from ppfer.cli.terminal import table
from ppfer.run.names import CLEANED, OWN_PICTURES, data_folders, run_json, synthetic

NUMBERS = (  # files that hold no picture and no clip's name
    *("manifest.json", "started.json", "run.json", "metrics.jsonl", "weights.safetensors"),
    *("last.safetensors", "checkpoint.pt", ".lock", "calls.jsonl", CLEANED),
)
KINDS = {".npy": "clips", ".csv": "names", ".ipynb": "notebooks", ".png": "pictures"}
PIECE, SHORTEST = 48, 6  # bytes of a frame, letters of a name: fewer would be found anywhere


def audit(args: argparse.Namespace) -> None:
    """List what lies where."""
    if runs := _asked_for(args):
        rows = listing(runs)
        print(table(rows) if rows else "nothing there shows or names a person")
        print("Networks trained on these people are kept by `ppfer clean`, and not listed.")


def clean(args: argparse.Namespace) -> None:
    """Remove it."""
    if runs := _asked_for(args):
        found = "no clip's name and no piece of a frame was found in the rest"
        print(f"{remove(runs)} files removed; {found}")


def _asked_for(args: argparse.Namespace) -> list[Path]:
    if not (runs := runs_of(args.runs_dir, args.data)):
        what = f"of {args.data}" if args.data else "of people (runs of drawn clips hold nobody)"
        print(f"there is no run {what} in {args.runs_dir}")
    return runs


# --- whose clips a run holds ----------------------------------------------------


def runs_of(runs_dir: Path, data: Path | None = None) -> list[Path]:
    """Runs that have ever held clips of a data folder; without one, clips of people, and the folder
    of what an explorer saved of somebody's own files.
    """
    every = sorted(path for path in runs_dir.glob("*") if path.is_dir() and _is_run(path))
    if data is None:
        return [run for run in every if people_in(run)]
    data = data.resolve()
    return [run for run in every if any(data in (at, *at.parents) for at in folders_of(run) or ())]


def _is_run(folder: Path) -> bool:
    """Whether a folder says that it is a run, has stages of one, or holds an explorer's files."""
    with contextlib.suppress(PpferError):
        return bool(run_json(folder))
    own = folder.glob("*" if folder.name == OWN_PICTURES else "*/started.json")
    return any(True for _ in own)


def people_in(run: Path) -> bool:
    """Whether a run has held clips that nobody drew; so it is taken where nobody knows."""
    places = folders_of(run)
    return places is None or not synthetic(*places)


def folders_of(run: Path) -> set[Path] | None:
    """Where a run's clips came from: the folders that it was given, and those that its stores name;
    nothing where they were drawn in memory, None where nobody knows.
    """
    try:
        places = set(map(Path, data_folders(run_json(run))))
    except PpferError:
        places = None
    for file in run.rglob("store/table.csv"):
        path = Path(next((row.get("path") or "" for row in _rows(file)), ""))
        if path.is_absolute() and not any(at in path.parents for at in places or ()):
            places = {*(places or ()), path.parent}
    return places


# --- what of them lies there ----------------------------------------------------


def about_people(run: Path) -> Iterator[tuple[str, Path]]:
    """(kind, file) of all in a run that may show or name a person."""
    for path in sorted(p for p in run.rglob("*") if p.is_file() or p.is_symlink()):
        results = path.parent.name == "tables" and path.suffix in (".json", ".md")
        if path.name not in NUMBERS and not results:
            answers = path.parent.name == "logits"  # what networks answer for each clip
            yield "answers" if answers else KINDS.get(path.suffix, "other"), path


def listing(runs: list[Path]) -> list[dict]:
    """A row per run and kind of file: how many there are, how large, one of them."""
    files = defaultdict(list)
    for run in runs:
        for kind, path in about_people(run):
            files[run, kind].append(path)
    rows = []
    for (run, kind), paths in files.items():
        size = round(sum(path.lstat().st_size for path in paths) / 1e6, 1)
        row = {"run": run.name, "kind": kind, "files": len(paths), "MB": size}
        rows.append(row | {"first": str(paths[0].relative_to(run))})
    return rows


def remove(runs: list[Path]) -> int:
    """Remove all that `listing` names, then search what is left for names and pieces of frames;
    returns how many files were removed. A `PpferError` names a file that still holds something.

    A stage that loses a file keeps its manifest as ``cleaned.json``: it is made again when asked
    for, and what was trained on it still knows what that was.
    """
    signs, count = {sign for run in runs for sign in traces(run)}, 0
    for run in runs:
        for _, path in list(about_people(run)):
            path.unlink()
            count += 1
            for folder in (path.parent, path.parent.parent):  # a store lies in its stage
                manifest = folder / "manifest.json"
                if folder != run and (folder / "started.json").exists() and manifest.exists():
                    manifest.replace(folder / CLEANED)
            if path.parent.name == "store":
                (path.parent / "manifest.json").unlink(missing_ok=True)

    pattern = re.compile(b"|".join(map(re.escape, sorted(signs, key=len, reverse=True))))
    for path in [p for run in runs for p in run.rglob("*") if p.is_file()] if signs else []:
        if found := pattern.search(path.read_bytes()):
            raise PpferError(f"{path} still holds {found[0][:40]!r} of the data set; delete it")
    return count


def traces(run: Path) -> Iterator[bytes]:
    """By what a data set's clips are known again: names, and a piece of a frame of each."""
    for store in {path.parent for path in run.rglob("store/*")}:
        for row in _rows(store / "table.csv"):
            if len(name := row.get("clip") or "") >= SHORTEST:
                yield name.encode("utf-8", "surrogateescape")
        try:
            clips = np.load(store / "clips.npy", mmap_mode="r")  # (N, T, 3, H, W)
        except (OSError, ValueError):  # never begun, or damaged
            continue
        for clip in clips:
            line = np.ascontiguousarray(clip[len(clip) // 2, 0]).reshape(-1)
            piece = line[len(line) // 2 :][:PIECE].tobytes()
            if len(set(piece)) > PIECE // 4:  # a flat piece is found anywhere
                yield piece


def _rows(table: Path) -> list[dict]:
    """A store's table; nothing where there is none."""
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))
