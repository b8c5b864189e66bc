"""BandSplit against PyWavelets and ptwt on the same tensors: ``python tests/bench/bench_bands.py [cpu|cuda]``.

Ours does more than the peers' forward and inverse: it also maps every sub-band into [0, 1] and back and folds the
details into the batch. Repetitions of all contestants alternate, so that whatever else the machine does hits all of
them; the medians are compared. Prints a table and writes the rows to figures/bench/bands.json.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin while they wait stall each
# other as soon as another process wants a core, and then a benchmark measures that

import ptwt
import pywt
import torch

from ppfer.run import device_name
from ppfer.wavelets import BandSplit

OUT = Path(__file__).resolve().parents[2] / "figures" / "bench" / "bands.json"
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
    """Forward and inverse on x (N, 3, H, W); with `train` also the gradient of it, which PyWavelets does not have."""
    bands, array, cotangent = BandSplit(wavelet), x.cpu().numpy(), torch.ones_like(x)

    def ours(frames: torch.Tensor) -> torch.Tensor:
        return bands.merge(*bands.split(frames))

    def theirs(frames: torch.Tensor) -> torch.Tensor:
        return ptwt.waverec2(ptwt.wavedec2(frames, wavelet, mode="symmetric", level=1), wavelet)

    def oracle() -> object:
        return pywt.idwt2(pywt.dwt2(array, wavelet, "symmetric", AXES), wavelet, "symmetric", AXES)

    if train:
        y = x.clone().requires_grad_()
        return {
            name: lambda f=f: torch.autograd.grad(f(y), y, cotangent) for name, f in (("ours", ours), ("ptwt", theirs))
        }
    return {"ours": lambda: ours(x), "ptwt": lambda: theirs(x)} | (
        {"PyWavelets": oracle} if x.device.type == "cpu" else {}
    )


def run(device: str | torch.device = "cpu") -> list[dict]:
    """Rows of what, ours, peer (the faster one), peer_name, unit, ratio (peer / ours: above 1 ours is faster), device."""
    device, rows = torch.device(device), []
    for train in (False, True):
        for wavelet in ("haar", "db4"):
            for size in (112, 224):
                x = torch.rand(32, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
                times = medians(contestants(x, wavelet, train), device)
                ours, (peer, peer_name) = times.pop("ours"), min((v, k) for k, v in times.items())
                rows.append({
                    "what": f"split + merge{', forward + backward' if train else ''}: {wavelet}, 32×3×{size}×{size}",
                    "ours": round(ours, 3), "peer": round(peer, 3), "peer_name": peer_name, "unit": "ms",
                    "ratio": round(peer / ours, 2), "device": device_name(device),
                })  # fmt: skip
                r = rows[-1]
                print(
                    f"{r['what']:58} {r['ours']:9.2f} ms  {peer_name:>10} {r['peer']:9.2f} ms  {r['ratio']:5.2f}× as fast"
                )
    return rows


if __name__ == "__main__":
    torch.set_num_threads(min(2, torch.get_num_threads()))
    rows = run(sys.argv[1] if len(sys.argv) > 1 else "cuda" if torch.cuda.is_available() else "cpu")
    kept = [r for r in json.loads(OUT.read_text()) if r["device"] != rows[0]["device"]] if OUT.exists() else []
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(kept + rows, indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {OUT.relative_to(Path.cwd()) if OUT.is_relative_to(Path.cwd()) else OUT}")
