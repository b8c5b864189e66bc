"""Which files are protected, where the results go, and which were made earlier."""

import contextlib
import functools
import glob
import hashlib
import hmac
import itertools
import os
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ppfer.base.errors import PpferError, printable
from ppfer.base.files import atomic, digest, normal, owner_only
from ppfer.video.faces import FaceLog
from ppfer.video.file import (
    PHOTO_SUFFIXES,
    UNREAD_SUFFIXES,
    VIDEO_SUFFIXES,
    comment,
    file_fault,
    is_photo,
    is_video,
)
from ppfer.video.heads import ProtectOptions
from ppfer.video.photo import photo_comment

MARK = "protected by ppfer"  # so begins the comment in the header of every result


@dataclass
class Outcome:
    """What became of one video."""

    source: Path
    # "written"; "finished": made earlier from the same input with the same settings; "passed over":
    # hidden files, earlier results, links that lead in circles; "exists": another file is in the
    # way; "left out"; "failed"
    state: str
    result: Path | None = None  # the file made
    notes: list[str] = field(default_factory=list)  # why, or what one should know of the result
    tally: FaceLog = field(default_factory=FaceLog)  # frames, those without a face, faces followed

    @property
    def ok(self) -> bool:
        """Whether nothing is left to do about this video."""
        return self.state in ("written", "finished", "passed over")

    def __str__(self) -> str:
        made = f" → {self.result}" if self.result else ""
        notes = ": " + "; ".join(self.notes) if self.notes else ""
        return printable(f"{self.state}: {self.source}{made}{notes}")


# --- which files ----------------------------------------------------------------------------------


def plan(
    sources: Sequence[Path], out: Path, options: ProtectOptions
) -> tuple[list[Outcome], list[tuple[Path, Path]]]:
    """What of files, folders and globs is not protected and why, and (file, result) of what is; a
    `PpferError` where that is nothing.
    """
    sources = list(dict.fromkeys(itertools.chain.from_iterable(map(_expanded, sources))))
    outcomes: list[Outcome] = []
    roots: dict[Path, Path] = {}  # of each file, the folder that its result's place is counted from
    alike: Counter = Counter()
    for source in sources:
        if source.is_dir():
            root, found = source, list(_walk(source, out))
            outcomes += [outcome for outcome in found if isinstance(outcome, Outcome)]
            files = near = [path for path in found if isinstance(path, Path)]
        else:
            root, files = source.parent, [source]
            near = [p for p in root.glob("*") if _stem(p) == _stem(source) and not _is_result(p)]
        files = [path for path in files if path not in roots]
        roots |= dict.fromkeys(files, root)
        alike |= Counter(map(_stem, filter(is_video, near)))
    if not roots:
        but = "".join(f"\n{outcome}" for outcome in outcomes[:3])
        where = ", ".join(map(str, sources))
        raise PpferError(f"there is no video in {where} to be protected{but}")
    faults = {path: file_fault(path) for path in roots}
    if len(sources) == 1 and (fault := faults.get(sources[0])):
        raise PpferError(f"{sources[0]} {fault}")
    originals = {_inode(path): path for path in roots if not faults[path]}
    taken, jobs = set(), []
    for path, root in roots.items():
        keep = alike[_stem(path)] > 1 and path.suffix.lower() != ".mp4" and is_video(path)
        place = out / path.parent.relative_to(root) / (path.name if keep else path.stem)
        suffix = ".mp4"
        if is_photo(path):  # one that is no JPEG or PNG becomes a PNG
            suffix = path.suffix if path.suffix.lower() in PHOTO_SUFFIXES[:3] else ".png"
        target = _target(place, ".preview" * options.preview + suffix, taken)
        over = originals.get(_inode(target)) if os.path.exists(target) else None
        if faults[path]:
            outcomes.append(Outcome(path, "failed", notes=[f"it {faults[path]}"]))
        elif over:
            why = f"its result would be written over {over}; give another folder"
            outcomes.append(Outcome(path, "left out", notes=[why]))
        else:
            jobs.append((path, target))
    return outcomes, jobs


def _expanded(source: Path) -> list[Path]:
    """A path as it is, or what a glob stands for where no shell did that."""
    if source.exists() or not glob.has_magic(str(source)):
        return [source]
    return sorted(map(Path, glob.glob(str(source), recursive=True))) or [source]


def _walk(folder: Path, out: Path) -> Iterator[Path | Outcome]:
    """What is to be protected, and what becomes of other files and folders, sorted."""
    root, results = folder.resolve(), out.resolve()
    visited, closed = {root}, []
    for here, folders, files in os.walk(folder, followlinks=True, onerror=closed.append):
        folders.sort()
        for path in [Path(here, name) for name in folders]:
            if why := _why_not(path, root, results, visited):
                folders.remove(path.name)
                yield Outcome(path, "passed over", notes=[why])
            visited.add(path.resolve())
        others = []
        for path in sorted(Path(here, name) for name in files):
            if is_video(path) or is_photo(path):
                done = Outcome(path, "passed over", notes=["an earlier result"])
                yield done if _is_result(path) else path
            elif is_video(path, UNREAD_SUFFIXES):
                yield Outcome(
                    path, "left out", notes=["photos of its kind are not read: save a JPEG"]
                )
            elif not path.name.startswith("."):
                others.append(path.name)
            elif path.suffix.lower() in VIDEO_SUFFIXES:
                mac = path.name.startswith("._")
                why = "a Mac's note beside a file, no video" if mac else "hidden"
                yield Outcome(path, "passed over", notes=[why])
        if others:
            why = f"no videos by their names: {len(others)}, e.g. {others[0]}"
            yield Outcome(Path(here), "passed over", notes=[why])
    for error in closed:
        yield Outcome(Path(error.filename), "failed", notes=[f"not looked into: {error.strerror}"])


def _why_not(path: Path, root: Path, results: Path, visited: set[Path]) -> str | None:
    """Why a folder below the root is not looked into."""
    real, linked = path.resolve(), path.is_symlink()
    if path.name.startswith("."):
        return "a hidden folder"
    if real == results or linked and results in real.parents:
        return "the folder of results"
    if linked and (real == root or real in root.parents):
        return "a link to a folder that it lies in"
    if linked and root in real.parents:
        return f"a link to {real.relative_to(root)}, which has its turn"
    return "a folder that was met before" if real in visited else None


def _stem(path: Path) -> tuple[Path, str]:
    """What two files share whose results would have one name, on any disk."""
    return path.parent, normal(path.stem).casefold()


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _target(path: Path, suffix: str, taken: set[str]) -> Path:
    """Where a result goes; no two to one place, also where a disk does not tell a from A."""
    for number in itertools.count(1):
        target = path.with_name(path.name + (f".{number}" if number > 1 else "") + suffix)
        key = normal(str(target)).casefold()
        if key not in taken:
            taken.add(key)
            return target


# --- what is done already -------------------------------------------------------------------------


def _said(path: Path) -> str:
    return photo_comment(path) if is_photo(path) else comment(path)


def _is_result(path: Path) -> bool:
    of_ours = path.is_file() and (path.suffix.lower() == ".mp4" or is_photo(path))
    return of_ours and _said(path).startswith(MARK)


def mark(source: Path, options: ProtectOptions) -> str:
    """What the header of a result says: that it is one, and a digest of all it was made of, which
    tells nothing to whoever has not the key.
    """
    made_of = {"input": fingerprint(source), "settings": options.settings()}
    return f"{MARK} {digest(made_of)}"


def fingerprint(path: Path) -> str:
    """sha256 of a file's size and of nine pieces of it, under `key`: quick, and the same after a
    copy. What is drawn at random for a video is drawn by it.
    """
    size, piece = path.stat().st_size, 1 << 16
    made = hashlib.sha256(str(size).encode())
    with contextlib.suppress(OSError), path.open("rb") as file:  # a bad sector: what can be read
        for part in range(9):
            file.seek(max(0, size - piece) * part // 8)
            made.update(file.read(piece))
    secret = key()
    return hmac.digest(secret, made.digest(), "sha256").hex() if secret else made.hexdigest()


@functools.cache
def key() -> bytes:
    """A secret of this user's, made once: whoever holds an original, but not this, cannot tell by
    a result's header or by what was drawn at random that it was made of it.

    It lies in ``ppfer/key`` in ``$XDG_STATE_HOME`` or ``~/.local/state``; where nothing can be kept
    each process has another. The variable PPFER_KEY stands for it; empty, nothing is secret.
    """
    if (given := os.environ.get("PPFER_KEY")) is not None:
        return given.encode()
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path, secret = Path(home, "ppfer", "key"), secrets.token_bytes(32)
    with contextlib.suppress(OSError):
        owner_only(path.parent)
        if not path.exists():
            with atomic(path) as partial:
                partial.write_bytes(secret)
        secret = path.read_bytes()
    return secret


def beside(result: Path) -> Path:
    """Where it is told where faces were (`FaceLog.write`), if that is `reported`."""
    return result.with_name(result.name + ".json")


def reported(options: ProtectOptions) -> bool:
    return options.report and options.frame != "whole"


def foreign(log: Path) -> bool:
    """Whether something else lies where `beside` says."""
    try:
        with log.open("rb") as file:
            return not file.read(40).startswith(b'{\n "made_by": "ppfer')
    except FileNotFoundError:
        return False
    except (IsADirectoryError, PermissionError):
        return True


def earlier(path: Path, target: Path, options: ProtectOptions) -> Outcome | None:
    """What to say of a video whose result is there; None if it is to be made."""
    if options.overwrite:
        return None
    try:
        if reported(options) and foreign(log := beside(target)):
            note = f"{log} is there, made by something else; give another folder, or --overwrite"
            return Outcome(path, "exists", notes=[note])
        if not target.exists():
            return None
    except OSError as error:  # the name is too long, say
        return Outcome(path, "failed", notes=[f"{target} cannot be written: {error.strerror}"])
    said = _said(target)
    if said == mark(path, options):
        whole = beside(target).exists() or not reported(options)  # else it is made again
        return Outcome(path, "finished", target, ["made earlier"]) if whole else None
    ours = said.startswith(MARK)
    why = "from another input, with other settings or another key" if ours else "by something else"
    note = f"{target} is there, made {why}; give another folder, or --overwrite"
    return Outcome(path, "exists", notes=[note])
