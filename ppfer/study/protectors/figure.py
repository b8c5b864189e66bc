"""The donor as a figure in a video: where he stands, and how he looks while nothing is done."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from ppfer.study.protectors.regressor import NUMBERS
from ppfer.twin.head import load_head

DONOR_FACE = (0.27, 0.23, 0.74, 0.88)  # a `Finder`'s box of the donor, shares of the picture
# The donor's face at rest looks cross: the corners of the mouth fall, the brows are low. In a video
# these actions are added, so that he is calm where nothing is done.
CALM = {"mouthSmile": 0.3, "browInnerUp": 0.4, "browOuterUp": -0.2}


def figure_square(box: np.ndarray) -> np.ndarray:
    """The square (4,) that a figure fills, for a face's box (4,) that the donor's is to equal."""
    left, top, right, bottom = box[:4]
    side = max(right - left, bottom - top) / (DONOR_FACE[3] - DONOR_FACE[1])
    x = (left + right) / 2 - (DONOR_FACE[0] + DONOR_FACE[2]) / 2 * side
    y = (top + bottom) / 2 - (DONOR_FACE[1] + DONOR_FACE[3]) / 2 * side
    return np.array([x, y, x + side, y + side], np.float32)


@functools.cache
def calm() -> Tensor:
    """What is added to the numbers of a figure, (55,), see `CALM`."""
    added = torch.zeros(NUMBERS)
    for row, name in enumerate(load_head(torch.device("cpu")).action):
        added[row] = CALM.get(name.removesuffix("Left").removesuffix("Right"), 0.0)
    return added
