"""BandSplit against PyWavelets and ptwt on the same tensors: ``python tests/bench/bench_bands.py
[cpu|cuda]``.

Ours does more than the peers' forward and inverse: it also maps every sub-band into [0, 1] and back
and folds the details into the batch. Repetitions of all contestants alternate, so that whatever
else the machine does hits all of them; the medians are compared. Prints a table and writes the rows
to figures/bench/bands.json.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import common
import ptwt
import pywt
import torch

from ppfer.base.device import device_name
from ppfer.wavelets import BandSplit

REPEATS = 25
AXES = (-2, -1)


def medians(contestants: dict[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Milliseconds per call, the median of interleaved repetitions."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(REPEATS + 2):
        for name, call in contestants.items():
            begin = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repeat > 1:  # the first two warm up
                seconds[name].append(time.perf_counter() - begin)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def contestants(x: torch.Tensor, wavelet: str, train: bool) -> dict[str, Callable[[], object]]:
    """Forward and inverse on x (N, 3, H, W); with `train` also the gradient of it, which PyWavelets
    does not have.
    """
    bands, array, cotangent = BandSplit(wavelet), x.cpu().numpy(), torch.ones_like(x)

    def ours(frames: torch.Tensor) -> torch.Tensor:
        return bands.merge(*bands.split(frames))

    def theirs(frames: torch.Tensor) -> torch.Tensor:
        return ptwt.waverec2(ptwt.wavedec2(frames, wavelet, mode="symmetric", level=1), wavelet)

    def oracle() -> object:
        return pywt.idwt2(pywt.dwt2(array, wavelet, "symmetric", AXES), wavelet, "symmetric", AXES)

    if train:
        y = x.clone().requires_grad_()
        both = {"ours": ours, "ptwt": theirs}
        return {k: lambda f=f: torch.autograd.grad(f(y), y, cotangent) for k, f in both.items()}
    known = {"PyWavelets": oracle} if x.device.type == "cpu" else {}
    return {"ours": lambda: ours(x), "ptwt": lambda: theirs(x)} | known


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a plain copy of a large tensor reads and writes: the floor below every
    transform.
    """
    x = torch.rand(2**26 if device.type == "cuda" else 2**24, device=device)
    return 2 * x.nbytes / (medians({"copy": x.clone}, device)["copy"] / 1e3)


def run(device: str | torch.device = "cpu") -> list[dict]:
    """Rows of what, ours, peer (the faster one), peer_name, unit, ratio (peer / ours: above 1 ours
    is faster), device.

    "share_of_floor": the time to read the frames and write the bands, read those and write the
    frames (backward: twice) at the rate of a plain copy, over ours.
    """
    device, rows = torch.device(device), []
    rate, gpu = copy_rate(device), device.type == "cuda"
    for train in (False, True):
        for wavelet in ("haar", "db4"):
            for count, size in ((32, 112), (32, 224), *([(2048, 112)] if gpu else [])):
                g = torch.Generator().manual_seed(0)
                x = torch.rand(count, 3, size, size, generator=g).to(device)
                if gpu:
                    torch.cuda.reset_peak_memory_stats()
                times = medians(contestants(x, wavelet, train), device)
                ours, (peer, peer_name) = times.pop("ours"), min((v, k) for k, v in times.items())
                floor = 1e3 * 4 * x.nbytes * (2 if train else 1) / rate
                more = {"share_of_floor": round(floor / ours, 3)}
                if gpu:
                    more["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
                way = ", forward + backward" if train else ""
                what = f"split + merge{way}: {wavelet}, {count}×3×{size}×{size}"
                how = {"unit": "ms", "device": device_name(device), "smaller": True}
                rows.append(common.row(what, ours, peer, peer_name, **how, **more))
                common.keep(rows, "bands")
    return rows


if __name__ == "__main__":
    run(common.pick_device(sys.argv))
