"""Protect videos and photos: what ``ppfer protect`` runs.

Nothing here knows which protector runs: it takes clips (B, T, 3, S, S) in [0, 1] and returns the
same shape, or figures (`ppfer.protect`). What happens to the frames of one video stands in
`ppfer.video.heads`, which files there are in `ppfer.video.plan`.
"""

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
from ppfer.video.file import is_photo, survey
from ppfer.video.heads import Passage, ProtectOptions
from ppfer.video.photo import Photo, photo_writer
from ppfer.video.plan import Outcome, beside, earlier, fingerprint, foreign, mark, plan, reported
from ppfer.video.writer import Writer, sentences

SOUND_LEFT_OUT = "its sound is left out, since a voice names its speaker"
SOUND_KEPT = "its sound is kept, and a voice names its speaker"
PREVIEWED = "the left half is the original: not to be passed on"


def protect_files(
    protector: Apply | NamedApply | ForVideo,
    source: Path | Sequence[Path],
    out: Path,
    options: ProtectOptions,
    *,
    named: bool = False,
    on_outcome: Callable[[Outcome], object] = lambda outcome: None,
) -> list[Outcome]:
    """Protect videos and photos, and all those of folders and their sub-folders; returns what
    became of each, in the order of their paths.

    The result of ``a.mov`` is ``a.mp4`` in `out`, but ``a.mov.mp4`` where an ``a.mp4`` lies beside
    it, so that the two don't collide. Inputs are never written over, nor are older results unless
    ``options.overwrite`` says so. What was made earlier from the same input with the same settings
    is kept, so the same command goes on where it was stopped. Links to folders are followed.

    Args:
        protector: clips (B, T, 3, S, S) float in [0, 1] → the same; `named`, it is called with
            names as well, see `ppfer.protect.for_video`.
        source: a video, a photo, a folder, a glob; or several.
        out: folder for the results; sub-folders are kept.
        on_outcome: told of each video once it is dealt with.

    Raises:
        PpferError: there is no such file or folder or nothing in it, `out` cannot be made, or the
        face finder is not installed.
    """
    sources = [source] if isinstance(source, Path) else source
    outcomes, jobs = plan(sources, out, options)
    for outcome in outcomes:
        on_outcome(outcome)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PpferError(f"the folder {out} cannot be made: {error.strerror}") from error
    for folder in {target.parent for _, target in jobs}:
        sweep(folder)  # what a killed process left half written
    # Where the rest is kept, a face missed is a face shown: then small ones are looked for as well.
    side = 960 if options.outside == "keep" else 480
    faces = options.frame != "whole" and jobs
    finder = Finder(side, min(FAINT, options.threshold)) if faces else None
    at_rate = functools.partial(for_video, protector, named=named)
    for path, target in jobs:
        outcome = earlier(path, target, options)
        outcome = outcome or _protect(at_rate, path, target, options, finder)
        outcomes.append(outcome)
        on_outcome(outcome)
    return sorted(outcomes, key=lambda outcome: outcome.source)


def _protect(
    at_rate: Callable[[float], VideoProtector],
    source: Path,
    target: Path,
    options: ProtectOptions,
    finder: Finder | None,
) -> Outcome:
    """Protect one video or photo; what goes wrong costs it alone, and the outcome says it."""
    began = time.monotonic()
    try:
        with _opened(source, options) as frames:
            rate, sound = float(frames.video.rate), frames.video.sound
            if not is_photo(source):  # where the pace varies an average would be too slow
                rate = survey(source).rate
            passage = Passage(at_rate(rate), options, finder, rate, fingerprint(source))
            if passage.protector.first_pass:
                _first_pass(passage, source)
            said = _write(passage, frames, source, target, began)
        tally = passage.tally
        log = beside(target)
        if reported(options):
            how = {name: getattr(options, name) for name in ("outside", "mask_scale", "threshold")}
            about = {"made_by": f"ppfer {__version__}"} | how  # no names, no pixels
            with sentences(log):
                tally.write(log, about)
        elif not foreign(log):  # of an older result
            log.unlink(missing_ok=True)
    except PpferError as error:
        return Outcome(source, "failed", notes=[str(error)])
    notes = [said]
    if sound:
        notes.append(SOUND_KEPT if options.keep_audio else SOUND_LEFT_OUT)
    if options.preview:
        notes.append(PREVIEWED)
    notes += [f"damaged input: {fault}" for fault in frames.faults]
    return Outcome(source, "written", target, notes, tally)


def _opened(source: Path, options: ProtectOptions) -> contextlib.AbstractContextManager:
    if is_photo(source):
        return contextlib.nullcontext(Photo(source))
    return video.Frames(source, options.start, options.end)


def _write(
    passage: Passage, frames: video.Frames | Photo, source: Path, target: Path, began: float
) -> str:
    """Write the protected video or photo, whole or not at all; says what it is like."""
    options, tally, about = passage.options, passage.tally, frames.video
    comment, first, end = mark(source, options), None, Fraction(0)
    width, height = about.width, about.height
    if options.frame != "face":
        width = height = options.size
    width *= 1 + options.preview
    if is_photo(source):
        output = photo_writer(target, comment)
    else:
        how = {"rate": about.rate, "exact": options.exact, "crf": options.quality}
        how["audio_from"] = source if about.sound and options.keep_audio else None
        output = Writer(target, width, height, comment=comment, **how)
    with output as writer, contextlib.closing(passage.protected(frames)) as made:
        progress = _progress("protecting", source, about, options)
        for count, frame in enumerate(made, 1):
            writer.write(frame.pixels, frame.time, frame.duration)
            first = frame.time if first is None else first
            end = frame.time + frame.duration
            progress.total = max(progress.total, count + 1)  # the header's length is a guess
            if count % options.chunk == 0:  # a chunk comes at once: before its end no rate is known
                progress.update(count, f"{count / (time.monotonic() - began):.0f} frames/s")
        if first is None:
            raise PpferError(f"{source} has no frame there: it lasts {about.duration:.1f} s")
        if tally.faceless == tally.frames and options.frame != "whole":
            raise PpferError(
                f"no face was found in any of the {tally.frames} frames of {source}; "
                "the whole picture can be protected instead: --frame whole"
            )
    text = f"a photo of {width}×{height}"
    if not is_photo(source):
        text = f"{tally.frames} frames of {width}×{height}, {float(end - first):.1f} s"
        text += f", {tally.frames / max(time.monotonic() - began, 1e-9):.0f} frames/s"
    if options.frame != "whole":
        faces = len(tally.tracks)
        text += f", {faces} face{'' if faces == 1 else 's'} followed"
        text += ", one at a time shown" * (faces > 1 and options.frame == "alone")
        if tally.faceless:
            text += f", no face found in {tally.faceless} frames, which are black"
    return text


def _first_pass(passage: Passage, source: Path) -> None:
    """Show a protector the whole video before it begins."""
    with (
        _opened(source, passage.options) as frames,
        contextlib.closing(passage.first(frames)) as seen,
    ):
        progress = _progress("looking at", source, frames.video, passage.options)
        for count in seen:
            progress.total = max(progress.total, count + 1)
            progress.update(count)


def _progress(doing: str, source: Path, about: video.Video, options: ProtectOptions) -> Progress:
    """Of the frames that are asked for, as many as the header says."""
    start = options.start or 0
    end = about.duration if options.end is None else min(options.end, about.duration)
    total = round((end - start) * about.rate)
    return Progress(printable(f"{doing} {source.name}"), total, "frames")
