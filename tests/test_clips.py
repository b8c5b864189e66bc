"""Clips for training: which frames, which part of a picture, and why there is none."""

import numpy as np
import torch.nn.functional as F
from conftest import pictures
from hypothesis import given
from hypothesis import strategies as st

from ppfer.video import decode_clip, read_video, sample_positions
from ppfer.video.writer import write_video


@given(st.integers(1, 300), st.integers(1, 64))
def test_sample_positions_are_segment_mid_points(count, frames):
    positions = sample_positions(count, frames)
    assert len(positions) == frames and positions == sorted(positions)
    assert all(abs(p + 0.5 - (i + 0.5) * count / frames) <= 0.5 for i, p in enumerate(positions))
    assert 0 <= positions[0] and positions[-1] < count


def test_shorter_clips_repeat_frames(tmp_path):
    path = write_video(tmp_path / "a.mp4", pictures(20, 3, 32, 32))
    every, _ = read_video(path)
    assert np.array_equal(decode_clip(path, frames=20, size=32), every)
    assert np.array_equal(decode_clip(path, frames=40, size=32), every.repeat_interleave(2, 0))


def test_centre_crop_and_area_resize(tmp_path):
    path = write_video(tmp_path / "a.mp4", pictures(4, 3, 32, 64))
    every = read_video(path)[0].float()
    mean = F.avg_pool2d(every[..., 16:48], 4)  # the middle square, 4 x 4 pixels to one
    assert np.abs(decode_clip(path, frames=4, size=8) - mean.numpy()).max() <= 1
    assert decode_clip(path, frames=4, size=50).shape == (4, 3, 50, 50)
