"""Squares are cut out of pictures and pasted back in their place."""

import numpy as np
import pytest
import torch

from ppfer.video import scene


@pytest.mark.parametrize("left", [-40, -39, -10, 0, 15, 23, 24, 60])
@pytest.mark.parametrize("top", [-40, -1, 0, 17, 18])
def test_squares_partly_or_wholly_outside_are_cut_and_pasted_in_their_place(left, top):
    picture = np.random.default_rng(0).integers(0, 256, (18, 24, 3), np.uint8)
    patch = torch.from_numpy(scene.cut(picture, left, top, 40))
    assert patch.shape == (40, 40, 3)
    pasted = picture.copy()
    scene.paste(pasted, (left, top, 40), patch)
    np.testing.assert_array_equal(pasted, picture)
    scene.paste(pasted, (left, top, 40), 255 - patch)
    inner = np.s_[max(0, top + 3) : max(0, top + 37), max(0, left + 3) : max(0, left + 37)]
    np.testing.assert_array_equal(pasted[inner], 255 - picture[inner])
