"""What moves in a face? A small network that reads 52 facial actions and the pose off a frame.

It learns from synthetic strangers alone (`crowd`), so it works on anybody and belongs to no data
set. What it gets wrong about a person in every frame alike still tells who that is: the loss
punishes that part of the error, and the network keeps how large it is (`Regressor.spread`).
Stage: regressor. `data/regressor.md` is the model card of the shipped weights.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import nets
from ppfer.base.device import autocast, send
from ppfer.base.progress import Progress
from ppfer.base.weights import save_weights, shipped_weights
from ppfer.config import Config
from ppfer.run.names import data_path
from ppfer.run.stage import stage
from ppfer.run.training import Training
from ppfer.twin.camera import PLATE, record
from ppfer.twin.head import load_head
from ppfer.twin.synthetic_people import FIRST, FRAMES, HELD_OUT, Crowd, crowd

SIDE = 112  # pixels at which the network looks
NUMBERS = 55  # 52 actions, yaw, pitch, roll
BLOCKS = (2, 2, 3, 1)  # of its four levels: 1.9 M parameters
GROUP = 8  # frames of one person in a batch
FAR = 3.0  # deviations up to which an error counts by its square
BIAS = 0.3  # weight of what is wrong about a person in all frames alike
# How much more an error of the pose weighs. Heads of the crowd turn far more widely than heads of
# people who speak, so that what is a tenth of its spread there is half of a nod here.
POSE = 10.0
DICE = 27  # random numbers a frame: one to mirror it, those of `degraded`
VARIED = 30  # actions that R² is taken over: those that move most


class Regressor(nn.Module):
    """Frames (N, 3, h, w) in [0, 1] of any size to numbers (N, 55), as `crowd.Crowd` has them, by
    the mean and std of those it was trained on. `spread` (55,) is how far its error of a person
    differs from person to person, the deviation of a person's mean error over people it has not
    seen: it is what leaks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = nets.Classifier("resnet_small", NUMBERS, SIDE, width=32, blocks=BLOCKS)
        for name, value in (("mean", 0.0), ("std", 1.0), ("spread", 0.0)):
            self.register_buffer(name, torch.full((NUMBERS,), value))

    def forward(self, frames: Tensor) -> Tensor:
        """Numbers (N, 55)."""
        return self.net(frames).float() * self.std + self.mean


class RegressionObjective(nn.Module):
    """Smooth L1 on standardised numbers, and the square of what is wrong about a person throughout;
    of frames (P·GROUP, 3, H, W) of P people in turn, and their numbers.

    The first is quadratic up to `FAR`: most actions are absent from most frames, and what cares for
    the size of an error alone would say so of every frame. The second is what a linear attacker
    could learn of the errors: nothing is left for him where it is zero.
    """

    captures = True  # see `train.fit`

    def __init__(self, net: Regressor):
        super().__init__()
        self.net = net

    def forward(self, frames: Tensor, numbers: Tensor) -> Tensor:
        wrong = (self.net(frames) - numbers) / self.net.std
        wrong = torch.cat([wrong[:, :-3], POSE * wrong[:, -3:]], 1)
        each = F.huber_loss(wrong, torch.zeros_like(wrong), delta=FAR)
        return each + BIAS * common_error(wrong).mean()


def common_error(wrong: Tensor) -> Tensor:
    """Squares (P, 55) of each person's mean error, without what chance adds to them.

    Of two frames of a person, the product of their errors has just this expectation: the mean over
    all pairs is (|Σ e|² − Σ |e|²) / (n (n − 1)).
    """
    each = wrong.unflatten(0, (-1, GROUP))  # (P, GROUP, 55)
    return (each.sum(1).square() - each.square().sum(1)) / (GROUP * (GROUP - 1))


# --- what it looks at -----------------------------------------------------------


class CrowdBatches:
    """Batches of a crowd as cameras and face finders give them, a pure function of (seed, step):
    frames (P·GROUP, 3, SIDE, SIDE) in [0, 1], so many as `batch`, and their numbers.
    """

    def __init__(self, crowd: Crowd, batch: int, seed: int):
        self.crowd, self.people, self.seed = crowd, max(2, batch // GROUP), seed

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % 2**63)
        faces = torch.randint(len(self.crowd.frames), (self.people,), generator=g)
        return self.of(faces, g)

    def of(self, faces: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """`GROUP` frames each of these faces (P,), made different by the generator."""
        device, count = self.crowd.frames.device, len(faces) * GROUP
        which = torch.rand(len(faces), FRAMES, generator=g).argsort(1)[:, :GROUP]
        face, which = send(faces.repeat_interleave(GROUP), device), send(which.flatten(), device)
        dice = send(torch.rand(count, DICE, generator=g), device)
        frames = self.crowd.frames[face, which].float().div_(255)
        numbers = self.crowd.numbers[face, which]
        flip = (dice[::GROUP, 0] < 0.5).repeat_interleave(GROUP)  # a mirrored person is another
        frames = torch.where(flip[:, None, None, None], frames.flip(-1), frames)
        numbers = torch.where(flip[:, None], mirrored(numbers), numbers)
        return degraded(frames, dice[:, 1:]), numbers


def mirrored(numbers: Tensor) -> Tensor:
    """The numbers (N, 55) of mirrored frames: sides are exchanged, yaw and roll turn round."""
    order, sign = _mirror(numbers.device)
    return numbers[:, order] * sign


@functools.cache
def _mirror(device: torch.device) -> tuple[Tensor, Tensor]:
    action = load_head(torch.device("cpu")).action
    order = list(action.values())
    for name, i in action.items():
        if name.endswith("Left"):
            j = action[name.removesuffix("Left") + "Right"]
            order[i], order[j] = j, i
    sign = torch.ones(NUMBERS, device=device)
    sign[[NUMBERS - 3, NUMBERS - 1]] = -1
    return torch.tensor([*order, *range(NUMBERS - 3, NUMBERS)], device=device), sign


def degraded(frames: Tensor, dice: Tensor) -> Tensor:
    """Frames (N, 3, h, w) in [0, 1] as they come out of bad cameras and uncertain face finders,
    (N, 3, SIDE, SIDE): cut out and scaled, half hidden, grey or tinted, of low resolution, blurred,
    noisy, compressed. All that is random is in `dice`, (N, 26) in [0, 1).
    """
    crop, hide, tint, rest = dice.split((3, 10, 6, 7), 1)
    scale, shift = 0.85 + 0.3 * crop[:, 0], 0.3 * (crop[:, 1:] - 0.5)
    frames = _hidden(cut_out(frames, scale[:, None].expand(-1, 2), shift), hide)
    grey = frames.mean(1, keepdim=True).expand_as(frames)
    frames = torch.where(_wide(tint[:, 0] < 0.2), grey, frames)
    gain = (0.6 + 0.8 * tint[:, 1:2]) * (0.75 + 0.5 * tint[:, 2:5])  # light, colour
    frames = (frames * gain[:, :, None, None]).clamp(0, 1) ** _wide(0.7 + 0.7 * tint[:, 5])
    for k, (share, side) in enumerate(((0.12, 56), (0.05, 36))):
        coarse = nets.resize(nets.resize(frames, side), SIDE)
        frames = torch.where(_wide(rest[:, k] < share), coarse, frames)
    one, (focus, noise, step) = torch.ones_like(scale), rest[:, 2:5].square().T
    shots = torch.stack([one, 0 * one, 0.01 * focus, 0.04 * noise, 0.08 * step], 1)
    shots = torch.cat([shots, PLATE * rest[:, 5:]], 1)  # (N, 7) as `camera.shot` gives them
    return record(frames[:, None], shots[:, None])[:, 0]


def cut_out(frames: Tensor, size: Tensor, centre: Tensor) -> Tensor:
    """Rectangles of frames (N, 3, h, w), (N, 3, SIDE, SIDE): of width and height (N, 2), in shares
    of a frame's, round a centre (N, 2), −1 to 1 from edge to edge.
    """
    theta = torch.cat([torch.diag_embed(size), centre[..., None]], 2)  # (N, 2, 3)
    grid = F.affine_grid(theta, [len(frames), 3, SIDE, SIDE], align_corners=False)
    return F.grid_sample(frames, grid, padding_mode="border", align_corners=False)


def _wide(x: Tensor) -> Tensor:
    return x[:, None, None, None]


def _hidden(frames: Tensor, dice: Tensor) -> Tensor:
    """Frames of which one in seven is partly behind a hand or a bar of some colour."""
    n, _, height, width = frames.shape
    ends = dice[:, :4].view(n, 2, 2) * 2 - 1  # x and y of a limb's two ends
    y, x = (torch.linspace(-1, 1, k, device=frames.device) for k in (height, width))
    at = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1)  # (H, W, 2)
    along, start = (ends[:, 1] - ends[:, 0])[:, None, None], ends[:, :1, None]  # (n, 1, 1, 2)
    off = at - start
    share = ((off * along).sum(-1) / along.square().sum(-1).clamp(min=1e-3)).clamp(0, 1)
    far = (off - share[..., None] * along).norm(dim=-1)  # (n, H, W)
    thick = 0.05 + 0.2 * dice[:, 4]
    over = (far < thick[:, None, None]) & (dice[:, 5] < 0.15)[:, None, None]
    colour = (dice[:, 6:9] * (0.3 + 0.7 * dice[:, 9:]))[:, :, None, None]
    return torch.where(over[:, None], colour, frames)


# --- the stage --------------------------------------------------------------------


class Shipped(Training):
    """A network that the repository ships: trained here where ``<stage>_weights`` names none."""

    @property
    def given(self) -> str:
        """The file of weights; "" where it is trained."""
        return getattr(self.config, f"{self.kind}_weights")

    def settings(self) -> dict:
        if not self.given:
            return super().settings()
        path = data_path(self.given)  # which may not be there: an error where it is needed
        return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""}

    def make(self, folder: Path) -> dict:
        if not self.given:
            return super().make(folder)
        save_weights(shipped(self.net(), self.config, self.kind), folder / "weights.safetensors")
        return {"loaded": self.given}


def shipped(net: nn.Module, config: Config, what: str = "regressor") -> nn.Module:
    """The regressor, or another network, with the weights that a config names; a `PpferError` when
    they are not there or do not fit.
    """
    return shipped_weights(net, data_path(getattr(config, f"{what}_weights")), what)


@stage("regressor", settings=("regressor_weights", "regressor_people"), notebook="11", version=2)
class Regression(Shipped):
    """The regressor."""

    best = (("val_actions", max),)

    def net(self) -> Regressor:
        return Regressor()

    def start(self) -> Regressor:
        numbers, net = self.crowd.numbers.flatten(0, 1), self.net()
        net.mean.copy_(numbers.mean(0))
        net.std.copy_(numbers.std(0).clamp(min=0.02))
        return net

    @functools.cached_property
    def crowd(self) -> Crowd:
        """Whom it learns from."""
        people = self.config.regressor_people
        progress = Progress("drawing people", people, "people")
        return crowd(people, self.run.device, FIRST, progress.update)

    @functools.cached_property
    def strangers(self) -> Crowd:
        """Whom it is measured on."""
        return crowd(max(1, self.config.regressor_people // 16), self.run.device, HELD_OUT)

    def objective(self, net: Regressor) -> nn.Module:
        return RegressionObjective(net)

    def batches(self) -> Callable[[int], tuple]:
        return CrowdBatches(self.crowd, self.train.batch, self.seed)

    def measure(self, net: Regressor) -> dict[str, float]:
        """R² over strangers, of the actions that vary most and of the pose, and which share of the
        error's variance is a person's own; the network is told its spread.
        """
        looks, g = CrowdBatches(self.strangers, GROUP, 0), torch.Generator().manual_seed(0)
        errors, numbers = [], []
        with torch.no_grad(), autocast(self.run.device, self.config.precision):
            for faces in torch.arange(len(self.strangers.frames)).split(32):
                frames, truth = looks.of(faces, g)
                errors.append(net(frames) - truth)
                numbers.append(truth)
        wrong, truth = torch.cat(errors), torch.cat(numbers)
        own = common_error(wrong).mean(0).clamp(min=0)  # (55,)
        net.spread.copy_(own.sqrt())
        r2 = 1 - wrong.square().mean(0) / truth.var(0).clamp(min=1e-6)
        varied = truth[:, : NUMBERS - 3].std(0).topk(VARIED).indices
        scale = net.std.square()
        return {
            "val_actions": float(r2[varied].mean()),
            "val_pose": float(r2[NUMBERS - 3 :].mean()),
            "val_own": float((own / scale).sum() / (wrong.square().mean(0) / scale).sum()),
        }
