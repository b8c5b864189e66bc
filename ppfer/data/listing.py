"""What was found of a data set, `Index`, and in words."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ppfer.base.errors import printable

REASONS = ["path", "reason"]  # columns of the table of what was rejected


@dataclass(frozen=True)
class Index:
    """What was found at a path."""

    kind: str  # of data set, see `ppfer.data.readers.READERS`
    root: Path
    # one row per usable clip, sorted by `clip`, every column text, "" where nothing is known.
    # `clip` is unique; `path` can be opened; `emotion` is a lower-case word; `age` is a number.
    # DFEW, and a table that has it, adds a column `split` (train, val, test)
    table: pd.DataFrame
    rejected: pd.DataFrame  # (path relative to the root, reason that completes "<path> ...")
    # (path or column, what is odd about it and what is done with it), of usable clips
    remarks: tuple[tuple[str, str], ...] = ()
    looked_into: bool = False  # whether any file was opened yet

    def summary(self) -> str:
        """How many videos were found, are usable, are rejected and why, in a few lines."""
        text = describe(f"{self.root} ({self.kind})", self.table, self.rejected)
        return text if self.looked_into else f"{text}\n  by name and size alone: not decoded yet"

    def without(self, faults: list[str | None]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The rows of clips that have no fault, and all that is rejected then."""
        names = [os.path.relpath(path, self.root) for path in self.table["path"]]
        rows = [(name, fault) for name, fault in zip(names, faults, strict=True) if fault]
        more = pd.DataFrame(rows, columns=REASONS)
        good = [not fault for fault in faults]
        return self.table[good], pd.concat([self.rejected, more], ignore_index=True)

    def fingerprint(self) -> str:
        """sha256 over labels, sizes and both ends of all files: quick, the same of a copy."""
        return hash_of(self.table, self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        for path in map(Path, self.table["path"]):
            if path.is_dir():
                yield os.fsencode("\n".join(sorted(os.listdir(path))))
            elif path.is_file():
                with path.open("rb") as file:
                    size = file.seek(0, os.SEEK_END)
                    file.seek(0)
                    yield str(size).encode() + file.read(4096)
                    file.seek(max(0, size - 4096))
                    yield file.read()


def hash_of(table: pd.DataFrame, contents: Iterable[bytes]) -> str:
    """sha256 of a table without its paths, and of what its clips hold."""
    labels = table.drop(columns="path", errors="ignore").to_csv(index=False)
    digest = hashlib.sha256(labels.encode("utf-8", "surrogateescape"))
    for block in contents:
        digest.update(block)
    return digest.hexdigest()


def describe(head: str, table: pd.DataFrame, rejected: pd.DataFrame) -> str:
    """Lines: what was found, kept and rejected, and the kept clips' actors and emotions."""
    counts = table["emotion"].value_counts().sort_index()
    emotions = ", ".join(f"{emotion} {count}" for emotion, count in counts.items())
    actors = table["actor"].nunique() if table["actor"].any() else "unknown"
    found = len(table) + len(rejected)
    lines = [f"{head}: {found} videos found, {len(table)} usable, {len(rejected)} rejected"]
    lines += [count_reasons(rejected)] if len(rejected) else []
    return printable("\n".join([*lines, f"  actors: {actors}; {emotions}"]))


def count_reasons(rejected: pd.DataFrame) -> str:
    """One line per kind of reason: how often, and for which file first."""
    kinds = defaultdict(list)
    for path, reason in rejected[REASONS].itertuples(index=False):
        kinds[re.split("[:;]", reason)[0]].append((path, reason))
    lines = []
    for found in sorted(kinds.values(), key=len, reverse=True):
        (path, reason), more = found[0], f" and {len(found) - 1} more" * (len(found) > 1)
        lines.append(f"  {len(found)} rejected: {path}{more}: {reason}")
    return "\n".join(lines)
