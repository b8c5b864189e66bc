"""Photos in and out, each as a video of one frame: upright, without what a camera writes in."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

from PIL import Image, PngImagePlugin

from ppfer.base.files import atomic
from ppfer.video.heads import Picture
from ppfer.video.picture import UNREADABLE, opened_photo, photo_pixels
from ppfer.video.reader import Video
from ppfer.video.writer import sentences

RATE = Fraction(30)  # frames a second that a photo is taken to be of
QUALITY = 95  # of a JPEG


class Photo:
    """A photo as it is shown, read as `ppfer.video.reader.Frames` reads a video: of one frame."""

    faults = ()

    def __init__(self, path: Path) -> None:
        self.pixels = photo_pixels(path)
        height, width = self.pixels.shape[:2]
        self.video = Video(width, height, RATE, 1 / RATE, 1)

    def __iter__(self) -> Iterator[Picture]:
        yield Picture(self.pixels, Fraction(0), 1 / RATE)


def photo_comment(path: Path) -> str:
    """The comment in a photo; "" where there is none."""
    try:
        with opened_photo(path) as picture:
            said = picture.info.get("comment", "")
    except UNREADABLE:
        return ""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)


@contextlib.contextmanager
def photo_writer(path: Path, comment: str) -> Iterator[SimpleNamespace]:
    """As `ppfer.video.writer.Writer`, of one picture, with nothing beside it but a comment."""
    taken = []
    yield SimpleNamespace(write=lambda pixels, *_: taken.append(pixels))
    how = {"format": "JPEG", "comment": comment, "quality": QUALITY}
    if path.suffix.lower() == ".png":
        said = PngImagePlugin.PngInfo()
        said.add_text("comment", comment)
        how = {"format": "PNG", "pnginfo": said}
    with sentences(path), atomic(path) as partial:
        Image.fromarray(taken[0]).save(partial, **how)
