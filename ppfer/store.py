"""Video in, arrays out: read and write one video, decode a data set once into a memory-mapped ClipStore.

Nothing else in the package opens a video file.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from ppfer.config import PpferError


LFS_MAGIC = b"version https://git-lfs"


def _require_file(path: Path) -> None:
    """Raises PpferError when `path` is missing, empty or a Git-LFS pointer, before a decoder sees it."""
    if not path.is_file():
        raise PpferError(f"{path} does not exist")
    if path.stat().st_size == 0:
        raise PpferError(f"{path} is empty (0 bytes)")
    with path.open("rb") as file:
        if file.read(len(LFS_MAGIC)) == LFS_MAGIC:
            raise PpferError(f"{path} is a Git-LFS pointer; run: git lfs pull")


def read_video(path: str | Path) -> tuple[torch.Tensor, float]:
    """Reads every frame of a video, in order.

    Args:
        path: any file FFmpeg reads (mp4, flv, avi, webm, ...).

    Returns:
        frames (T, 3, H, W) uint8, and the frame rate in frames per second.

    Raises:
        PpferError: the file is missing, empty, a Git-LFS pointer, or holds no frame that can be decoded.
    """
    import av

    path = Path(path)
    _require_file(path)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    except (av.FFmpegError, IndexError) as error:
        raise PpferError(f"{path} cannot be decoded: {error}") from error
    if not frames:
        raise PpferError(f"{path} holds no video frame")
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous(), rate  # (T, 3, H, W)


def write_video(path: str | Path, frames: torch.Tensor | np.ndarray, fps: float = 25.0, *, crf: int = 18) -> Path:
    """Writes frames as an H.264 file (MPEG-4 part 2 where FFmpeg has no x264), whole or not at all.

    Args:
        path: target; its suffix picks the container (.mp4).
        frames: (T, 3, H, W), uint8 in [0, 255] or float in [0, 1] (clamped).
        fps: frames per second.
        crf: x264's quality, 0 (lossless) to 51; 18 looks the same to the eye.

    Returns:
        The path written.

    Raises:
        PpferError: frames of another shape, no frames, or the disk is full.
    """
    import av

    path, frames = Path(path), torch.as_tensor(frames).detach().cpu()
    if frames.ndim != 4 or frames.shape[1] != 3 or not len(frames):
        raise PpferError(f"a video is frames of shape (T, 3, H, W) with T >= 1, not {tuple(frames.shape)}")
    if frames.is_floating_point():
        frames = (frames.float().clamp(0, 1) * 255).round().to(torch.uint8)
    height, width = frames.shape[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        with av.open(str(partial), "w") as container:
            h264 = "libx264" in av.codecs_available
            stream = container.add_stream("libx264" if h264 else "mpeg4", rate=Fraction(fps).limit_denominator(1001))
            stream.width, stream.height = width, height
            stream.codec_context.thread_count = 1  # the same bytes on every machine
            # half-size colour needs even sides; MPEG-4 takes odd ones by padding
            stream.pix_fmt = "yuv444p" if h264 and (height % 2 or width % 2) else "yuv420p"
            if h264:
                stream.options = {"crf": str(crf)}
            else:
                stream.bit_rate = max(200_000, int(0.3 * height * width * fps))
            for frame in frames.permute(0, 2, 3, 1).contiguous().numpy():  # (H, W, 3)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        os.replace(partial, path)
    except (OSError, av.FFmpegError) as error:
        raise PpferError(f"{path} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path
