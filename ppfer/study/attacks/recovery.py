"""Can an attacker undo it? One recovery U-Net per protector, SSIM, PSNR and PLR of what comes back:
Table 3 (paper §4.5).
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import nets
from ppfer.measure import Rate, as_rate, leakage
from ppfer.method.networks import Objective, OnProtected, leak
from ppfer.protect import NamedApply
from ppfer.run.clips import by_clip
from ppfer.run.run import Run
from ppfer.run.stage import Protector, stage
from ppfer.study import tables

# the other schedule, what goes beyond the paper, and the limit, where all are asked for
MORE = ("ppfer_long", "live", "reenactment", "donor")
FRAMES = 4  # frames of each test clip that SSIM, PSNR and PLR are measured on, evenly spaced


class Recovery(nn.Module):
    """The attacker: the paper's full-scale U-Net, which here says what to add to protected frames
    (N, 3, H, W) in [0, 1], not clamped.

    Its last layer starts at zero, so the attack starts from handing the protected frame over and
    can only learn from there. A U-Net that must first learn to copy needs many more steps for the
    same strength, and a weak attack flatters protectors.
    """

    def __init__(self, width: int):
        super().__init__()
        self.net = nets.RecoveryUNet(width=width)
        nn.init.zeros_(self.net.head.weight)
        nn.init.zeros_(self.net.head.bias)

    def forward(self, protected: Tensor) -> Tensor:
        return protected + self.net(protected)


def quality(recovered: Tensor, original: Tensor) -> dict[str, float]:
    """How close recovered frames (N, 3, H, W) in [0, 1] are to the originals: "ssim" and "psnr",
    means over frames.

    SSIM with an 11×11 Gaussian window of σ 1.5, reflected at the borders; PSNR in dB, averaged per
    frame; data range 1. An exact copy has an infinite PSNR, so each frame counts at most 100 dB.
    """
    # only here: it takes 100 MB and seconds, which who protects a video does not wait for
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    ssim = structural_similarity_index_measure(
        recovered, original, gaussian_kernel=True, sigma=1.5, kernel_size=11, data_range=1.0
    )
    psnr = peak_signal_noise_ratio(
        recovered, original, data_range=1.0, dim=(1, 2, 3), reduction="none"
    )
    return {"ssim": float(ssim), "psnr": float(psnr.clamp(max=100).mean())}


def some_frames(clips: Tensor, index: np.ndarray, count: int = FRAMES) -> Tensor:
    """`count` evenly spaced frames of the chosen clips, or all there are: (n, count, 3, H, W)."""
    length, count = clips.shape[1], min(count, clips.shape[1])
    places = [int(length * (i + 0.5) / count) for i in range(count)]
    return clips[torch.as_tensor(index)][:, places]


@torch.inference_mode()
def undo(net: Callable[[Tensor], Tensor], protected: Tensor, device: torch.device) -> Tensor:
    """An attacker's guess at the originals: (n, t, 3, H, W) uint8 → the same, on the CPU."""
    parts = [
        net(part.to(device).float() / 255).float().clamp(0, 1).mul(255).round().byte().cpu()
        for part in protected.flatten(0, 1).split(64)  # frames (64, 3, H, W)
    ]
    return torch.cat(parts).view(protected.shape)


def assess(run: Run, recovered: Tensor, index: np.ndarray) -> dict:
    """Quality and leakage of recovered frames (n, t, 3, H, W) uint8 of the chosen clips: the cells
    of Table 3.

    PLR is the frozen V_pl's, as in the paper: "plr" on one random of the t frames, "plr_all_frames"
    on all.
    """
    truth = some_frames(run.tensor("clips"), index, recovered.shape[1])
    scores, sizes = [], []
    for pair in zip(recovered.split(64), truth.split(64), strict=True):
        scores.append(quality(*(x.flatten(0, 1).to(run.device).float() / 255 for x in pair)))
        sizes.append(len(pair[0]))
    cells = {k: float(np.average([s[k] for s in scores], weights=sizes)) for k in ("ssim", "psnr")}
    named, actors = run.logits("identity", recovered), run.labels("actor")[index]
    rates = leakage(named, actors, seed=run.config.seed)
    return cells | {"plr": rates["random_frame"], "plr_all_frames": rates["all_frames"]}


@stage(
    "recovery/{protector}", needs=("identity",), settings=("nets.recovery_width",), notebook="09"
)
class RecoveryAttack(OnProtected):
    """The white-box attacker's U-Net: trained on a protector's clips beside the originals."""

    best = (("val_l1", min),)

    def net(self) -> nn.Module:
        return Recovery(self.config.nets.recovery_width)

    def objective(self, net: nn.Module) -> nn.Module:
        return Objective(net, F.l1_loss)  # between the guess and the original frame

    def batches(self) -> Callable:
        return self.pairs()

    @torch.inference_mode()
    def measure(self, net: nn.Module) -> dict[str, float]:
        run = self.run
        protected, wanted = (
            some_frames(run.tensor(store), run.parts["val"], 2) for store in (self.store, "clips")
        )
        recovered = undo(net, protected, run.device)
        return {"val_l1": float((recovered.float() - wanted.cpu().float()).abs().mean() / 255)}

    def report(self, net: nn.Module) -> dict:
        run, index = self.run, self.run.parts["test"]
        recovered = undo(net, some_frames(run.tensor(self.store), index), run.device)
        cells = assess(run, recovered, index)
        return {"test": {k: v.to_dict() if isinstance(v, Rate) else v for k, v in cells.items()}}


def mean_image(run: Run) -> Tensor:
    """The mean training frame (3, H, W) in [0, 1]: the guess of who never looks at a clip."""
    clips, index = run.tensor("clips"), run.parts["train"]
    total = sum(clips[part].float().sum((0, 1)) for part in torch.as_tensor(index).split(64))
    return total.cpu() / (255 * len(index) * clips.shape[1])


def recovery_cells(run: Run, name: str) -> dict:
    """What a protector's finished recovery attack brought back of the test clips: see `assess`."""
    test = run.summary(f"recovery/{name}")["test"]
    return {key: as_rate(cell) or cell for key, cell in test.items()}


def table3(run: Run, names: Sequence[str] | None = None) -> list[dict]:
    """Table 3: one recovery U-Net per approach, and two controls; makes what is missing.

    "none" is the control that was never protected; the mean training image is what is known without
    any clip.
    """
    names, index = tables.approaches(run, MORE) if names is None else names, run.parts["test"]
    rows = tables.rows_of(run, names, ("recovery",), functools.partial(table3_row, run))
    guess = mean_image(run).mul(255).round().byte().expand(len(index), FRAMES, -1, -1, -1)
    control = {"approach": "Mean training image (control)"}
    control |= {"what_ran": "one picture for every frame"}
    return [*rows, control | assess(run, guess, index)]


def table3_row(run: Run, name: str) -> dict:
    """A row of Table 3, of a recovery network that is made."""
    protector = run.protector(name)
    title = protector.title + (" (control)" if name == "none" else "")
    return {"approach": title, "what_ran": protector.description(run)} | recovery_cells(run, name)


def guesses(run: Run, name: str) -> NamedApply:
    """Clips and their names → what a protector's recovery attack makes of them."""
    net, protected = run.get(f"recovery/{name}"), by_clip(run, run.tensor(f"protected/{name}"))

    def guess(clips: Tensor, names: Sequence[str]) -> Tensor:
        frames = torch.stack([protected[n] for n in names]).to(clips.device).float() / 255
        return net(frames.flatten(0, 1)).clamp(0, 1).view(clips.shape)

    return guess


def recovered(name: str) -> Protector:
    """A protector's clips as its recovery attack gives them back, for others to be trained on."""
    return Protector(
        f"recovered_{name}",
        f"recovered from {name}",
        functools.partial(guesses, name=name),
        "clips that a recovery U-Net made of protected ones",
        needs=(f"protected/{name}", f"recovery/{name}"),
        notebook="09",
        named=True,
    )


PROTECTORS = tuple(recovered(name) for name in tables.WHOLE_BEYOND)


def undone_row(run: Run, name: str) -> dict:
    """What a protector's recovery attack brought back, and, where all approaches are asked for,
    under ``plr_retrained`` whom a validator names that is trained on recovered clips.
    """
    back, attack = run.summary(f"recovery/{name}")["test"], f"attack/recovered_{name}"
    if not tables.all_asked(run):
        return back
    run.ensure(attack)
    named = leak(run, attack, f"protected/recovered_{name}", "test")["random_frame"]
    return back | {"plr_retrained": named.to_dict()}


def beyond_table(run: Run, names: Sequence[str] | None = None) -> list[dict]:
    """What survives an attacker who learns: `ppfer.study.tables.whole_row` of the rows in
    `ppfer.study.tables.beyond`, each with `undone_row`; without those that cannot run here.
    """
    return [
        tables.whole_row(run, name)
        | {"recovery": undone_row(run, name), "seeds": [run.config.seed]}
        for name in tables.prepare(
            run, tables.beyond(run) if names is None else names, ("recovery",)
        )
    ]
