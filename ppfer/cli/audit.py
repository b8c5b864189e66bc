"""What of a data set's people lies in a folder of runs, and how it is removed.

Whatever is not known to hold numbers alone counts as theirs: stores of clips, pictures in
notebooks, landmarks, names of files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ppfer.base.errors import PpferError
from ppfer.config import load_config
from ppfer.data.store import ClipStore
from ppfer.run import Run
from ppfer.run.names import data_path

NUMBERS = (  # files that hold no picture and no clip's name
    *("manifest.json", "started.json", "run.json", "metrics.jsonl", "weights.safetensors"),
    *("last.safetensors", "checkpoint.pt", ".lock"),
)
KINDS = {".npy": "clips", ".csv": "names", ".ipynb": "notebooks", ".png": "pictures"}
PIECE, SHORTEST = 48, 6  # bytes of a frame, letters of a name: fewer would be found anywhere


def synthetic(*folders: str | Path) -> bool:
    """Whether data folders hold clips that `ppfer twin` drew, of nobody; its wild clips lie in a
    folder of theirs.
    """
    places = [data_path(str(folder)) for folder in folders]
    return all(any((at / "twin.json").exists() for at in (f, f.parent)) for f in places)


def to_hide(run: Run) -> list[str] | None:
    """Names of the clips that a notebook's copy must not show; None where the clips are of nobody.

    Makes the run's clips, to know their names.
    """
    config = run.config
    if config.generate or synthetic(config.data, config.wild):
        return None
    return [str(name) for name in run.make("clips").table["clip"]]


def data_of(run: Path) -> Path:
    """The data folder of a run, absolute."""
    said = json.loads((run / "run.json").read_text())
    return data_path(
        str(said["differs"].get("data") or load_config(said["profile"]).data)
    ).resolve()


def runs_of(runs_dir: Path, data: Path | None) -> list[Path]:
    """Runs of a data folder; without one, of every data set that was not drawn.

    Raises:
        PpferError: if there is none.
    """
    every = [path.parent for path in sorted(runs_dir.glob("*/run.json"))]
    if data is not None:
        found = [run for run in every if data_of(run) == data.resolve()]
    else:
        found = [run for run in every if not synthetic(data_of(run))]
    if not found:
        what = f"of {data}" if data else "of people (runs of drawn clips hold nobody)"
        raise PpferError(f"there is no run {what} in {runs_dir}")
    return found


def held(run: Path) -> Iterator[tuple[str, Path]]:
    """(kind, file) of all in a run that may show or name a person."""
    for path in sorted(p for p in run.rglob("*") if p.is_file() or p.is_symlink()):
        table = path.parent.name == "tables" and path.suffix in (".json", ".md")
        if path.name not in NUMBERS and not table:
            said = path.parent.name == "logits"  # what networks said of each clip
            yield "answers" if said else KINDS.get(path.suffix, "other"), path


def audit(runs_dir: Path, data: Path | None = None) -> list[dict]:
    """A row per run and kind of file: how many there are, how large, one of them."""
    rows = []
    for run in runs_of(runs_dir, data):
        files: dict[str, list[Path]] = {}
        for kind, path in held(run):
            files.setdefault(kind, []).append(path)
        for kind, paths in files.items():
            size = round(sum(path.lstat().st_size for path in paths) / 1e6, 1)
            first = str(paths[0].relative_to(run))
            row = {"run": run.name, "kind": kind, "files": len(paths), "MB": size, "first": first}
            rows.append(row)
    return rows


def clean(runs_dir: Path, data: Path | None = None) -> int:
    """Remove all that `audit` lists, then search what is left for names and pieces of frames.

    Stages that lose a file lose their manifest, so that they are made again when asked for.

    Returns:
        how many files were removed.

    Raises:
        PpferError: naming a file that still holds a name or a piece of a frame.
    """
    runs, removed = runs_of(runs_dir, data), 0
    signs = {sign for run in runs for sign in traces(run)}
    for run in runs:
        for _, path in list(held(run)):
            path.unlink()
            removed += 1
            for folder in (path.parent, path.parent.parent):  # a store lies in its stage
                if folder != run and (folder / "started.json").exists():
                    (folder / "manifest.json").unlink(missing_ok=True)
            if path.parent.name == "store":
                (path.parent / "manifest.json").unlink(missing_ok=True)
    pattern = re.compile(b"|".join(map(re.escape, sorted(signs, key=len, reverse=True))))
    for path in [p for run in runs for p in run.rglob("*") if p.is_file()] if signs else []:
        if found := pattern.search(path.read_bytes()):
            raise PpferError(f"{path} still holds {found[0][:40]!r} of the data set; delete it")
    return removed


def traces(run: Path) -> Iterator[bytes]:
    """By what a data set's clips are known again: names, and a piece of a frame of each."""
    for path in run.rglob("store/manifest.json"):
        try:
            store = ClipStore.open(path.parent)
        except PpferError:
            continue
        for name in store.table["clip"]:
            if len(name) >= SHORTEST:
                yield name.encode("utf-8", "surrogateescape")
        for clip in store.clips:
            row = np.ascontiguousarray(clip[len(clip) // 2, 0]).reshape(-1)
            piece = row[len(row) // 2 :][:PIECE].tobytes()
            if len(set(piece)) > PIECE // 4:  # a flat piece is found anywhere
                yield piece
