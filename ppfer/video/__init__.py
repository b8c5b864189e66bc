"""One video in, one video out: nothing outside this package opens a video file.

`file` looks at files and packets, `reader` gives pictures (`picture`: as they are shown), `clips`
gives training its clips, `writer` (imported by itself, since it needs torch) puts a video out.
"""

from ppfer.video.clips import decode_clip, sample_positions, square
from ppfer.video.file import VIDEO_SUFFIXES, file_fault, is_video
from ppfer.video.reader import Frame, Frames, Video, inspect, probe, read_frames, read_video

__all__ = [
    "VIDEO_SUFFIXES",
    "Frame",
    "Frames",
    "Video",
    "decode_clip",
    "file_fault",
    "inspect",
    "is_video",
    "probe",
    "read_frames",
    "read_video",
    "sample_positions",
    "square",
]
