"""Decoding the shipped clips: decord, which the store uses, against PyAV: ``python
tests/bench/bench_decode.py``.

Both read whole files into uint8 arrays on one thread; files alternate between the two, so that
caches treat them alike.
"""

from __future__ import annotations

import platform
import sys
import time

import av
import common
import decord
import numpy as np
from av.video.reformatter import VideoReformatter

from ppfer.config import REPO

FILES = 200


def with_decord(path: str) -> np.ndarray:
    return decord.VideoReader(path, num_threads=1)[:].asnumpy()


def with_av(path: str) -> np.ndarray:
    with av.open(path) as container:
        container.streams.video[0].thread_count = 1
        convert = (
            VideoReformatter()
        )  # one for the file: a frame's own would set up its conversion anew
        return np.stack(
            [
                convert.reformat(frame, format="rgb24").to_ndarray()
                for frame in container.decode(video=0)
            ]
        )


def run() -> list[dict]:
    """Frames per second of each; the pictures must agree."""
    files = [str(p) for p in sorted((REPO / "data" / "twin" / "VideoMP4").glob("*.mp4"))[:FILES]]
    decord.bridge.set_bridge("native")
    seconds, frames = {with_decord: 0.0, with_av: 0.0}, 0
    for count, path in enumerate(files):
        made = {}
        for reader in (with_decord, with_av) if count % 2 else (with_av, with_decord):
            began = time.perf_counter()
            made[reader] = reader(path)
            seconds[reader] += time.perf_counter() - began
        frames += len(made[with_decord])
        if made[with_decord].shape != made[with_av].shape:
            sys.exit(f"{path}: decord read {made[with_decord].shape}, PyAV {made[with_av].shape}")
    name = f"CPU {platform.machine()}, 1 thread"
    return [
        common.row(
            f"decode {len(files)} clips of {made[with_av].shape}",
            frames / seconds[with_decord],
            frames / seconds[with_av],
            "PyAV",
            "frames/s",
            name,
        )
    ]


if __name__ == "__main__":
    common.keep(run(), "decode")
