"""What the band explorer looks at: test cards, and whoever's own picture or clip."""

import math
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ppfer import video
from ppfer.base.errors import PpferError, check
from ppfer.base.files import home
from ppfer.video.picture import photo_pixels

CARDS = ("edge", "stripes", "chirp")
SIDE = 128  # pixels of a card and of an own clip
LONGEST = 192  # pixels of an own picture: what can be split again within a tenth of a second


@lru_cache(maxsize=len(CARDS))
def card(name: str, frames: int) -> Tensor:
    """A test card that moves by a pixel a frame, (1, frames, 3, 128, 128) in [0, 1].

    "edge": one bright corner, so that a horizontal and a vertical edge meet. "stripes": four fields
    of one frequency and direction each. "chirp": rings from standstill in the middle to half a
    cycle per pixel at the nearest borders.
    """
    check("test card", name, CARDS)
    t = torch.arange(frames).view(-1, 1, 1)
    y, x = torch.arange(SIDE).view(1, -1, 1), torch.arange(SIDE).view(1, 1, -1)
    half = SIDE // 2
    if name == "edge":
        grey = 0.2 + 0.6 * ((x >= half - 7 + t) & (y >= half - 7 + t)).float()
    elif name == "stripes":
        left, upper = x < half, y < half
        cycles = torch.where(left, torch.where(upper, x / 4, (x + y) / 6), torch.where(upper, y, y))
        cycles = torch.where(left, cycles, torch.where(upper, y / 8, x / 16))
        grey = 0.5 + 0.4 * torch.cos(2 * math.pi * (cycles + t / 16))
    else:
        radius2 = (x - half) ** 2 + (y - half) ** 2
        grey = 0.5 + 0.45 * torch.cos(math.pi * radius2 / SIDE - 2 * math.pi * t / 16)
    return grey.float().clamp(0, 1)[None, :, None].expand(1, -1, 3, -1, -1)


def own(path: str | Path, frames: int) -> Tensor:
    """A picture, (1, 1, 3, H, W) and no side above 192 pixels, or a clip, a video or a folder of
    numbered pictures, (1, frames, 3, 128, 128) cut square, as a data set's are; in [0, 1]. A
    `PpferError` where there is no such file, or nothing in it can be decoded.
    """
    path = home(path)
    if not path.exists():
        raise PpferError(f"{path} does not exist; paths count from {Path.cwd()}")
    if path.is_dir() or video.is_video(path):
        clip = torch.from_numpy(video.decode_clip(path, frames, SIDE))  # (T, 3, S, S)
        return clip[None].float() / 255
    picture = Image.fromarray(photo_pixels(path))
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.BOX, reducing_gap=2)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None, None].float() / 255


def uploaded(name: str, content: bytes, frames: int) -> Tensor:
    """`own` of a file that came through the browser; nothing of it stays on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"upload{Path(name).suffix}"
        path.write_bytes(content)
        try:
            return own(path, frames)
        except PpferError as error:
            raise PpferError(str(error).replace(str(path), name).replace(path.name, name)) from None
