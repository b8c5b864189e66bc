"""Photos in and out: upright, without what a camera writes into them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from ppfer.base.errors import PpferError
from ppfer.base.files import atomic

PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
QUALITY = 95  # of a JPEG


def is_photo(path: str | Path) -> bool:
    """Whether a name is a photo's: by its suffix, and not hidden."""
    path = Path(path)
    return path.suffix.lower() in PHOTOS and not path.name.startswith(".")


def written_as(path: Path) -> str:
    """The suffix of a photo's result: its own of a JPEG or PNG, .png of all others."""
    return path.suffix if path.suffix.lower() in PHOTOS[:3] else ".png"


def read_photo(path: Path) -> np.ndarray:
    """A photo as it is shown, (H, W, 3) uint8.

    Raises:
        PpferError: it cannot be decoded.
    """
    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I"):  # 16 bits: `convert` would cut them off at 255
                high = np.asarray(upright) >> 8
                upright = Image.fromarray(high.clip(0, 255).astype(np.uint8))
            return np.array(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PpferError(f"{path} cannot be decoded: it is damaged or no picture") from error


def write_photo(path: Path, pixels: np.ndarray, comment: str) -> None:
    """Write (H, W, 3) uint8, whole or not at all, with nothing beside it but a comment.

    Raises:
        PpferError: the file cannot be written.
    """
    said = PngImagePlugin.PngInfo()
    said.add_text("comment", comment)
    png = path.suffix.lower() == ".png"
    how = {"pnginfo": said} if png else {"comment": comment, "quality": QUALITY}
    try:
        with atomic(path) as partial:
            Image.fromarray(pixels).save(partial, "PNG" if png else "JPEG", **how)
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
