"""The one way a file is written, and what tells one content from another."""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

LFS_MAGIC = b"version https://git-lfs"  # begins what Git-LFS leaves of content not fetched
# the one Unicode form of a name: a Mac writes é as two letters, others as one
normal = functools.partial(unicodedata.normalize, "NFC")


def home(path: str | Path) -> Path:
    """A path as it was typed: "~" is the home folder also where no shell has seen it."""
    return Path(os.path.expanduser(path))


def digest(value: object) -> str:
    """A short sha256 of any JSON-able value, the same on every machine."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_files = itertools.count()  # several files may be under way in one folder


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary path of the same suffix beside it, which
    takes its place when the block ends without an exception, and is removed otherwise. Its name is
    short, so that any name that fits a disk can be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid():x}-{next(_files):x}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def sweep(folder: Path, seconds: float = 60) -> None:
    """Remove what `atomic` left in a folder when its process was killed.

    A file stays while its process runs, or where it was written to in the last `seconds`: on a
    shared disk another machine may be at work. Whoever holds the folder's lock can say 0.
    """
    for path in folder.glob(".*-*"):
        named = re.fullmatch(r"\.([0-9a-f]+)-[0-9a-f]+", path.stem)
        if not named or psutil.pid_exists(int(named[1], 16)):
            continue
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime >= seconds:
                path.unlink()


def owner_only(folder: Path) -> None:
    """Make a folder that is its owner's alone: whatever lies in it is out of others' reach."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        with contextlib.suppress(PermissionError):  # another's folder: theirs to decide
            folder.chmod(0o700)


def write_json(path: str | Path, value: object) -> None:
    """Write JSON whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=1, default=str) + "\n", "utf-8")


def read_lines(path: Path) -> list[dict]:
    """JSON lines, without one that was cut off; [] where there is no file."""
    found = []
    for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def read_json(path: str | Path, default: Any = None) -> Any:
    """What `write_json` wrote; `default` ({}) where there is no file, or none that can be read: a
    full disk, a power cut or a synchronised folder leaves an empty one, and that must cost only
    what the file was about.
    """
    default = {} if default is None else default
    try:
        value = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError):
        return default
    return value if isinstance(value, type(default)) else default
