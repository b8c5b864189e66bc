"""Protecting video files beside deface: ``python tests/bench/bench_deface.py [FOLDER]``.

Ours is ``ppfer protect --approach codebook``; deface 1.5 blurs, with its defaults. In turn each
protects the same 20 videos, twice, in a process of its own, on a CPU; the fastest counts. A frame
counts as found if a face was found in it, or if it shows nothing but black; where none is found,
ours writes black, deface what was there. Without a folder, the shipped clips, enlarged to 640×360.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import common
import numpy as np
import psutil
import torch
from PIL import Image

from ppfer.base.device import device_name
from ppfer.config import REPO
from ppfer.video import Frames, is_video, probe
from ppfer.video.writer import Writer

COUNT, REPEATS = 20, 2
CHILD = Path(__file__).with_name("protecting.py")


def enlarged(folder: Path) -> None:
    """The shipped clips at 640×360, each played there and back."""
    clips = sorted((REPO / "data" / "twin" / "VideoMP4").glob("*.mp4"))
    for path in clips[:: len(clips) // COUNT][:COUNT]:
        pictures = [
            np.asarray(Image.fromarray(frame.pixels).resize((360, 360), Image.Resampling.BICUBIC))
            for frame in Frames(path)
        ]
        edges = (0, 0), (140, 140), (0, 0)
        with Writer(folder / path.name, 640, 360, rate=25) as writer:
            for picture in pictures + pictures[::-1]:
                writer.write(np.pad(picture, edges, mode="edge"))


def watched(way: str, videos: Path, out: Path) -> dict:
    """Run one in a process: seconds, frames without a face, MB at most with all its children."""
    command = [sys.executable, str(CHILD), way, str(videos), str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as child:
        peak, ended = [0], threading.Event()

        def look() -> None:
            tree = psutil.Process(child.pid)
            while not ended.wait(0.02):
                try:
                    every = [tree, *tree.children(recursive=True)]
                    peak[0] = max(peak[0], sum(p.memory_info().rss for p in every))
                except psutil.NoSuchProcess:
                    continue

        watcher = threading.Thread(target=look)
        watcher.start()
        said, errors = child.communicate()
        ended.set()
        watcher.join()
    if child.returncode:
        sys.exit(f"{way}: {errors[-2000:]}")
    return json.loads(said.splitlines()[-1]) | {"mb": peak[0] / 1e6}


def compared(videos: Path, what: str) -> list[dict]:
    """The rows."""
    sources = sorted(videos.iterdir())
    seen = [[frame.pixels.max() > 40 for frame in Frames(path)] for path in sources]
    black, frames = [len(s) - sum(s) for s in seen], sum(map(len, seen))
    runs: dict[str, list[dict]] = {"ours": [], "deface": []}
    for way in list(runs) * REPEATS:
        shutil.rmtree(videos.parent / way, ignore_errors=True)
        runs[way].append(watched(way, videos, videos.parent / way))
    measured = []
    for way, times in runs.items():
        missed = sum(max(0, w - b) for w, b in zip(times[0]["without"], black, strict=True))
        results = [videos.parent / way / f"{path.stem}.mp4" for path in sources]
        pairs = [(probe(a), probe(b)) for a, b in zip(sources, results, strict=True)]
        sizes = sum((a.width, a.height) == (b.width, b.height) for a, b in pairs)
        lengths = sum(abs(a.duration - b.duration) < 0.5 / a.rate for a, b in pairs)
        seconds, memory = min(run["seconds"] for run in times), max(run["mb"] for run in times)
        measured.append((frames / seconds, memory, frames - missed, sizes, lengths))
    names = {
        "speed": "frames/s",
        "memory": "MB",
        f"faces found, of {frames:,} frames": "frames",
        f"size kept, of {len(sources)} videos": "videos",
        f"length kept, of {len(sources)} videos": "videos",
    }
    device = device_name(torch.device("cpu"))
    how = {"peer_name": "deface 1.5", "device": device}
    return [
        common.row(f"{what}: {name}", mine, theirs, unit=unit, smaller=unit == "MB", **how)
        for (name, unit), mine, theirs in zip(names.items(), *measured, strict=True)
    ]


def run(folder: Path | None) -> list[dict]:
    """Compare on the first 20 videos of a folder, or on the shipped clips."""
    with tempfile.TemporaryDirectory() as place:
        videos = Path(place) / "videos"
        videos.mkdir()
        if folder is None:
            enlarged(videos)
        else:
            every = sorted(path for path in folder.iterdir() if is_video(path))
            for path in every[:: max(1, len(every) // COUNT)][:COUNT]:
                shutil.copy(path, videos)
        about = probe(next(videos.iterdir()))
        what = "real clips" if folder else "shipped clips"
        rows = compared(videos, f"{what}, {about.width}×{about.height}")
    common.keep(rows, "deface")
    return rows


if __name__ == "__main__":
    common.pick_device([])
    folder = (sys.argv[1:] or [os.environ.get("PPFER_BENCH_VIDEOS", "")])[0]
    run(Path(folder) if folder else None)
