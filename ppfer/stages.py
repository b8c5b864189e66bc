"""The stages of the method: small functions that wire config, data, networks and the loop together.

Order: clips, wild, split → identity → pretrain → privacy (Algorithm 1) → protected/enhanced (G) → expression →
compensation (Algorithm 2) → protected/ppfer (C), and then what is trained on protected clips (`ppfer.tables`).
Each function decorated with `define` describes one stage; `ppfer.run.Run` decides whether to make or load it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import evaluate, nets, protect
from ppfer.config import Config, PpferError, Train, digest, to_dict
from ppfer.run import Run, Stage, data_path, define, settings, write_json
from ppfer.train import Batches, Progress, channels_last, fit
from ppfer.wavelets import BandSplit

# --------------------------------------------------------------------------------------------------------------------
# Data
# --------------------------------------------------------------------------------------------------------------------


def _store_stage(config: Config, name: str, source: str, fields: tuple[str, ...]) -> Stage:
    """A ClipStore decoded from a folder, or rendered by the twin's generator, without video files, when ``config.generate``."""
    from ppfer.store import ClipStore

    wild = name == "wild"

    def make(run: Run, folder: Path) -> dict:
        if config.generate:
            from ppfer import twin

            progress = Progress(f"{name}: rendering", config.wild_clips if wild else 82 * config.actors)
            pixels, table = twin.generate_arrays(actors=config.actors, size=config.size, frames=config.frames, seed=0,
                                                 wild=config.wild_clips if wild else 0, device=run.device, progress=progress.update)
            store = ClipStore.from_array(folder / "store", pixels.split(64), table, source={"generated": name})
            return {"clips": len(store), "rejected": 0, "sha256": store.hash}
        index = chosen_clips(config, wild=wild)
        progress = Progress(f"{name}: decoding", len(index.table))
        store = ClipStore.build(index, folder / "store", frames=config.frames, size=config.size, progress=progress.update)
        return {"clips": len(store), "rejected": len(store.rejected), "sha256": store.hash}

    def load(run: Run, folder: Path) -> object:
        return ClipStore.open(folder / "store")

    described = settings(config, "size", "frames", "generate", *fields)
    if not config.generate:
        described["files"] = chosen_clips(config, wild=wild).fingerprint()
    return Stage(name, "00_data.ipynb", (), described, make, load, alone=True)


def chosen_clips(config: Config, *, wild: bool = False):
    """The index of the clips a config asks for: its data folder, cut down to ``actors``, ``clips_per_actor``, ``wild_clips``.

    Raises:
        PpferError: if there is nothing usable at the path.
    """
    from ppfer import data

    index = data.index(data_path(config.wild if wild else config.data), keep_faults=config.keep_faults)
    table = index.table
    if wild:
        if config.wild_clips:
            table = _evenly(table, "emotion", config.wild_clips)
    else:
        if config.actors:
            table = table[table.actor.isin(sorted(table.actor.unique())[: config.actors])]
        if config.clips_per_actor:
            parts = [_evenly(group, "emotion", config.clips_per_actor) for _, group in table.groupby("actor")]
            table = table.loc[sorted(i for part in parts for i in part.index)]
    return dataclasses.replace(index, table=table.reset_index(drop=True))


def _evenly(table, column: str, count: int):
    """The first `count` rows, taking the groups of `column` in turn."""
    turn = table.groupby(column).cumcount()
    return table.loc[sorted(table.assign(_turn=turn).sort_values(["_turn", column], kind="stable").index[:count])]


@define
def clips(config: Config) -> Stage:
    """V: the original clips, decoded once."""
    return _store_stage(config, "clips", config.data, ("actors", "clips_per_actor"))


@define
def wild(config: Config) -> Stage:
    """In-the-wild clips for the expression controller (the paper's 3,600 DFEW clips)."""
    return _store_stage(config, "wild", config.wild, ("wild_clips",))


@define
def split(config: Config) -> Stage:
    """Train, validation and test parts: closed set, all actors on both sides (paper §4.1).

    ``split_by="auto"`` is the paper's random closed set, except for a metadata.csv folder in which every actor says
    each of several sentences: there whole sentences are held out, so that no take of a test sentence is trained on.
    """
    from ppfer import data

    def column(run: Run) -> str | None:
        if config.split_by != "auto":
            return config.split_by or None
        said = run.table.groupby("actor").sentence.agg(lambda s: frozenset(x for x in s if x))
        plain_folder = not config.generate and (data_path(config.data) / "metadata.csv").is_file()
        return "sentence" if plain_folder and said.nunique() == 1 and len(said.iloc[0]) > 2 else None

    def make(run: Run, folder: Path) -> dict:
        parts = data.split(run.table, test=config.test, val=config.val, seed=config.seed, by=column(run))
        names = run.table["clip"].to_numpy()
        write_json(folder / "split.json", {part: names[rows].tolist() for part, rows in parts.items()})
        return {part: len(rows) for part, rows in parts.items()} | {"held_out": column(run) or "", "sha256": digest(json.loads((folder / "split.json").read_text()))}

    def load(run: Run, folder: Path) -> dict[str, np.ndarray]:
        row = {name: i for i, name in enumerate(run.table["clip"])}
        names = json.loads((folder / "split.json").read_text())
        return {part: np.array([row[n] for n in members], dtype=np.int64) for part, members in names.items()}

    return Stage("split", "00_data.ipynb", ("clips",), settings(config, "test", "val", "split_by", "seed"), make, load, alone=True)


# --------------------------------------------------------------------------------------------------------------------
# Shared pieces
# --------------------------------------------------------------------------------------------------------------------


def band_split(config: Config) -> BandSplit:
    """The transform of a config."""
    return BandSplit(**to_dict(config.bands))


def whole_clips(config: Config) -> bool:
    """Whether the transform needs clips (time axis) rather than single frames."""
    return "t" in config.bands.axes


def new_classifier(config: Config, classes: int, *, pretrained: bool = True) -> nn.Module:
    """A ResNet over `classes`, from the weights the config names (if any) unless the caller brings its own."""
    return nets.Classifier(config.nets.classifier, classes, input_size=config.size,
                           weights=config.nets.classifier_weights if pretrained else "")


def new_recognizer(config: Config, classes: int, *, pretrained: bool = True) -> nn.Module:
    """An R3D network over `classes`, from the weights the config names (if any) unless the caller brings its own."""
    return nets.Recognizer(config.nets.recognizer, classes, weights=config.nets.recognizer_weights if pretrained else "")


def new_enhancer(config: Config, where: str = "bands") -> nn.Module:
    """Two U-Nets behind the transform, or with "frames" one without it; random weights."""
    width = config.nets.unet_width
    if where == "frames":
        return protect.FrameEnhancer(nets.UNet(width=width))
    if where != "bands":
        raise PpferError(f"an enhancer works on bands or frames, not on '{where}'")
    return protect.PrivacyEnhancer(band_split(config), nets.UNet(width=width), nets.UNet(width=width))


def new_compensator(config: Config) -> nn.Module:
    """F_fc as the config names it; starts as (nearly) the identity."""
    from ppfer import uvit

    n = config.nets
    if n.compensator == "pixel" and n.compensator_weights:
        return uvit.PixelCompensator.transplant(n.compensator_weights, config.size, n.patch, n.heads)
    if n.compensator == "pixel":
        return uvit.PixelCompensator(config.size, n.patch, n.dim, n.depth, n.heads)
    if n.compensator == "latent":
        net = uvit.uvit_h2(n.compensator_weights or None, img_size=config.size // 8, checkpoint=True)
        return uvit.LatentCompensator(net, uvit.load_autoencoder(n.autoencoder))
    raise PpferError(f"unknown compensator '{n.compensator}'; known: pixel, latent")


def start_enhancer(run: Run, where: str = "bands") -> nn.Module:
    """A trainable enhancer, each U-Net with the pre-trained weights (paper §3.2: they start identical)."""
    enhancer, start = new_enhancer(run.config, where), run.get("pretrain").state_dict()
    for net in enhancer.children():
        if isinstance(net, nets.UNet):
            net.load_state_dict(start)
    return trainable(enhancer, run)


def load_net(net: nn.Module, folder: Path, run: Run) -> nn.Module:
    """The best weights of a stage, frozen, on the run's device."""
    nets.load_weights(net, folder / "weights.safetensors")
    net = nets.freeze(net.to(run.device))
    return channels_last(net) if run.device.type == "cuda" else net


def trainable(net: nn.Module, run: Run) -> nn.Module:
    """A trainable copy on the run's device."""
    return net.to(run.device).train().requires_grad_(True)


def stage_seed(run: Run, name: str) -> int:
    """One seed per stage, from the run's seed: adding a stage does not change another's random numbers."""
    seed = int(digest({"seed": run.config.seed, "stage": name}), 16) % 2**31
    torch.manual_seed(seed)
    return seed


def fit_stage(run: Run, folder: Path, name: str, objective: nn.Module, net: nn.Module, batches: Batches, train: Train, **keywords) -> dict:
    return fit(objective.to(run.device), net, batches, train, folder, name=name, precision=run.config.precision,
               compile=run.config.compile, **keywords)


def batches_of(run: Run, name: str, index: np.ndarray, labels, train: Train, seed: int, *, frames: bool = True) -> Batches:
    return Batches(run.tensor(name), index, labels, batch=train.batch, seed=seed, device=run.device, frames=frames,
                   augment=train.augment, colour=train.colour)


def leak(run: Run, validator: nn.Module, pixels: Tensor, index: np.ndarray) -> dict[str, evaluate.Rate]:
    """`evaluate.leakage` of the chosen clips of a (N, T, 3, H, W) uint8 tensor."""
    logits = evaluate.frame_logits(validator, pixels, index, device=run.device, precision=run.config.precision)
    return evaluate.leakage(logits, run.labels("actor")[index], seed=run.config.seed)


# --------------------------------------------------------------------------------------------------------------------
# Identity controller: C_hpr = C_lpr = V_pl
# --------------------------------------------------------------------------------------------------------------------


class IdentityObjective(nn.Module):
    """Cross-entropy over identities on frames and bands mixed within every batch.

    A network trained on frames alone is weak on detail bands, and one fed frames and bands in turn is broken by
    BatchNorm; so half of each batch are frames, a quarter low bands, a quarter details, all at frame size.
    """

    captures = True  # see `train.fit`

    def __init__(self, net: nn.Module, bands: BandSplit):
        super().__init__()
        self.net, self.bands = net, bands

    def forward(self, pixels: Tensor, actors: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) or (B, T, 3, H, W), labels (B,) → scalar."""
        views, labels = mixed_views(self.bands, pixels, actors)
        return F.cross_entropy(self.net(views), labels)


def mixed_views(bands: BandSplit, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Half frames, a quarter low bands, a quarter details, resized to frame size: (n, 3, H, W) and (n,) labels.

    The second half of the batch gives one picture a sample: low and detail in turn, and of the details each sub-band in turn.
    """
    size, half = pixels.shape[-2:], len(pixels) // 2
    frames, rest = pixels[:half], labels[half:]
    views = [frames.flatten(0, -4)]  # (half or half·T, 3, H, W)
    names = [labels[:half].repeat_interleave(len(views[0]) // max(1, half))]
    for first, band in enumerate(bands.split(pixels[half:])):
        per = len(band) // len(rest)  # pictures of this band per sample
        sample = torch.arange(first, len(rest), 2, device=band.device)
        views.append(F.interpolate(band[sample * per + sample // 2 % per], size, mode="bilinear", align_corners=False))
        names.append(rest[sample])
    return torch.cat(views), torch.cat(names)


@define
def identity(config: Config) -> Stage:
    """A ResNet over identities, trained on the training clips (paper §4.2)."""

    def make(run: Run, folder: Path) -> dict:
        seed, actors, pixels = stage_seed(run, "identity"), run.labels("actor"), run.tensor("clips")
        net = trainable(new_classifier(config, len(run.classes("actor"))), run)
        bands, parts = band_split(config).to(run.device), run.parts

        def measure() -> dict[str, float]:
            return {"val_" + k: v.value for k, v in leak(run, net, pixels, parts["val"]).items()}

        batches = batches_of(run, "clips", parts["train"], actors, config.identity, seed, frames=not whole_clips(config))
        summary = fit_stage(run, folder, "identity", IdentityObjective(net, bands), net, batches, config.identity, evaluate=measure,
                       score=lambda m: [-m["val_all_frames"]])
        return summary | {"test": {k: v.to_dict() for k, v in leak(run, net, pixels, parts["test"]).items()}}

    def load(run: Run, folder: Path) -> nn.Module:
        return load_net(new_classifier(config, len(run.classes("actor")), pretrained=False), folder, run)

    needs = settings(config, "identity", "nets", "bands", "precision", "seed")
    needs["nets"] = {k: needs["nets"][k] for k in ("classifier", "classifier_weights")}
    return Stage("identity", "03_identity.ipynb", ("clips", "split"), needs, make, load)


# --------------------------------------------------------------------------------------------------------------------
# Privacy enhancers
# --------------------------------------------------------------------------------------------------------------------


class ReconstructionObjective(nn.Module):
    """L1 between a U-Net's output and its input, over both bands: F_hpr and F_lpr start identical (paper §3.2)."""

    captures = True  # see `train.fit`

    def __init__(self, net: nn.Module, bands: BandSplit):
        super().__init__()
        self.net, self.bands = net, bands

    def forward(self, pixels: Tensor, actors: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) or (B, T, 3, H, W) → scalar; labels unused."""
        low, high = self.bands.split(pixels)
        both = torch.cat([low, high]) if low.shape[1:] == high.shape[1:] else None
        if both is not None:
            return F.l1_loss(self.net(both), both)
        return F.l1_loss(self.net(low), low) + F.l1_loss(self.net(high), high)


@define
def pretrain(config: Config) -> Stage:
    """The U-Net that both enhancers start from, trained to reproduce its input."""

    def make(run: Run, folder: Path) -> dict:
        seed, parts = stage_seed(run, "pretrain"), run.parts
        net = trainable(nets.UNet(width=config.nets.unet_width), run)
        objective = ReconstructionObjective(net, band_split(config).to(run.device))
        held = run.tensor("clips")[torch.as_tensor(parts["val"][:64])][:, ::4].to(run.device).float() / 255
        held = held if whole_clips(config) else held.flatten(0, 1)

        @torch.inference_mode()
        def measure() -> dict[str, float]:
            return {"val_l1": float(objective(held, None))}

        batches = batches_of(run, "clips", parts["train"], run.labels("actor"), config.pretrain, seed, frames=not whole_clips(config))
        return fit_stage(run, folder, "pretrain", objective, net, batches, config.pretrain, evaluate=measure, score=lambda m: [m["val_l1"]])

    def load(run: Run, folder: Path) -> nn.Module:
        return load_net(nets.UNet(width=config.nets.unet_width), folder, run)

    needs = settings(config, "pretrain", "bands", "precision", "seed") | {"unet_width": config.nets.unet_width}
    return Stage("pretrain", "04_privacy.ipynb", ("clips", "split"), needs, make, load)


def privacy_loss(logits: Tensor, labels: Tensor, preset: str) -> Tensor:
    """What an enhancer minimises through the frozen controller.

    Args:
        logits: (n, K). labels: (n,).
        preset: ``paper``: −CE (Algorithm 1 line 10), unbounded; ``clamped``: −min(CE, ln K) per sample, which stops at
            chance; ``uniform``: cross-entropy to the uniform distribution.
    """
    if preset == "paper":
        return -F.cross_entropy(logits, labels)
    if preset == "clamped":
        return -F.cross_entropy(logits, labels, reduction="none").clamp(max=math.log(logits.shape[-1])).mean()
    if preset == "uniform":
        return -logits.log_softmax(-1).mean()
    raise PpferError(f"unknown privacy loss '{preset}'; known: paper, clamped, uniform")


class PrivacyObjective(nn.Module):
    """Algorithm 1, lines 4–10: maximise the frozen controller's cross-entropy on each enhanced band."""

    captures = True  # see `train.fit`

    def __init__(self, enhancer: nn.Module, controller: nn.Module, preset: str, reconstruction: float):
        super().__init__()
        self.enhancer, self.controller = enhancer, nets.freeze(controller)
        self.preset, self.reconstruction = preset, reconstruction

    def forward(self, pixels: Tensor, actors: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) or (B, T, 3, H, W), labels (B,) → scalar."""
        loss = 0.0
        for band, enhanced in self.enhancer.views(pixels):
            labels = actors.repeat_interleave(len(band) // len(actors))
            loss = loss + privacy_loss(self.controller(enhanced), labels, self.preset)
            if self.reconstruction:
                loss = loss + self.reconstruction * F.l1_loss(enhanced, band)
        return loss


def private_first(chance: float, slack: float, then: str) -> Callable[[dict], list[float]]:
    """The selection rule: val PLR within `slack` of chance first, then the least of metric `then` (REFERENCE: fixed rule).

    Returns a score for `fit`: ``[excess leakage, metric]``, compared in order, lower is better.
    """
    return lambda m: [round(max(0.0, m["val_plr"] - chance - slack), 6), m[then]]


def protected_check(run: Run, protector: Callable[[Tensor], Tensor], validator: nn.Module, source: Tensor) -> Callable[[], dict]:
    """Validation measures of a protector under training: PLR of the frozen validator and L1 to its input."""
    index = run.parts["val"]
    held = source[torch.as_tensor(index)]
    held = held if whole_clips(run.config) else held[:, :: max(1, held.shape[1] // 4)]
    actors = run.labels("actor")[index]

    def measure() -> dict[str, float]:
        out = torch.cat(list(protect.protect_all(protector, held, device=run.device, batch=32, name="protector", precision=run.config.precision)))
        logits = evaluate.frame_logits(validator, out, np.arange(len(out)), device=run.device, precision=run.config.precision)
        distance = (out.float() - held.to(out.device).float()).abs().mean() / 255
        return {"val_plr": evaluate.leakage(logits, actors)["all_frames"].value, "val_l1": float(distance)}

    return measure


@define
def privacy(config: Config, where: str = "bands") -> Stage:
    """Algorithm 1: the enhancers against the frozen identity controller; "privacy/frames" has one, without the transform."""
    name = "privacy" if where == "bands" else f"privacy/{where}"

    def make(run: Run, folder: Path) -> dict:
        seed, controller, enhancer = stage_seed(run, name), run.get("identity"), start_enhancer(run, where)
        objective = PrivacyObjective(enhancer, controller, config.privacy_loss, config.reconstruction)
        batches = batches_of(run, "clips", run.parts["train"], run.labels("actor"), config.privacy, seed, frames=not whole_clips(config))
        rule = private_first(1 / len(run.classes("actor")), config.privacy_slack, "val_l1")
        return fit_stage(run, folder, name, objective, enhancer, batches, config.privacy, score=rule,
                    evaluate=protected_check(run, enhancer, controller, run.tensor("clips")))

    def load(run: Run, folder: Path) -> nn.Module:
        return load_net(new_enhancer(config, where), folder, run)

    needs = settings(config, "privacy", "privacy_loss", "privacy_slack", "reconstruction", "precision", "seed")
    notebook = "04_privacy.ipynb" if where == "bands" else "10_ablation.ipynb"
    return Stage(name, notebook, ("identity", "pretrain"), needs, make, load)


# --------------------------------------------------------------------------------------------------------------------
# Feature compensation
# --------------------------------------------------------------------------------------------------------------------


class ClassificationObjective(nn.Module):
    """Cross-entropy of a network on its input: C_fc, F_u, and attackers."""

    captures = True  # see `train.fit`

    def __init__(self, net: nn.Module, label_smoothing: float = 0.0):
        super().__init__()
        self.net, self.label_smoothing = net, label_smoothing

    def forward(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Frames or clips as the network takes them, labels (B,) → scalar."""
        return F.cross_entropy(self.net(pixels), labels, label_smoothing=self.label_smoothing)


def wild_labels(emotions: list[str], classes: list[str]) -> np.ndarray:
    """Labels of wild clips in the order of `classes`; −1 (masked) for emotions the data set at hand does not have.

    Raises:
        PpferError: if a class has no wild clip to learn from.
    """
    labels = np.array([classes.index(e) if e in classes else -1 for e in emotions])
    absent = [c for i, c in enumerate(classes) if not (labels == i).any()]
    if absent:
        raise PpferError(f"no in-the-wild clip shows {', '.join(absent)}: the expression controller cannot learn it; pass another wild set")
    return labels


@define
def expression(config: Config) -> Stage:
    """C_fc: a ResNet over expressions, one random frame per in-the-wild clip, Surprise masked (paper §4.2)."""

    def make(run: Run, folder: Path) -> dict:
        seed, store = stage_seed(run, "expression"), run.get("wild")
        labels = wild_labels(list(store.table.emotion), run.classes("emotion"))
        usable = np.flatnonzero(labels >= 0)
        order = np.random.default_rng(seed).permutation(usable)
        held, train = order[: len(order) // 8], order[len(order) // 8 :]
        net = trainable(new_classifier(config, len(run.classes("emotion"))), run)

        def measure() -> dict[str, float]:
            logits = evaluate.frame_logits(net, run.tensor("wild"), held, device=run.device, precision=config.precision)
            hits = logits.argmax(-1) == torch.as_tensor(labels[held])[:, None]
            return {"val_accuracy": float(hits.float().mean()),
                    "val_loss": float(F.cross_entropy(logits.flatten(0, 1), torch.as_tensor(labels[held]).repeat_interleave(logits.shape[1])))}

        batches = batches_of(run, "wild", train, labels, config.expression, seed)
        summary = fit_stage(run, folder, "expression", ClassificationObjective(net, config.expression.label_smoothing), net, batches,
                       config.expression, evaluate=measure, score=lambda m: [m["val_loss"]])
        return summary | {"clips": len(usable), "masked": int((labels < 0).sum())}

    def load(run: Run, folder: Path) -> nn.Module:
        return load_net(new_classifier(config, len(run.classes("emotion")), pretrained=False), folder, run)

    needs = settings(config, "expression", "nets", "precision", "seed")
    needs["nets"] = {k: needs["nets"][k] for k in ("classifier", "classifier_weights")}
    return Stage("expression", "05_compensation.ipynb", ("clips", "wild"), needs, make, load)


class CompensationObjective(nn.Module):
    """Algorithm 2, lines 4–9: F_fc minimises the frozen C_fc's cross-entropy; without C_fc (Task 4), MSE to its input G.

    `fidelity` weighs an L1 term between C and G (0 is the paper's loss): a compensator that sees C_fc alone repaints the
    frame until little is left in it for anybody but C_fc.
    """

    def __init__(self, compensator: nn.Module, controller: nn.Module | None, fidelity: float = 0.0):
        super().__init__()
        self.compensator, self.fidelity = compensator, fidelity
        self.controller = nets.freeze(controller) if controller is not None else None

    def forward(self, frames: Tensor, emotions: Tensor) -> Tensor:
        """Frames of G (B, 3, H, W), expression labels (B,) → scalar."""
        compensated = self.compensator(frames)
        if self.controller is None:
            return F.mse_loss(compensated, frames)
        loss = F.cross_entropy(self.controller(compensated), emotions)
        return loss + self.fidelity * F.l1_loss(compensated, frames) if self.fidelity else loss


@define
def compensation(config: Config, variant: str = "enhanced") -> Stage:
    """Algorithm 2: the compensator on G under the frozen expression controller.

    "compensation/<protector>" takes that protector's clips for G, "compensation/<protector>-mse" leaves the controller out
    (ablation).
    """
    source, _, loss = variant.partition("-")
    name = "compensation" if variant == "enhanced" else f"compensation/{variant}"
    controlled = loss != "mse"

    def make(run: Run, folder: Path) -> dict:
        seed, validator = stage_seed(run, name), run.get("identity")
        controller = run.get("expression") if controlled else None
        net, parts = trainable(new_compensator(config), run), run.parts
        pixels, emotions = run.tensor(f"protected/{source}"), run.labels("emotion")
        truth = torch.as_tensor(emotions[parts["val"]])
        leaks = protected_check(run, lambda x: protect.per_frame(net, x), validator, pixels)

        def measure() -> dict[str, float]:
            if controller is None:
                return leaks()
            logits = evaluate.frame_logits(lambda_module(lambda x: controller(net(x))), pixels, parts["val"], device=run.device,
                                           precision=config.precision, batch=16)
            loss = F.cross_entropy(logits.flatten(0, 1), truth.repeat_interleave(logits.shape[1]))
            accuracy = (logits.argmax(-1) == truth[:, None]).float().mean()
            return leaks() | {"val_loss": float(loss), "val_accuracy": float(accuracy)}

        batches = batches_of(run, f"protected/{source}", parts["train"], emotions, config.compensation, seed)
        rule = private_first(1 / len(run.classes("actor")), config.privacy_slack, "val_loss" if controlled else "val_l1")
        return fit_stage(run, folder, name, CompensationObjective(net, controller, config.fidelity), net, batches, config.compensation,
                         evaluate=measure, score=rule)

    def load(run: Run, folder: Path) -> nn.Module:
        return load_net(new_compensator(config), folder, run)

    needs = settings(config, "compensation", "fidelity", "nets", "privacy_slack", "precision", "seed")
    notebook = "05_compensation.ipynb" if variant == "enhanced" else "10_ablation.ipynb"
    inputs = ("identity", *(("expression",) if controlled else ()), f"protected/{source}")
    return Stage(name, notebook, inputs, needs, make, load)


def lambda_module(function: Callable[[Tensor], Tensor]) -> nn.Module:
    """A plain function where a module is expected (no weights, `eval` does nothing)."""
    module = nn.Module()
    module.forward = function
    return module
