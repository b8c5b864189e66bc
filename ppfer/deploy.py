"""Protect a video file or a folder of them: what ``ppfer protect`` runs.

Nothing here knows which protector runs: it takes clips (B, T, 3, S, S) in [0, 1] and returns the
same shape (`ppfer.protect`). What happens to the frames of one video stands in `ppfer.frames`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ppfer import video
from ppfer.config import PpferError
from ppfer.device import Progress, write_json
from ppfer.faces import Finder
from ppfer.frames import Options, Tally, protected_frames
from ppfer.protect import Apply
from ppfer.video.writer import Writer

RECORD = ".ppfer-protect.json"  # in the output folder: what each result was made of
SOUND_LEFT_OUT = "its sound is left out, since a voice names its speaker"
SOUND_KEPT = "its sound is kept, and a voice names its speaker"


@dataclass
class Outcome:
    """What became of one video.

    Attributes:
        source: the video.
        state: "written"; "finished": made earlier from the same input with the same settings;
            "passed over": hidden files, links to folders, earlier results; "exists": another file
            is in the way; "left out"; "failed".
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
        made = f" → {shown(self.result)}" if self.result else ""
        notes = ": " + "; ".join(self.notes) if self.notes else ""
        return f"{self.state}: {shown(self.source)}{made}{notes}"


def shown(path: Path) -> str:
    """A path that any terminal can print, also where its name is not UTF-8."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def protect_files(
    protector: Apply,
    source: Path,
    out: Path,
    options: Options,
    *,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Protect a video file, or every video of a folder and its sub-folders.

    The result of ``a.mp4`` is ``a.mp4`` in `out`, and that of any other ``a.mov`` is ``a.mov.mp4``,
    so that the two don't collide. Inputs are never written over, nor are older results unless
    `Options.overwrite` says so. What was made earlier from the same input with the same settings is
    kept, so the same command goes on where it was stopped.

    Args:
        protector: clips (B, T, 3, S, S) float in [0, 1] → the same.
        source: a video, or a folder.
        out: folder for the results; sub-folders are kept.
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
        raise PpferError(f"the folder {shown(out)} cannot be made: {error.strerror}") from error
    # Where the rest is kept, a face missed is a face shown: then small ones are looked for as well.
    side = 960 if options.outside == "keep" else 480
    finder = Finder(side) if options.frame == "face" and jobs else None
    for path, target in jobs:
        outcome = _earlier(path, target, out, options)
        if outcome is None:
            outcome = protect_video(protector, path, target, options, finder)
            if outcome.state == "written":
                _record(out, target, path, options)
        outcomes.append(outcome)
        if on_outcome:
            on_outcome(outcome)
    return sorted(outcomes, key=lambda outcome: outcome.source)


# --- one video ------------------------------------------------------------------------------------


def protect_video(
    protector: Apply, source: Path, target: Path, options: Options, finder: Finder | None
) -> Outcome:
    """Protect one video; what goes wrong costs this video only, and the outcome says it."""
    outcome, began = Outcome(source, "failed"), time.monotonic()
    try:
        notes = _write(protector, source, target, options, finder, outcome)
    except PpferError as error:
        outcome.notes = [str(error)]
        return outcome
    outcome.state, outcome.result, outcome.seconds = "written", target, time.monotonic() - began
    outcome.notes = [_summary(outcome, options), *notes]
    return outcome


def _write(
    protector: Apply,
    source: Path,
    target: Path,
    options: Options,
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
        made = protected_frames(protector, frames, options, finder, float(about.rate), tally)
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
            )
        )
        start = options.start or 0
        end = about.duration if options.end is None else min(options.end, about.duration)
        progress = Progress(
            f"protecting {shown(Path(source.name))}", round((end - start) * about.rate)
        )
        first = None
        for count, frame in enumerate(made, 1):
            writer.write(frame.pixels, frame.time, frame.duration)
            first = frame.time if first is None else first
            outcome.length = float(frame.time + frame.duration - first)
            progress.total = max(progress.total, count + 1)  # the header's length is a guess
            progress.update(count, f"frames, {count / (time.monotonic() - began):.0f} frames/s")
        if tally.frames and tally.faceless == tally.frames:
            raise PpferError(
                f"no face was found in any of the {tally.frames} frames of {shown(source)}; "
                "the whole picture can be protected instead: --frame whole"
            )
    notes = [SOUND_KEPT if outcome.sound else SOUND_LEFT_OUT] if about.sound else []
    notes += ["the left half is the original: not to be passed on"] if options.preview else []
    return notes + frames.faults


def _summary(outcome: Outcome, options: Options) -> str:
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
    source: Path, out: Path, options: Options
) -> tuple[list[Outcome], list[tuple[Path, Path]]]:
    """What of a file or folder is not protected and why, and (video, result) of what is."""
    outcomes: list[Outcome] = []
    if source.is_dir():
        root, files = source, list(_walk(source, out, outcomes))
    else:
        root, files = source.parent, [source]
    if not files:
        raise PpferError(f"there is no video in {shown(source)}")
    faults = {path: video.file_fault(path) for path in files}
    if not source.is_dir() and faults[source]:
        raise PpferError(f"{shown(source)} {faults[source]}")
    originals = {_inode(path): path for path in files if not faults[path]}
    jobs, taken = [], set()
    for path in files:
        target = _target(out / path.parent.relative_to(root), path, options, taken)
        over = originals.get(_inode(target)) if target.exists() else None
        if faults[path]:
            outcomes.append(Outcome(path, "failed", notes=[f"it {faults[path]}"]))
        elif over:
            why = f"its result would be written over {shown(over)}; give another folder"
            outcomes.append(Outcome(path, "left out", notes=[why]))
        else:
            jobs.append((path, target))
    return outcomes, jobs


def _walk(folder: Path, out: Path, outcomes: list[Outcome]) -> Iterator[Path]:
    """The videos of a folder, sorted; what is passed over goes to `outcomes`."""
    results = out.resolve()
    for here, folders, files in os.walk(folder):
        for name in list(folders):
            path = Path(here, name)
            why = (
                "a hidden folder" * name.startswith(".") or "a link to a folder" * path.is_symlink()
            )
            if path.resolve() == results:
                why = "the folder of results"
            if why:
                folders.remove(name)
                outcomes.append(Outcome(path, "passed over", notes=[why]))
        folders.sort()
        for path in sorted(Path(here, name) for name in files):
            if video.is_video(path):
                yield path
            elif path.name.startswith(".") and path.suffix.lower() in video.VIDEO_SUFFIXES:
                why = (
                    "a Mac's note beside a file, no video"
                    if path.name.startswith("._")
                    else "hidden"
                )
                outcomes.append(Outcome(path, "passed over", notes=[why]))


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _target(folder: Path, path: Path, options: Options, taken: set[str]) -> Path:
    """Where a result goes; no two to one place, also where a disk does not tell a from A."""
    name = path.stem if path.suffix.lower() == ".mp4" else path.name
    suffix = ".preview.mp4" if options.preview else ".mp4"
    for number in itertools.count(1):
        target = folder / (f"{name}.{number}{suffix}" if number > 1 else name + suffix)
        key = unicodedata.normalize("NFC", str(target)).casefold()
        if key not in taken:
            taken.add(key)
            return target


# --- what is done already -------------------------------------------------------------------------


def _facts(source: Path, target: Path, options: Options) -> dict[str, object]:
    """What tells whether a result is the one that would be made now."""
    stamps = [(status.st_size, status.st_mtime_ns) for status in (source.stat(), target.stat())]
    return {"input": list(stamps[0]), "result": list(stamps[1]), "settings": options.settings()}


def _records(out: Path) -> dict[str, dict]:
    try:
        return json.loads((out / RECORD).read_text())
    except (
        OSError,
        ValueError,
    ):  # none yet, or damaged: older results are in the way then, not lost
        return {}


def _record(out: Path, target: Path, source: Path, options: Options) -> None:
    name = str(target.relative_to(out))
    write_json(out / RECORD, {**_records(out), name: _facts(source, target, options)})


def _earlier(path: Path, target: Path, out: Path, options: Options) -> Outcome | None:
    """What to say of a video whose result is there; None if it is to be made."""
    if not target.exists() or options.overwrite:
        return None
    record = _records(out).get(str(target.relative_to(out)))
    if record == _facts(path, target, options):
        return Outcome(path, "finished", target, ["made earlier"])
    why = "from another input or with other settings" if record else "by something else"
    return Outcome(
        path,
        "exists",
        notes=[
            f"{shown(target)} is there, made {why}; ask to overwrite it, or give another folder"
        ],
    )
