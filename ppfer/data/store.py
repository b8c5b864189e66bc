"""Clips decoded once, kept as a memory-mapped array with a table beside it."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor

from ppfer.base.errors import PpferError, printable
from ppfer.base.files import owner_only, write_json
from ppfer.base.pixels import as_uint8
from ppfer.data.listing import REASONS, Index, count_reasons, describe, hash_of

MOST_REJECTED = 0.5  # share of the videos found


@dataclass(eq=False, repr=False)
class ClipStore:
    """Clips of one shape, decoded once: `clips.npy` (memory-mapped), `table.csv`, `rejected.csv`,
    `manifest.json`, which is written last: a folder without one holds no store.
    """

    # (N, T, 3, H, W) uint8 memory map, read-only; in memory a tensor on any device
    clips: np.ndarray | Tensor
    table: pd.DataFrame  # N rows in the clips' order, every column text (see `listing.Index`)
    rejected: pd.DataFrame  # (path, reason) of all that was found and is not in the store
    manifest: dict  # shape, hash, and `source`: where the clips come from
    folder: Path | None  # where the store lives; None in memory

    @classmethod
    def open(cls, folder: str | Path) -> ClipStore:
        """Open a finished store; a `PpferError` where there is none, or it is damaged."""
        folder = Path(folder)
        damaged = f"{folder} holds a damaged clip store; delete it and decode again"
        try:
            manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
            clips = np.load(folder / "clips.npy", mmap_mode="r")
            how = {"keep_default_na": False, "encoding_errors": "surrogateescape"}
            names = (folder / "table.csv", folder / "rejected.csv")
            table, rejected = (pd.read_csv(name, dtype=str, **how) for name in names)
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise PpferError(f"{folder} holds no finished store ({missing} is missing)") from error
        except ValueError as error:
            raise PpferError(damaged) from error
        if list(clips.shape) != manifest["shape"] or len(table) != len(clips):
            raise PpferError(damaged)
        return cls(clips, table, rejected, manifest, folder)

    @classmethod
    def in_memory(cls, clips: Tensor | np.ndarray, table: pd.DataFrame) -> ClipStore:
        """A store without a folder: clips (N, T, 3, H, W) uint8, kept on the device they are on."""
        if len(clips) != len(table):
            raise PpferError(f"{len(clips)} clips came for a table of {len(table)} rows")
        manifest = {"shape": list(clips.shape), "source": {}}
        rejected = pd.DataFrame(columns=REASONS)
        return cls(clips, table.reset_index(drop=True), rejected, manifest, None)

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of the clips and the table without paths: equal clips and labels, equal hash."""
        if "hash" in self.manifest:
            return self.manifest["hash"]
        return hash_of(self.table, (as_uint8(clip).tobytes() for clip in self.clips))

    @classmethod
    def build(
        cls,
        index: Index,
        folder: str | Path,
        *,
        frames: int = 16,
        size: int = 96,
        progress: Callable[[int], object] = lambda done: None,
    ) -> ClipStore:
        """Decode every clip of an index, or open the store if it was built from the same files with
        the same shape, T = frames and H = W = size in pixels.

        Interrupted at any point, the next call goes on after the last clip written. Clips that
        cannot be decoded are left out and listed with their reason in `.rejected`.

        Args:
            progress: called with the number of clips done, of `len(index.table)`, after each clip.

        Raises:
            PpferError: more than `MOST_REJECTED` of the videos found were rejected, none is left,
                or the disk is full.
        """
        # only here: who opens a store needs none of what reads videos
        from ppfer.data.decoding import in_children
        from ppfer.video.clips import clip_or_reason

        folder, table = Path(folder), index.table
        request = {"files": index.fingerprint(), "frames": frames, "size": size}
        with _writing(folder):
            with contextlib.suppress(PpferError):
                if (store := cls.open(folder)).manifest["source"].get("request") == request:
                    return store
            log = folder / "decoded.jsonl"  # the request, then a line per clip: its fault, or ""
            faults = _faults_so_far(log, request)
            rows = _Rows(folder, (len(table), frames, 3, size, size), faults.count(""))
            if not rows.filled:  # nothing to resume from
                faults = []
                log.write_text(json.dumps(request) + "\n", "utf-8")
            todo = ((path, frames, size) for path in table["path"][len(faults) :])
            decoded = in_children(clip_or_reason, todo)
            with contextlib.closing(rows):
                # each clip's row is written before its line of the log: a killed build goes on
                with contextlib.closing(decoded), log.open("a", encoding="utf-8") as lines:
                    for clip in decoded:
                        if good := isinstance(clip, np.ndarray):
                            rows.append(clip)
                        faults.append("" if good else str(clip))
                        lines.write(json.dumps(faults[-1]) + "\n")
                        lines.flush()
                        progress(len(faults))

                # what was rejected is listed, also where it is too much
                kept, rejected = index.without(faults)
                _write_csv(rejected, folder / "rejected.csv")
                found = len(table) + len(index.rejected)
                if not len(kept) or len(rejected) > MOST_REJECTED * found:
                    raise PpferError(
                        f"{len(rejected)} of the {found} videos found in {index.root} were "
                        f"rejected, more than the {MOST_REJECTED:.0%} allowed; "
                        f"{folder / 'rejected.csv'} lists them:\n{count_reasons(rejected)}"
                    )
                about = {"found": found, "rejected": len(rejected), "remarks": index.remarks}
                rows.finish(kept, {"kind": index.kind, "request": request} | about)
            log.unlink()
        return cls.open(folder)

    @classmethod
    def from_array(
        cls,
        folder: str | Path,
        clips: Iterable[Tensor | np.ndarray],
        table: pd.DataFrame,
        source: dict | None = None,
    ) -> ClipStore:
        """Write clips made elsewhere (protected, compensated) as a store.

        Args:
            folder: where the store lives; a store already there is replaced.
            clips: yields clips (T, 3, H, W) or batches (B, T, 3, H, W), in the table's order, all
                of one shape and on any device: uint8, or float in [0, 1] (clamped and rounded).
            source: what to note in the manifest: where the clips come from. JSON types only.

        Raises:
            PpferError: as many clips as rows did not come, shapes differ, or the disk is full.
                Nothing is left then that could be taken for a store.
        """
        folder, rows, came = Path(folder), None, 0
        singles = (clip for x in map(as_uint8, clips) for clip in (x if x.ndim == 5 else x[None]))
        with _writing(folder), contextlib.ExitStack() as undo:
            undo.callback((folder / "clips.npy").unlink, missing_ok=True)  # never half of it
            for came, clip in enumerate(singles, 1):
                if rows is None:
                    rows = _Rows(folder, (len(table), *clip.shape))
                    undo.callback(rows.close)
                if came <= len(table):
                    rows.append(clip)
            if came != len(table):
                raise PpferError(f"{came} clips came for a table of {len(table)} rows")
            _write_csv(pd.DataFrame(columns=REASONS), folder / "rejected.csv")
            rows.finish(table, source or {})
            rows.close()
            undo.pop_all()
        return cls.open(folder)

    def __len__(self) -> int:
        return len(self.clips)

    def classes(self, column: str) -> list[str]:
        """The sorted values of a column: class k of `labels(column)` is `classes(column)[k]`."""
        return sorted(self.table[column].unique())

    def labels(self, column: str) -> np.ndarray:
        """(N,) int64: the class of each clip in `classes(column)`."""
        names, values = np.array(self.classes(column)), self.table[column].to_numpy(str)
        return np.searchsorted(names, values).astype(np.int64)

    def to(self, device: str | torch.device) -> Tensor:
        """All clips, (N, T, 3, H, W) uint8; on the CPU the memory map, read as pages are used."""
        if self.folder is None:
            return torch.as_tensor(self.clips).to(device)
        clips = np.load(self.folder / "clips.npy", mmap_mode="c")  # "c": writes stay private
        return torch.from_numpy(clips).to(device)

    def offload(self) -> None:
        """Move clips that are kept on a GPU to main memory; a store on disk stays as it is."""
        if isinstance(self.clips, Tensor):
            self.clips = self.clips.cpu()

    def summary(self) -> str:
        """What is in the store and what is not, in a few lines, to be shown before training."""
        _, frames, _, height, width = self.clips.shape
        head = f"{self.folder or 'in memory'} ({frames} frames, {height}x{width})"
        odd = [f"\n  {what}: {why}" for what, why in self.manifest["source"].get("remarks", ())]
        return describe(head, self.table, self.rejected) + printable("".join(odd))


# --- the files ----------------------------------------------------------------


class _Rows:
    """clips.npy while it is filled: a header, then row after row. They are written, not mapped: a
    disk that is full then is an error, and no crash.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], kept: int = 0):
        """Keep the first `kept` rows that are there already, if they are."""
        if len(shape) != 5 or shape[2] != 3:
            raise PpferError(f"a clip has the shape (T, 3, H, W), not {tuple(shape[1:])}")
        self.folder, path, self.shape = folder, folder / "clips.npy", tuple(shape)
        (folder / "manifest.json").unlink(missing_ok=True)
        head, row = _header(self.shape), math.prod(shape[1:])
        there = path.stat().st_size if path.exists() else 0
        self.filled = kept if there >= len(head) + kept * row else 0
        if not self.filled:
            path.unlink(missing_ok=True)  # not truncated: a map of the old file may be open
            needed, free = shape[0] * row, shutil.disk_usage(folder).free
            if needed > free:
                raise PpferError(
                    f"the disk of {folder} is too full: {needed / 1e6:,.0f} MB are needed, "
                    f"{free / 1e6:,.0f} MB are free; free some, choose fewer or smaller frames, or "
                    "another folder"
                )
        self.file = path.open("r+b" if self.filled else "w+b")
        self.file.write(head)
        self.file.seek(self.filled * row, os.SEEK_CUR)

    def append(self, clip: np.ndarray) -> None:
        if clip.shape != self.shape[1:]:
            wanted = self.shape[1:]
            raise PpferError(f"a clip of shape {clip.shape} came among clips of shape {wanted}")
        self.file.write(np.ascontiguousarray(clip))
        self.file.flush()  # before anybody writes down that it is there
        self.filled += 1

    def close(self) -> None:
        self.file.close()

    def finish(self, table: pd.DataFrame, source: dict) -> None:
        """Say in the header how many rows came; write table and, last, the manifest."""
        self.file.truncate()  # what an earlier attempt left behind the last row
        shape = (self.filled, *self.shape[1:])
        self.file.seek(0)
        self.file.write(_header(shape))
        self.file.flush()
        os.fsync(self.file.fileno())
        digest = hash_of(table, iter(lambda: self.file.read(1 << 24), b""))
        _write_csv(table, self.folder / "table.csv")
        manifest = {"shape": list(shape), "hash": digest, "source": source}
        write_json(self.folder / "manifest.json", manifest)


def _header(shape: tuple[int, ...]) -> bytes:
    """How an .npy file of bytes begins; NumPy pads it so that its first axis can change."""
    made = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(made, header)
    return made.getvalue()


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    """A table as text; names that are not UTF-8 keep their bytes."""
    table.to_csv(path, index=False, errors="surrogateescape")


def _faults_so_far(log: Path, request: dict) -> list[str]:
    """The faults ("" for none) of the clips already decoded for this request; a half-written last
    line is dropped."""
    lines = log.read_text("utf-8").splitlines(True) if log.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    if not whole or json.loads(whole[0]) != request:
        return []
    log.write_text("".join(whole), "utf-8")
    return [json.loads(line) for line in whole[1:]]


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """One writer of a store at a time, and disk trouble as a sentence."""
    try:
        owner_only(folder)
        with FileLock(folder / ".lock"):
            yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PpferError(f"the disk of {folder} is full; free some and run again") from error
        raise PpferError(f"{folder} cannot be written: {error}") from error
