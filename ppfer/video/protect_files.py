"""Protect a video file or a folder of them: what ``ppfer protect`` runs.

Nothing here knows which protector runs: it takes clips (B, T, 3, S, S) in [0, 1] and returns the
same shape (`ppfer.protect`). What happens to the frames of one video stands in `ppfer.video.heads`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ppfer import video
from ppfer.base.errors import PpferError, printable
from ppfer.base.files import digest, sweep
from ppfer.base.progress import Progress
from ppfer.data.index import normal
from ppfer.protect import Apply, ForVideo, NamedApply, VideoProtector, for_video
from ppfer.video.faces import Finder
from ppfer.video.file import comment
from ppfer.video.heads import ProtectOptions, Tally, protected_frames
from ppfer.video.writer import Writer

MARK = "protected by ppfer"  # so begins the comment in the header of every result
SOUND_LEFT_OUT = "its sound is left out, since a voice names its speaker"
SOUND_KEPT = "its sound is kept, and a voice names its speaker"


@dataclass
class Outcome:
    """What became of one video.

    Attributes:
        source: the video.
        state: "written"; "finished": made earlier from the same input with the same settings;
            "passed over": hidden files, earlier results, links that lead in circles; "exists":
            another file is in the way; "left out"; "failed".
        result: the file made.
        notes: why, or what one should know of the result.
        tally: frames, those without a face, faces followed.
        seconds: how long it took. length: seconds of video. width, height: of the result, pixels.
        sound: whether the result has sound.
    """

    source: Path
    state: str
    result: Path | None = None
    notes: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    length: float = 0.0
    width: int = 0
    height: int = 0
    sound: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing is left to do about this video."""
        return self.state in ("written", "finished", "passed over")

    @property
    def speed(self) -> float:
        """Frames per second."""
        return self.tally.frames / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        made = f" → {self.result}" if self.result else ""
        notes = ": " + "; ".join(self.notes) if self.notes else ""
        return printable(f"{self.state}: {self.source}{made}{notes}")


def protect_files(
    protector: Apply | NamedApply | ForVideo,
    source: Path,
    out: Path,
    options: ProtectOptions,
    *,
    named: bool = False,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Protect a video file, or every video of a folder and its sub-folders.

    The result of ``a.mov`` is ``a.mp4`` in `out`, but ``a.mov.mp4`` where an ``a.mp4`` lies beside
    it, so that the two don't collide. Inputs are never written over, nor are older results unless
    ``options.overwrite`` says so. What was made earlier from the same input with the same settings
    is kept, so the same command goes on where it was stopped. Links to folders are followed.

    Args:
        protector: clips (B, T, 3, S, S) float in [0, 1] → the same.
        source: a video, or a folder.
        out: folder for the results; sub-folders are kept.
        named: the protector is called with names as well, see `ppfer.protect.for_video`.
        on_outcome: told of each video once it is dealt with.

    Returns:
        What became of every video, in the order of their paths; all is well if each is
        `Outcome.ok`.

    Raises:
        PpferError: there is no such file or folder or no video in it, `out` cannot be made, or the
        face finder is not installed.
    """
    outcomes, jobs = _plan(source, out, options)
    for outcome in outcomes if on_outcome else ():
        on_outcome(outcome)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PpferError(f"the folder {out} cannot be made: {error.strerror}") from error
    for folder in {target.parent for _, target in jobs}:
        sweep(folder)  # what a killed process left half written
    # Where the rest is kept, a face missed is a face shown: then small ones are looked for as well.
    side = 960 if options.outside == "keep" else 480
    finder = Finder(side) if options.frame == "face" and jobs else None
    at_rate = functools.partial(for_video, protector, named=named)
    for path, target in jobs:
        outcome = _earlier(path, target, options)
        outcome = outcome or protect_video(at_rate, path, target, options, finder)
        outcomes.append(outcome)
        if on_outcome:
            on_outcome(outcome)
    return sorted(outcomes, key=lambda outcome: outcome.source)


# --- one video ------------------------------------------------------------------------------------


def protect_video(
    at_rate: Callable[[float], VideoProtector],
    source: Path,
    target: Path,
    options: ProtectOptions,
    finder: Finder | None,
) -> Outcome:
    """Protect one video; what goes wrong costs this video only, and the outcome says it.

    Args:
        at_rate: frames per second → the protector of a video that has so many.
    """
    outcome, began = Outcome(source, "failed"), time.monotonic()
    try:
        notes = _write(at_rate, source, target, options, finder, outcome)
    except PpferError as error:
        outcome.notes = [str(error)]
        return outcome
    outcome.state, outcome.result, outcome.seconds = "written", target, time.monotonic() - began
    outcome.notes = [_summary(outcome, options), *notes]
    return outcome


def _write(
    at_rate: Callable[[float], VideoProtector],
    source: Path,
    target: Path,
    options: ProtectOptions,
    finder: Finder | None,
    outcome: Outcome,
) -> list[str]:
    """Write the protected video, whole or not at all; returns what one should know of it."""
    tally, began = outcome.tally, time.monotonic()
    with contextlib.ExitStack() as stack:
        frames = stack.enter_context(video.read_frames(source, options.start, options.end))
        about = frames.video
        width, height = about.width, about.height
        if options.frame == "whole":
            width = height = options.size
        width *= 1 + options.preview
        outcome.width, outcome.height = width, height
        outcome.sound = options.keep_audio and about.sound
        rate, name = float(about.rate), _fingerprint(source)
        protector = at_rate(rate)
        if protector.first_pass:
            _first_pass(protector, source, options, finder, name)
        made = protected_frames(protector, frames, options, finder, rate, tally, name)
        stack.enter_context(contextlib.closing(made))
        writer = stack.enter_context(
            Writer(
                target,
                width,
                height,
                rate=about.rate,
                exact=options.exact,
                crf=options.quality,
                audio_from=source if outcome.sound else None,
                comment=_mark(source, options),
            )
        )
        progress, first = _progress(f"protecting {source.name}", about, options), None
        for count, frame in enumerate(made, 1):
            writer.write(frame.pixels, frame.time, frame.duration)
            first = frame.time if first is None else first
            outcome.length = float(frame.time + frame.duration - first)
            progress.total = max(progress.total, count + 1)  # the header's length is a guess
            progress.update(count, f"{count / (time.monotonic() - began):.0f} frames/s")
        if first is None:
            raise PpferError(f"{source} has no frame there: it lasts {about.duration:.1f} s")
        if tally.faceless == tally.frames and options.frame == "face":
            raise PpferError(
                f"no face was found in any of the {tally.frames} frames of {source}; "
                "the whole picture can be protected instead: --frame whole"
            )
    notes = [SOUND_KEPT if outcome.sound else SOUND_LEFT_OUT] if about.sound else []
    notes += ["the left half is the original: not to be passed on"] if options.preview else []
    return notes + [f"damaged input: {fault}" for fault in frames.faults]


def _first_pass(
    protector: VideoProtector,
    source: Path,
    options: ProtectOptions,
    finder: Finder | None,
    name: str,
) -> None:
    """Show a protector the whole video before it begins."""
    looking = replace(protector, apply=protector.first_pass, figure_square=None)
    with contextlib.ExitStack() as stack:
        frames = stack.enter_context(video.read_frames(source, options.start, options.end))
        plain, rate = replace(options, preview=False), float(frames.video.rate)
        seen = protected_frames(looking, frames, plain, finder, rate, Tally(), name)
        stack.enter_context(contextlib.closing(seen))
        progress = _progress(f"looking at {source.name}", frames.video, options)
        for count, _ in enumerate(seen, 1):
            progress.total = max(progress.total, count + 1)
            progress.update(count)


def _progress(what: str, about: video.Video, options: ProtectOptions) -> Progress:
    """Of the frames that are asked for, as many as the header says."""
    start = options.start or 0
    end = about.duration if options.end is None else min(options.end, about.duration)
    return Progress(printable(what), round((end - start) * about.rate), "frames")


def _summary(outcome: Outcome, options: ProtectOptions) -> str:
    tally = outcome.tally
    size, length = f"{outcome.width}×{outcome.height}", f"{outcome.length:.1f} s"
    text = f"{tally.frames} frames of {size}, {length}, {outcome.speed:.0f} frames/s"
    if options.frame == "face":
        faces = len(tally.tracks)
        text += f", {faces} face{'' if faces == 1 else 's'} followed"
        text += f", no face found in {tally.faceless} frames, which are black" * bool(
            tally.faceless
        )
    return text


# --- which files ----------------------------------------------------------------------------------


def _plan(
    source: Path, out: Path, options: ProtectOptions
) -> tuple[list[Outcome], list[tuple[Path, Path]]]:
    """What of a file or folder is not protected and why, and (video, result) of what is."""
    outcomes: list[Outcome] = []
    if source.is_dir():
        root, files = source, []
        for path in _walk(source, out, outcomes):
            if _is_result(path):
                outcomes.append(Outcome(path, "passed over", notes=["an earlier result"]))
            else:
                files.append(path)
        beside = files
    else:
        root, files = source.parent, [source]
        beside = [p for p in root.glob("*") if _stem(p) == _stem(source) and video.is_video(p)]
        beside = [path for path in beside if not _is_result(path)]
    if not files:
        but = "".join(f"\n{outcome}" for outcome in outcomes[:3])
        raise PpferError(f"there is no video in {source} to be protected{but}")
    faults = {path: video.file_fault(path) for path in files}
    if not source.is_dir() and faults[source]:
        raise PpferError(f"{source} {faults[source]}")
    originals = {_inode(path): path for path in files if not faults[path]}
    alike, taken, jobs = Counter(map(_stem, beside)), set(), []
    for path in files:
        keep = alike[_stem(path)] > 1 and path.suffix.lower() != ".mp4"
        name = path.name if keep else path.stem
        target = _target(out / path.parent.relative_to(root) / name, options, taken)
        over = originals.get(_inode(target)) if target.exists() else None
        if faults[path]:
            outcomes.append(Outcome(path, "failed", notes=[f"it {faults[path]}"]))
        elif over:
            why = f"its result would be written over {over}; give another folder"
            outcomes.append(Outcome(path, "left out", notes=[why]))
        else:
            jobs.append((path, target))
    return outcomes, jobs


def _walk(folder: Path, out: Path, outcomes: list[Outcome]) -> Iterator[Path]:
    """The videos of a folder, sorted; what is passed over goes to `outcomes`."""
    root, results = folder.resolve(), out.resolve()
    visited = {root}
    for here, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for name in list(folders):
            path = Path(here, name)
            if why := _why_not(path, root, results, visited):
                folders.remove(name)
                outcomes.append(Outcome(path, "passed over", notes=[why]))
            visited.add(path.resolve())
        others = []
        for path in sorted(Path(here, name) for name in files):
            if video.is_video(path):
                yield path
            elif not path.name.startswith("."):
                others.append(path.name)
            elif path.suffix.lower() in video.VIDEO_SUFFIXES:
                mac = path.name.startswith("._")
                why = "a Mac's note beside a file, no video" if mac else "hidden"
                outcomes.append(Outcome(path, "passed over", notes=[why]))
        if others:
            why = f"no videos by their names: {len(others)}, e.g. {others[0]}"
            outcomes.append(Outcome(Path(here), "passed over", notes=[why]))


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


def _target(path: Path, options: ProtectOptions, taken: set[str]) -> Path:
    """Where a result goes; no two to one place, also where a disk does not tell a from A."""
    suffix = ".preview.mp4" if options.preview else ".mp4"
    for number in itertools.count(1):
        target = path.with_name(path.name + (f".{number}" if number > 1 else "") + suffix)
        key = normal(str(target)).casefold()
        if key not in taken:
            taken.add(key)
            return target


# --- what is done already -------------------------------------------------------------------------


def _is_result(path: Path) -> bool:
    return path.suffix.lower() == ".mp4" and comment(path).startswith(MARK)


def _mark(source: Path, options: ProtectOptions) -> str:
    """What the header of a result says: that it is one, and a digest of all it was made of."""
    made_of = {"input": _fingerprint(source), "settings": options.settings()}
    return f"{MARK} {digest(made_of)}"


def _fingerprint(path: Path) -> str:
    """sha256 of a file's size and of nine pieces of it: quick, and the same after a copy."""
    size, piece = path.stat().st_size, 1 << 16
    made = hashlib.sha256(str(size).encode())
    with contextlib.suppress(OSError), path.open("rb") as file:  # a bad sector: what can be read
        for part in range(9):
            file.seek(max(0, size - piece) * part // 8)
            made.update(file.read(piece))
    return made.hexdigest()


def _earlier(path: Path, target: Path, options: ProtectOptions) -> Outcome | None:
    """What to say of a video whose result is there; None if it is to be made."""
    if not target.exists() or options.overwrite:
        return None
    said = comment(target)
    if said == _mark(path, options):
        return Outcome(path, "finished", target, ["made earlier"])
    ours = said.startswith(MARK)
    why = "from another input or with other settings" if ours else "by something else"
    note = f"{target} is there, made {why}; give another folder, or --overwrite"
    return Outcome(path, "exists", notes=[note])
