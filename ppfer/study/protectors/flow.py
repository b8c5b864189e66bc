"""Optical flow as a protector (paper §4.3): RAFT where its weights can be had, else a classical
method, on a colour wheel.
"""

import importlib.util
import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.optical_flow import Raft_Large_Weights, raft_large
from torchvision.utils import flow_to_image

from ppfer.base.errors import PpferError
from ppfer.base.weights import fetch, load_weights
from ppfer.nets import freeze
from ppfer.run.run import Run
from ppfer.run.stage import Protector

# RAFT correlates at an eighth of the size, four levels deep; smaller frames are enlarged for it
RAFT_SIDE = 128


def classical_flow(clip: Tensor) -> Tensor:
    """Dense inverse search (Kroeger et al. 2016) through OpenCV: of a clip (T, 3, H, W) in [0, 1]
    the pixels moved to the right and down, (T − 1, 2, H, W).
    """
    import cv2

    cv2.setNumThreads(1)  # whole clips are spread over threads: OpenCV's own would be in their way
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    pixels = clip.mul(255).round().byte().cpu().permute(0, 2, 3, 1).numpy()
    grey = (pixels @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
    flows = [estimator.calc(a, b, None) for a, b in itertools.pairwise(grey)]  # (H, W, 2) each
    return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).to(clip.device)


def raft(weights: str) -> nn.Module:
    """torchvision's RAFT (large), frozen, with its published weights: "DEFAULT" lets torchvision
    fetch them, else the path of its raft_large file. A `PpferError` says what to fetch.
    """
    net = raft_large(weights=None)
    if weights == "DEFAULT":
        weights = fetch(Raft_Large_Weights.DEFAULT, "flow_weights")
    return freeze(load_weights(net, weights))


@torch.no_grad()  # in whichever thread
def raft_flow(net: nn.Module, clip: Tensor) -> Tensor:
    """RAFT's last estimate; arguments and result as `classical_flow`."""
    size = clip.shape[-2:]
    side = [max(RAFT_SIDE, 8 * math.ceil(n / 8)) for n in size]
    frames = F.interpolate(clip, side, mode="bilinear") * 2 - 1  # RAFT takes [−1, 1]
    flow = F.interpolate(net(frames[:-1], frames[1:])[-1], size, mode="bilinear")
    return flow * flow.new_tensor([size[1] / side[1], size[0] / side[0]]).view(2, 1, 1)


class OpticalFlow(nn.Module):
    """Clips (B, T, 3, H, W) as pictures in [0, 1] of their motion on the usual colour wheel: hue is
    direction, saturation is speed relative to the fastest pixel of the clip.

    The `estimate` gives a clip's T − 1 flows (T − 1, 2, H, W); the last is shown twice. Several
    `workers` are for one that computes on the CPU and does not hold Python's lock.
    """

    def __init__(self, estimate: Callable[[Tensor], Tensor], workers: int = 1):
        super().__init__()
        self.estimate, self.workers = estimate, workers

    def forward(self, clips: Tensor) -> Tensor:
        if clips.shape[1] < 2:
            raise PpferError("optical flow needs clips of at least two frames")
        with ThreadPoolExecutor(self.workers) as pool:
            flows = list(pool.map(self.estimate, clips))
        # uint8 (T − 1, 3, H, W), scaled within each clip
        wheels = map(flow_to_image, flows)
        return torch.stack([torch.cat([w, w[-1:]]) for w in wheels]).float() / 255


def build_flow(run: Run) -> OpticalFlow:
    """RAFT where the config names its weights, else the classical method."""
    if not run.config.flow_weights:
        return OpticalFlow(classical_flow, workers=os.cpu_count() or 1)
    net = raft(run.config.flow_weights).to(run.device)
    return OpticalFlow(lambda clip: raft_flow(net, clip))


def flow_missing(run: Run) -> str:
    """What optical flow cannot do without."""
    there = run.config.flow_weights or importlib.util.find_spec("cv2")
    how = "install the extra: pip install -e '.[flow]', or give flow_weights=PATH for RAFT"
    return "" if there else f"optical flow needs OpenCV; {how}"


def flow_what(run: Run) -> str:
    """Which method ran."""
    learned, usual = "RAFT (large), torchvision's weights", "dense inverse search (OpenCV)"
    return f"{learned if run.config.flow_weights else usual} instead of VideoFlow, colour wheel"


PROTECTOR = Protector(
    "flow",
    "Optical flow",
    build_flow,
    flow_what,
    needs=("clips",),
    settings=("flow_weights",),
    missing=flow_missing,
)
