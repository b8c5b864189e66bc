"""Costs against closed forms, and the command as a user calls it."""

import pytest
import torch
from torch import nn

from ppfer import cost
from ppfer.cli import main
from ppfer.config import load_config
from ppfer.protect import blur_matrix
from ppfer.wavelets import BandSplit


class Known(nn.Module):
    """One linear layer over the flattened frame: its cost is arithmetic."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 5, bias=False)

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.layer(pixels.flatten(1)).square().sum()


@pytest.mark.parametrize("batch", [4, 32])
def test_a_linear_layer_costs_what_it_must(batch):
    operations, memory, learn = cost.count(Known, BandSplit(), batch, (3, 8, 8))
    product = 2 * batch * 192 * 5
    assert learn == 192 * 5
    assert operations == 2 * product  # forward, and the gradient of the weights; the pixels need none
    assert memory == 16 * learn + 4 * batch * (192 + 5)  # weights, gradient, two moments; pixels and the output before the square


def test_matrices_of_the_transform_stay_real():
    """Counting must not leave fake tensors in caches that others read."""
    config = load_config("smoke")
    cost.estimate(config)
    for shape in ((8, 3, 32, 32), (4, 3, 32, 32), (2, 3, 112, 112)):
        low, high = BandSplit().split(torch.rand(shape))
        assert type(low) is torch.Tensor and torch.isfinite(low).all() and torch.isfinite(high).all()
    assert type(blur_matrix(32, 1.0)) is torch.Tensor


def test_every_stage_has_a_row():
    rows = {row["stage"]: row for row in cost.estimate(load_config("smoke"))}
    assert set(rows) == set(cost.objectives(load_config("smoke")))
    assert all(row["TFLOP per step"] >= 0 and row["memory, GiB"] >= 0 and row["minutes"] >= 0 for row in rows.values())


def test_the_command(capsys):
    assert main(["cost", "--profile", "smoke"]) == 0
    said = capsys.readouterr().out
    assert "| compensation |" in said and "as measured on: NVIDIA" in said
