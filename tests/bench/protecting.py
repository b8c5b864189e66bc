"""What bench_deface runs in a process of its own: ``python protecting.py ours|deface VIDEOS OUT``.

Prints seconds, without start and imports, and of each video the frames in which no face was found.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

# Each way imports what it needs and no more, since memory is measured.


def ours(videos: Path, out: Path) -> tuple[float, list[int]]:
    """``ppfer protect VIDEOS --approach codebook``, which needs no run."""
    import ppfer  # isort: skip  # noqa: F401  # before torch, as in common
    import torch

    from ppfer.cli import main, protect

    torch.set_num_threads(min(2, torch.get_num_threads()))
    found, made = [], protect.protect_files

    def timed(*arguments: object, **settings: object) -> list:
        began = time.perf_counter()
        outcomes = made(*arguments, **settings)
        found[:] = time.perf_counter() - began, [o.tally.faceless for o in outcomes]
        return outcomes

    protect.protect_files = timed
    if main(["protect", str(videos), "--out", str(out), "--approach", "codebook"]):
        sys.exit("some could not be protected")
    return tuple(found)


def deface(videos: Path, out: Path) -> tuple[float, list[int]]:
    """As ``deface VIDEOS`` does it, with its defaults."""
    from deface.centerface import CenterFace
    from deface.deface import video_detect

    without = []

    class Counting(CenterFace):
        def __call__(self, *arguments: object, **settings: object) -> tuple:
            found = super().__call__(*arguments, **settings)
            without[-1] += not len(found[0])
            return found

    defaults = {"threshold": 0.2, "mask_scale": 1.3, "replacewith": "blur", "ellipse": True}
    defaults |= {"enable_preview": False, "cam": False, "nested": False, "draw_scores": False}
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    finder = Counting()
    for path in sorted(videos.iterdir()):
        without.append(0)
        target = str(out / f"{path.stem}.mp4")
        codec = {"codec": "libx264"}
        video_detect(str(path), target, centerface=finder, ffmpeg_config=codec, **defaults)
    return time.perf_counter() - began, without


if __name__ == "__main__":
    _, way, videos, out = sys.argv
    seconds, without = {"ours": ours, "deface": deface}[way](Path(videos), Path(out))
    print(json.dumps({"seconds": seconds, "without": without}))
