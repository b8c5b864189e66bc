"""Clips for training: the frames at uniform mid-points of a video, cropped square, of one size.

Frames are taken by reading in order, never by seeking: seeking gives frames of other moments in
AVI, MPEG, WMV and open-GOP files, and for clips of a few hundred frames it is no faster.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ppfer.base.errors import PpferError
from ppfer.video.file import WHOLE, clip_fault, cut_short, is_photo, sample_positions, survey
from ppfer.video.picture import photo_pixels
from ppfer.video.reader import Frames


def decode_clip(path: str | Path, frames: int = 16, size: int = 96) -> np.ndarray:
    """Frames at uniform segment mid-points, their largest centred square, resized by area.

    Args:
        path: a video file, or a folder of numbered pictures (DFEW), taken in numeric order.
        frames: frames to keep, T. A shorter clip repeats frames.
        size: side S of the result in pixels. A picture of this size is passed through.

    Returns:
        (T, 3, S, S) uint8, RGB.

    Raises:
        PpferError: the file is missing, no video, truncated, mostly damaged, or has one frame only.
    """
    path = Path(path)
    if path.is_dir():
        return np.stack([squared(picture, size) for picture in _pictures(path, frames)])
    expected = None
    while True:
        count, kept = 0, {}
        with Frames(path) as reader:
            # what the header counts; where it does not count, how many packets there are
            expected = expected or reader.stream.frames or survey(path).pictures
            positions = sample_positions(expected, frames)
            for count, frame in enumerate(reader, 1):
                if count - 1 in positions:
                    kept[count - 1] = squared(frame.pixels, size)
        if reader.broken > (1 - WHOLE) * (reader.broken + count):
            raise PpferError(f"{path} cannot be decoded: {reader.faults[0]}")
        if fault := clip_fault(count, reader.present, reader.declared):
            raise PpferError(f"{path} {fault}")
        if count == expected:
            return np.stack([kept[position] for position in positions])
        expected = count  # hidden or broken packets: read again, now that the number is known


def clip_or_reason(path: str, frames: int, size: int) -> np.ndarray | str:
    """`decode_clip`, or the reason why there is no clip; runs in a child process."""
    try:
        return decode_clip(path, frames, size)
    except PpferError as error:
        return str(error).removeprefix(f"{path} ")
    except Exception as error:  # a decoder's surprise rejects this file, not the run
        return f"cannot be decoded: {type(error).__name__}"


def inspect(path: str | Path) -> tuple[str | None, list[str]]:
    """A look into a file that decodes only a few frames, or into a folder of numbered pictures:
    what makes it useless for training, completing "<path> ...", or None; and what is odd about it.
    """
    path = Path(path)
    if path.is_dir():
        answer = clip_or_reason(str(path), 2, 16)
        return (answer if isinstance(answer, str) else None), []
    try:
        span = survey(path)
        if fault := clip_fault(span.pictures, span.present, span.declared):
            return fault, []
        with Frames(path) as frames:
            video = frames.video
            looks = [frame.pixels[::4, ::4] for frame, _ in zip(frames, range(8), strict=False)]
        if len(looks) < 2:
            return "has one frame only", []
        if dull := all(np.array_equal(look, looks[0]) for look in looks):  # so far
            with Frames(path, start=video.duration / 2) as frames:
                dull = all(np.array_equal(frame.pixels[::4, ::4], looks[0]) for frame in frames)
    except PpferError as error:
        return str(error).removeprefix(f"{path} "), []
    short = cut_short(span.present, span.declared)
    # what is odd but usable
    remarks = {
        f"rotated by {video.rotation}°, turned upright": video.rotation,
        "mirrored by its header": video.mirrored,
        "variable frame rate": span.variable,
        "interlaced, deinterlaced": video.interlaced,
        "HDR, mapped to ordinary colours": video.hdr,
        "all frames equal": dull,
        f"ends early: {short}": short,
    }
    return None, [remark for remark, applies in remarks.items() if applies]


def _pictures(folder: Path, frames: int) -> Iterator[np.ndarray]:
    names = list(filter(is_photo, folder.iterdir()))
    # 10.jpg after 9.jpg
    names.sort(key=lambda f: (int("".join(re.findall(r"\d", f.stem)) or -1), f.name))
    if len(names) < 2:
        raise PpferError(f"{folder} {'has one frame only' if names else 'holds no picture'}")
    for position in sample_positions(len(names), frames):
        try:
            yield photo_pixels(names[position])
        except PpferError as error:
            raise PpferError(
                f"{folder} cannot be decoded: {names[position].name} is damaged"
            ) from error


def squared(picture: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) to (3, size, size)."""
    height, width = picture.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    area = Image.Resampling.BOX if side >= size else Image.Resampling.BILINEAR
    box = left, top, left + side, top + side
    small = Image.fromarray(picture).resize((size, size), area, box=box)  # equal where size fits
    return np.asarray(small).transpose(2, 0, 1)
