"""Photos in and out: upright, without what a camera writes into them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from ppfer.base.errors import PpferError
from ppfer.base.files import atomic
from ppfer.video.clips import PICTURES

KIND = {".png": "PNG"}  # what is no PNG is a JPEG
QUALITY = 95  # of a JPEG


def is_photo(path: str | Path) -> bool:
    """Whether a name is a photo's: by its suffix, and not hidden."""
    path = Path(path)
    return path.suffix.lower() in PICTURES and not path.name.startswith(".")


def read_photo(path: Path) -> np.ndarray:
    """A photo as it is shown, (H, W, 3) uint8.

    Raises:
        PpferError: it cannot be decoded.
    """
    try:
        with Image.open(path) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PpferError(f"{path} cannot be decoded: it is damaged or no picture") from error


def write_photo(path: Path, pixels: np.ndarray, comment: str) -> None:
    """Write (H, W, 3) uint8, whole or not at all, with nothing beside it but a comment.

    Raises:
        PpferError: the file cannot be written.
    """
    kind = KIND.get(path.suffix.lower(), "JPEG")
    said = PngImagePlugin.PngInfo()
    said.add_text("comment", comment)
    how = {"pnginfo": said} if kind == "PNG" else {"comment": comment, "quality": QUALITY}
    try:
        with atomic(path) as partial:
            Image.fromarray(pixels).save(partial, kind, **how)
    except OSError as error:
        raise PpferError(f"{path} could not be written: {error.strerror or error}") from error


def photo_comment(path: Path) -> str:
    """The comment in a photo; "" where there is none."""
    try:
        with Image.open(path) as picture:
            said = picture.info.get("comment", "")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)
