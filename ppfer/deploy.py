"""Protect a video file, or every video of a folder: what ``ppfer protect`` runs."""

from __future__ import annotations

from pathlib import Path

import torch

from ppfer.config import PpferError
from ppfer.device import Progress
from ppfer.protect import Apply, protect_all
from ppfer.video import VIDEO_SUFFIXES, read_video, square, write_video


def protect_videos(
    protector: Apply,
    source: Path,
    out: Path,
    *,
    size: int,
    device: torch.device,
    chunk: int = 16,
    batch: int = 4,
    precision: str = "auto",
) -> list[Path]:
    """Protect a video file, or every video of a folder, frame for frame; sound is dropped, since a
    voice names its speaker.

    Colour keeps its full resolution in the files (`store.write_video`): at half, F_u reads the
    files clearly worse than the frames (notebook 12).

    Args:
        protector: clips → clips.
        source: a video or a folder.
        out: folder for ``<name>.mp4``; sub-folders are kept.
        size: side of the square centre crop the protector was trained at; the output has this size.
        chunk: frames of a clip, as the protector takes them.
        batch: clips per pass.
        precision: see `ppfer.device.autocast`.

    Returns:
        The files written.

    Raises:
        PpferError: if there is no video, or one cannot be read (the others are still written).
    """
    root = source if source.is_dir() else source.parent
    files = (
        sorted(p for p in source.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
        if source.is_dir()
        else [source]
    )
    if not files:
        raise PpferError(f"there is no video in {source} ({', '.join(VIDEO_SUFFIXES)})")
    written, failed = [], []
    progress = Progress("protecting", len(files))
    for count, path in enumerate(files, 1):
        try:
            frames, fps = read_video(path)
        except PpferError as error:
            failed.append(str(error))
            continue
        frames = square(frames, size)  # (T, 3, S, S) uint8
        length = len(frames)
        frames = torch.cat(
            [frames, frames[-1:].expand(-length % chunk, -1, -1, -1)]
        )  # whole chunks: time-axis bands need them
        clips = frames.view(-1, chunk, 3, size, size)  # (chunks, chunk, 3, S, S)
        done = torch.cat(
            [
                part.cpu()
                for part in protect_all(
                    protector,
                    clips,
                    device=device,
                    batch=batch,
                    name="protector",
                    precision=precision,
                )
            ]
        )
        written.append(
            write_video(
                (out / path.relative_to(root)).with_suffix(".mp4"),
                done.flatten(0, 1)[:length],
                fps,
                full_colour=True,
            )
        )
        progress.update(count, path.name)
    if failed:
        raise PpferError(
            f"{len(failed)} of {len(files)} videos could not be read: " + "; ".join(failed[:5])
        )
    return written
