"""How videos are protected."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ppfer.base.errors import PpferError
from ppfer.base.files import digest
from ppfer.video.faces import SURE


@dataclass(frozen=True)
class ProtectOptions:
    """How videos are protected.

    Attributes:
        size: side of the squares that the protector was trained at, pixels.
        frame: "face": each head is protected and pasted back into the full picture. "whole": the
            picture's centre square is protected and is the result, `size` pixels wide.
        outside: with "face", what becomes of the rest: "blur", "black" or "keep".
        start, end: seconds; None is the beginning or the end.
        quality, exact: see `ppfer.video.writer.Writer`, crf and exact.
        preview: the original to the left of the protected picture, written as ``name.preview.mp4``.
        overwrite: replace older results.
        chunk: frames the protector sees at once; batch: clips per pass.
        precision: see `ppfer.base.device.autocast`.
        report: write beside each result, as ``.json``, where faces were (`FaceLog.write`).
        mask_scale: with "face", size of what is hidden of each head in sizes of the square that
            holds it with hair, ears and chin.
        threshold: least score in (0, 1) of a face that is surely one.
        protector: what tells this protector from others, such as a digest of its weights; a result
            made with another one is not taken for this one's.
    """

    size: int
    device: torch.device
    frame: str = "face"
    outside: str = "blur"
    start: float | None = None
    end: float | None = None
    quality: int = 18
    exact: bool = False
    preview: bool = False
    keep_audio: bool = False
    overwrite: bool = False
    chunk: int = 16
    batch: int = 4
    precision: str = "auto"
    report: bool = False
    mask_scale: float = 1.0
    threshold: float = SURE
    protector: str = ""

    def __post_init__(self) -> None:
        if self.frame not in ("face", "whole"):
            raise PpferError(f"frame is face or whole, not '{self.frame}'")
        if self.outside not in ("blur", "black", "keep"):
            raise PpferError(f"outside is blur, black or keep, not '{self.outside}'")
        start, end = self.start or 0, math.inf if self.end is None else self.end
        if not 0 <= start < end:
            raise PpferError(f"there is nothing from second {start:g} to second {end:g}")
        if not 0.5 <= self.mask_scale <= 4:
            raise PpferError(f"a mask's scale is from 0.5 to 4, not {self.mask_scale:g}")
        if not 0 < self.threshold < 1:
            raise PpferError(f"a threshold is between 0 and 1, not {self.threshold:g}")
        if not 0 <= self.quality <= 51:
            raise PpferError(f"quality is from 0 (best) to 51 (smallest), not {self.quality}")

    def settings(self) -> str:
        """A short digest of all that changes a result."""
        aside = ("device", "overwrite", "batch", "report")
        return digest({key: value for key, value in vars(self).items() if key not in aside})
