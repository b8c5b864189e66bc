"""Costs against closed forms, and the command as a user calls it."""

import pytest
import torch
from torch import nn

from ppfer.cli import main
from ppfer.config import load_config
from ppfer.method import PIPELINE
from ppfer.run.stage import stage
from ppfer.run.training import Training
from ppfer.study import cost
from ppfer.study.protectors.blur import blur_matrix
from ppfer.wavelets import BandSplit


class Linear(nn.Module):
    """One linear layer over the flattened frame: its cost is arithmetic."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 5, bias=False)

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.layer(pixels.flatten(1)).square().sum()


@stage("known", notebook="")
class Known(Training):
    """Trains that layer on single frames."""

    trains = "probe"

    def net(self) -> nn.Module:
        return Linear()

    def objective(self, net: nn.Module) -> nn.Module:
        return net


@pytest.mark.parametrize("batch", [4, 32])
def test_a_linear_layer_costs_what_it_must(batch):
    run = cost.Unmade(load_config("smoke", {"size": 8, "probe.batch": batch}))
    operations, memory, learn = cost.count(Known(run))
    product = 2 * batch * 192 * 5
    assert learn == 192 * 5
    # forward, and the gradient of the weights; the pixels need none
    assert operations == 2 * product
    # weights, gradient, two moments; pixels and the output before the square
    assert memory == 16 * learn + 4 * batch * (192 + 5)


def test_matrices_of_the_transform_stay_real():
    """Counting must not leave fake tensors in caches that others read."""
    config = load_config("smoke")
    cost.estimate(config)
    for shape in ((8, 3, 32, 32), (4, 3, 32, 32), (2, 3, 112, 112)):
        low, high = BandSplit().split(torch.rand(shape))
        assert type(low) is torch.Tensor
        assert torch.isfinite(low).all() and torch.isfinite(high).all()
    assert type(blur_matrix(32, 1.0)) is torch.Tensor


def test_every_stage_that_trains_has_a_row():
    config = load_config("smoke")
    rows, run = cost.estimate(config), cost.Unmade(config)
    trained = {name for name in PIPELINE if isinstance(run.stage(name), Training)}
    kinds = {name.partition("/")[0] for name in trained}
    assert {row["stage"].partition("/")[0] for row in rows} == kinds | {"recovery"}
    for row in rows:
        assert row["TFLOP per step"] >= 0 and row["memory, GiB"] >= 0 and row["minutes"] >= 0


def test_the_command(capsys):
    assert main(["cost", "--profile", "smoke"]) == 0
    said = capsys.readouterr().out
    assert "| compensation |" in said and "as measured on: NVIDIA" in said
