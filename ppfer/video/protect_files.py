"""Protect videos and photos: what ``ppfer protect`` runs.

Nothing here knows which protector runs: it takes clips (B, T, 3, S, S) in [0, 1] and returns the
same shape, or figures (`ppfer.protect`). What happens to the frames of one video stands in
`ppfer.video.heads`, which files there are in `ppfer.video.plan`.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

from ppfer import __version__, video
from ppfer.base.errors import PpferError, printable
from ppfer.base.files import sweep
from ppfer.base.progress import Progress
from ppfer.protect import Apply, ForVideo, NamedApply, VideoProtector, for_video
from ppfer.video.faces import FAINT, Finder
from ppfer.video.heads import Picture, ProtectOptions, Tally, first_pass, protected_frames
from ppfer.video.photo import is_photo, read_photo, write_photo
from ppfer.video.plan import MARK, Outcome, earlier, fingerprint, mark, plan
from ppfer.video.writer import Writer

__all__ = ["MARK", "Outcome", "ProtectOptions", "protect_files", "protect_video"]
SOUND_LEFT_OUT = "its sound is left out, since a voice names its speaker"
PREVIEWED = "the left half is the original: not to be passed on"
PHOTO_RATE = 30  # frames a second that a photo is taken to be of
SOUND_KEPT = "its sound is kept, and a voice names its speaker"


def protect_files(
    protector: Apply | NamedApply | ForVideo,
    source: Path | Sequence[Path],
    out: Path,
    options: ProtectOptions,
    *,
    named: bool = False,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Protect videos and photos, and all those of folders and their sub-folders.

    The result of ``a.mov`` is ``a.mp4`` in `out`, but ``a.mov.mp4`` where an ``a.mp4`` lies beside
    it, so that the two don't collide. Inputs are never written over, nor are older results unless
    ``options.overwrite`` says so. What was made earlier from the same input with the same settings
    is kept, so the same command goes on where it was stopped. Links to folders are followed.

    Args:
        protector: clips (B, T, 3, S, S) float in [0, 1] → the same.
        source: a video, a photo, a folder, a glob; or several.
        out: folder for the results; sub-folders are kept.
        named: the protector is called with names as well, see `ppfer.protect.for_video`.
        on_outcome: told of each video once it is dealt with.

    Returns:
        What became of every video, in the order of their paths; all is well if each is
        `Outcome.ok`.

    Raises:
        PpferError: there is no such file or folder or nothing in it, `out` cannot be made, or the
        face finder is not installed.
    """
    sources = [source] if isinstance(source, Path) else source
    outcomes, jobs = plan(sources, out, options)
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
    finder = (
        Finder(side, min(FAINT, options.threshold)) if options.frame == "face" and jobs else None
    )
    at_rate = functools.partial(for_video, protector, named=named)
    for path, target in jobs:
        outcome = earlier(path, target, options)
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
        write = _write_photo if is_photo(source) else _write
        notes = write(at_rate, source, target, options, finder, outcome)
        if options.report and options.frame == "face":
            _report(outcome, target, options)
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
        rate, name = float(about.rate), fingerprint(source)
        protector = at_rate(rate)
        looked = Tally()
        if protector.first_pass:
            _first_pass(protector, source, options, finder, name, looked)
        known = looked.faces if looked.frames else None
        made = protected_frames(protector, frames, options, finder, rate, tally, name, known)
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
                comment=mark(source, options),
            )
        )
        progress, first = _progress(f"protecting {source.name}", about, options), None
        for count, frame in enumerate(made, 1):
            writer.write(frame.pixels, frame.time, frame.duration)
            first = frame.time if first is None else first
            outcome.length = float(frame.time + frame.duration - first)
            progress.total = max(progress.total, count + 1)  # the header's length is a guess
            if count % options.chunk == 0:  # a chunk comes at once: before its end no rate is known
                progress.update(count, f"{count / (time.monotonic() - began):.0f} frames/s")
        if first is None:
            raise PpferError(f"{source} has no frame there: it lasts {about.duration:.1f} s")
        _found_any(source, tally, options)
    notes = [SOUND_KEPT if outcome.sound else SOUND_LEFT_OUT] if about.sound else []
    notes += [PREVIEWED] if options.preview else []
    return notes + [f"damaged input: {fault}" for fault in frames.faults]


def _write_photo(
    at_rate: Callable[[float], VideoProtector],
    source: Path,
    target: Path,
    options: ProtectOptions,
    finder: Finder | None,
    outcome: Outcome,
) -> list[str]:
    """The same of a photo: a video of one frame."""
    pixels, name, tally = read_photo(source), fingerprint(source), outcome.tally
    protector, known = at_rate(PHOTO_RATE), None
    given = [Picture(pixels, Fraction(0), Fraction(1, PHOTO_RATE))]
    if protector.first_pass:
        looked = Tally()
        for _ in first_pass(protector, given, options, finder, PHOTO_RATE, looked, name):
            known = looked.faces
    made = protected_frames(protector, given, options, finder, PHOTO_RATE, tally, name, known)
    (picture,) = made
    _found_any(source, tally, options)
    outcome.height, outcome.width = picture.pixels.shape[:2]
    write_photo(target, picture.pixels, mark(source, options))
    return [PREVIEWED] if options.preview else []


def _found_any(source: Path, tally: Tally, options: ProtectOptions) -> None:
    if tally.faceless == tally.frames and options.frame == "face":
        raise PpferError(
            f"no face was found in any of the {tally.frames} frames of {source}; "
            "the whole picture can be protected instead: --frame whole"
        )


def _report(outcome: Outcome, target: Path, options: ProtectOptions) -> None:
    """What was covered, as JSON beside a result: no names, no pixels."""
    tally = outcome.tally
    about = {
        "made_by": f"ppfer {__version__}",
        "outside": options.outside,
        "mask_scale": options.mask_scale,
        "threshold": options.threshold,
        "frames_without_face": tally.faceless,
        "faces_followed": len(tally.tracks),
    }
    tally.faces.write(target.with_name(target.name + ".json"), about)


def _first_pass(
    protector: VideoProtector,
    source: Path,
    options: ProtectOptions,
    finder: Finder | None,
    name: str,
    looked: Tally,
) -> None:
    """Show a protector the whole video before it begins."""
    with contextlib.ExitStack() as stack:
        frames = stack.enter_context(video.read_frames(source, options.start, options.end))
        rate = float(frames.video.rate)
        seen = first_pass(protector, frames, options, finder, rate, looked, name)
        stack.enter_context(contextlib.closing(seen))
        progress = _progress(f"looking at {source.name}", frames.video, options)
        for count in seen:
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
    if is_photo(outcome.source):
        text = f"a photo of {size}"
    if options.frame == "face":
        faces = len(tally.tracks)
        text += f", {faces} face{'' if faces == 1 else 's'} followed"
        text += f", no face found in {tally.faceless} frames, which are black" * bool(
            tally.faceless
        )
    return text
