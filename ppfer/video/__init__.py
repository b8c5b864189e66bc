"""One video in, one video out: nothing outside this package opens a video file.

`file` looks at files and packets, `reader` gives pictures (`picture`: as they are shown), `clips`
gives training its clips, `writer` (imported by itself, since it needs torch) puts a video out.
What stands here is imported when it is asked for: whoever lists files reads none.
"""

import importlib

_HOMES = {
    "clips": ("decode_clip", "inspect"),
    "file": ("VIDEO_SUFFIXES", "file_fault", "is_video", "sample_positions"),
    "reader": ("Frame", "Frames", "Video", "probe"),
    "writer": ("read_video", "square"),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
