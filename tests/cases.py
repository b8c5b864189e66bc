"""What becomes of files people really have when they are protected."""

from __future__ import annotations

from pathlib import Path

import torch

from ppfer.protect import no_privacy
from ppfer.video.heads import ProtectOptions
from ppfer.video.protect_files import Outcome, protect_files

CPU = torch.device("cpu")


def outcomes(source: Path, out: Path) -> list[Outcome]:
    """`ppfer protect` with the protector that changes nothing: only reading and writing show."""
    how = ProtectOptions(size=64, device=CPU, frame="whole")
    return protect_files(no_privacy, source, out, how)
