"""One video in, one video out: nothing else in the package opens a video file."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ppfer.config import PpferError

if TYPE_CHECKING:
    import torch

VIDEO_SUFFIXES = (".flv", ".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
LFS_MAGIC = b"version https://git-lfs"
WHOLE = (
    0.75  # a video whose packets cover less of the duration its header declares counts as truncated
)


def file_fault(path: Path) -> str | None:
    """Says what is wrong with a file before any decoder sees it: a reason that completes "<path>
    ...", or None."""
    if not path.is_file():
        return "does not exist"
    if path.stat().st_size == 0:
        return "is empty (0 bytes)"
    with path.open("rb") as file:
        if file.read(len(LFS_MAGIC)) == LFS_MAGIC:
            return "is a Git-LFS pointer; run: git lfs pull"
    return None


def read_video(path: str | Path) -> tuple[torch.Tensor, float]:
    """Reads every frame of a video, in order.

    Args:
        path: any file FFmpeg reads (mp4, flv, avi, webm, ...).

    Returns:
        frames (T, 3, H, W) uint8, and the frame rate in frames per second.

    Raises:
        PpferError: the file is missing, empty, a Git-LFS pointer, or holds no frame that can be
            decoded.
    """
    import av
    import torch

    path = Path(path)
    if fault := file_fault(path):
        raise PpferError(f"{path} {fault}")
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    except (av.FFmpegError, IndexError) as error:
        raise PpferError(f"{path} cannot be decoded: it is damaged or no video") from error
    if not frames:
        raise PpferError(f"{path} holds no video frame")
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous(), rate  # (T, 3, H, W)


def write_video(
    path: str | Path,
    frames: torch.Tensor | np.ndarray,
    fps: float = 25.0,
    *,
    crf: int = 18,
    full_colour: bool = False,
) -> Path:
    """Writes frames as an H.264 file (MPEG-4 part 2 where FFmpeg has no x264), whole or not at all.

    Args:
        path: target; its suffix picks the container (.mp4).
        frames: (T, 3, H, W), uint8 in [0, 255] or float in [0, 1] (clamped).
        fps: frames per second.
        crf: x264's quality, 0 (lossless) to 51; 18 looks the same to the eye.
        full_colour: keep colour at full resolution (4:4:4). The usual 4:2:0 halves it, which eats
            the fine coloured texture of protected frames and with it some of the expression. Not
            every browser plays 4:4:4; VLC and FFmpeg do.

    Returns:
        The path written.

    Raises:
        PpferError: frames of another shape, no frames, or the disk is full.
    """
    import av

    path, frames = Path(path), as_uint8(frames)
    if frames.ndim != 4 or frames.shape[1] != 3 or not len(frames):
        raise PpferError(
            f"a video is frames of shape (T, 3, H, W) with T >= 1, not {tuple(frames.shape)}"
        )
    height, width = frames.shape[2:]
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(partial), "w") as container:
            h264 = "libx264" in av.codecs_available
            stream = container.add_stream(
                "libx264" if h264 else "mpeg4", rate=Fraction(fps).limit_denominator(1001)
            )
            stream.width, stream.height = width, height
            stream.codec_context.thread_count = 1  # the same bytes on every machine
            # half-size colour needs even sides; MPEG-4 takes odd ones by padding
            stream.pix_fmt = (
                "yuv444p" if h264 and (full_colour or height % 2 or width % 2) else "yuv420p"
            )
            if h264:
                stream.options = {"crf": str(crf)}
            else:
                stream.bit_rate = max(200_000, int(0.3 * height * width * fps))
            for frame in np.ascontiguousarray(frames.transpose(0, 2, 3, 1)):  # (H, W, 3)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        os.replace(partial, path)
    except (OSError, ValueError, av.FFmpegError) as error:
        raise PpferError(f"{path} could not be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return path


def as_uint8(frames: torch.Tensor | np.ndarray) -> np.ndarray:
    """uint8 as it is; float in [0, 1] (clamped) rounded to [0, 255]. Takes tensors of any
    device.
    """
    if not isinstance(frames, np.ndarray):
        frames = (
            frames.detach().float().cpu().numpy()
            if frames.is_floating_point()
            else frames.cpu().numpy()
        )
    if frames.dtype == np.uint8:
        return frames
    if frames.dtype.kind != "f":
        raise PpferError(f"frames are uint8 in [0, 255] or float in [0, 1], not {frames.dtype}")
    return np.round(np.clip(frames, 0, 1) * 255).astype(np.uint8)


def sample_positions(count: int, frames: int) -> list[int]:
    """Mid-points of `frames` equal segments of a clip of `count` frames; a shorter clip repeats
    frames.
    """
    return [(2 * i + 1) * count // (2 * frames) for i in range(frames)]


def decode_clip(
    path: str | Path,
    frames: int = 16,
    size: int = 96,
    crop: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Decodes a clip to a fixed shape: frames at uniform segment mid-points, cropped square,
    resized by area.

    Args:
        path: a video file, or a folder of numbered pictures (DFEW), taken in numeric order.
        frames: frames to keep, T. A shorter clip repeats frames.
        size: side S of the result in pixels. Where the crop already has this size, pixels are
            passed through.
        crop: box (left, top, right, bottom) in pixels; the largest centred square by default.

    Returns:
        (T, 3, S, S) uint8, RGB.

    Raises:
        PpferError: the file is missing, empty, a Git-LFS pointer, truncated, not decodable, or has
            one frame only.
    """
    path = Path(path)
    load = _load_pictures if path.is_dir() else _load_video
    if not path.is_dir() and (fault := file_fault(path)):
        raise PpferError(f"{path} {fault}")
    return np.stack([_square(picture, size, crop) for picture in load(path, frames)])


def _load_video(path: Path, frames: int) -> np.ndarray:
    import av
    import decord

    try:  # a look at the packets first: decord hangs on some files that end early, or takes them for whole
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            declared = (
                float(stream.duration * stream.time_base)
                if stream.duration
                else (container.duration or 0) / 1e6
            )
            packets = [p for p in container.demux(stream) if p.size and p.dts is not None]
            ends = [float((p.dts + (p.duration or 0)) * stream.time_base) for p in packets]
            present = max(ends) - float(packets[0].dts * stream.time_base) if packets else 0.0
    except (av.FFmpegError, IndexError) as error:
        raise PpferError(f"{path} cannot be decoded: it is damaged or no video") from error
    if present < WHOLE * declared:
        raise PpferError(f"{path} is truncated: it holds {present:.1f} of {declared:.1f} s")
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        if len(reader) > 1:
            return reader.get_batch(sample_positions(len(reader), frames)).asnumpy()  # (T, H, W, 3)
    except (RuntimeError, decord.DECORDError) as error:
        raise PpferError(f"{path} cannot be decoded: its frames are damaged") from error
    raise PpferError(f"{path} has one frame only")


def _load_pictures(folder: Path, frames: int) -> Iterator[np.ndarray]:
    from PIL import Image

    names = [f for f in folder.iterdir() if f.suffix.lower() in (".jpg", ".jpeg", ".png")]
    names.sort(
        key=lambda f: (int("".join(re.findall(r"\d", f.stem)) or -1), f.name)
    )  # 10.jpg after 9.jpg
    if len(names) < 2:
        raise PpferError(f"{folder} {'has one frame only' if names else 'holds no picture'}")
    for position in sample_positions(len(names), frames):
        try:
            with Image.open(names[position]) as picture:
                yield np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise PpferError(
                f"{folder} cannot be decoded: {names[position].name} is damaged"
            ) from error


def _square(
    picture: np.ndarray, size: int, crop: tuple[float, float, float, float] | None
) -> np.ndarray:
    """(H, W, 3) to (3, size, size)."""
    from PIL import Image

    height, width = picture.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    box = crop or (left, top, left + side, top + side)
    if box == (0, 0, size, size) == (0, 0, width, height):
        return picture.transpose(2, 0, 1)
    area = Image.Resampling.BOX if box[2] - box[0] >= size else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).resize((size, size), area, box=box)).transpose(
        2, 0, 1
    )


def square(frames: torch.Tensor, size: int) -> torch.Tensor:
    """Every frame of a video as `decode_clip` would have it: (T, 3, H, W) uint8 to (T, 3, size,
    size), centre crop, area resize.
    """
    import torch

    pictures = frames.permute(0, 2, 3, 1).numpy()  # (T, H, W, 3)
    return torch.from_numpy(np.stack([_square(picture, size, None) for picture in pictures]))
