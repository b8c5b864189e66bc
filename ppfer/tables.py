"""Protectors by name, what is trained on the clips they make, and the tables: a table is a loop over protectors.

Stages: protected/<protector> (its clips), recognizer/<protector> (F_u) and attack/<protector> (V_pl retrained).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import evaluate, protect
from ppfer.config import Config, PpferError, to_dict
from ppfer.run import Run, Stage, define, is_main, settings
from ppfer.stages import (
    ClassificationObjective,
    batches_of,
    fit_stage,
    leak,
    load_net,
    new_classifier,
    new_recognizer,
    stage_seed,
    trainable,
)
from ppfer.train import Progress


@dataclasses.dataclass(frozen=True)
class Protector:
    """A row of the tables.

    Attributes:
        name: key, also the folder name.
        title: as printed.
        needs: stages it stands on.
        build: ``build(run) -> clips → clips``.
        what_ran: one line for the table: what exactly this is; or ``what_ran(run)`` that says it once it is made.
        notebook: where its inputs are made.
        rows: the built callable takes (clips, rows), see `protect.protect_all`.
        source: a protector whose stored clips only need compensating (``build`` gives a `protect.PPFER`): saves a pass.
        missing: ``missing(run)`` says what to install or to give before it can run; "" when nothing is missing.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    build: Callable[[Run], Callable[[Tensor], Tensor]]
    what_ran: str | Callable[[Run], str]
    notebook: str = "05_compensation.ipynb"
    rows: bool = False
    source: str = ""
    missing: Callable[[Run], str] = lambda run: ""


PROTECTORS: dict[str, Protector] = {}
FIRST_TABLE = "08"  # stages of this notebook and later are made by the tables themselves


def register(protector: Protector) -> Protector:
    """Add a protector to every table."""
    PROTECTORS[protector.name] = protector
    return protector


register(Protector("none", "No privacy preservation", ("clips",), lambda run: protect.no_privacy, "the original clips"))
register(Protector("enhanced", "PPFER without compensation (G)", ("privacy",), lambda run: run.get("privacy"),
                   "Algorithm 1: one U-Net per band", "04_privacy.ipynb"))
register(Protector("ppfer", "PPFER (C)", ("privacy", "compensation"),
                   lambda run: protect.PPFER(run.get("privacy"), run.get("compensation")), "Algorithms 1 and 2: two U-Nets and a U-ViT"))


def protector_named(name: str) -> Protector:
    """The registered protector, or a sentence."""
    if name not in PROTECTORS:
        raise PpferError(f"unknown protector '{name}'; known: {', '.join(PROTECTORS)}")
    return PROTECTORS[name]


def what_ran(run: Run, name: str) -> str:
    """What exactly a protector is in this run."""
    said = protector_named(name).what_ran
    return said if isinstance(said, str) else said(run)


@define
def protected(config: Config, name: str) -> Stage:
    """All clips through a protector, as a ClipStore ("none" is the original store itself)."""
    from ppfer.store import ClipStore

    protector = protector_named(name)

    def stream(run: Run):
        progress = Progress(f"protected/{name}", len(run.table))
        built, clips, batch = protector.build(run), run.tensor(f"protected/{protector.source or 'none'}"), 32
        apply = protect.deployed(built.compensate if protector.source else built, batch, precision=config.precision, compile=config.compile)
        return protect.protect_all(apply, clips, device=run.device, batch=batch, name=name, on_batch=progress.update, rows=protector.rows,
                                   precision=config.precision)

    def make(run: Run, folder: Path) -> dict:
        if name == "none" or not config.keep_protected:
            return {"what_ran": what_ran(run, name)}
        source = run.get("clips")
        ClipStore.from_array(folder / "store", stream(run), source.table, source={"protector": name, "clips": source.hash})
        return {"what_ran": what_ran(run, name)}

    def load(run: Run, folder: Path) -> object:
        if name == "none":
            return run.get("clips")
        if not config.keep_protected:
            there = run.tensor("clips").device  # where there is room for clips
            return ClipStore.in_memory(torch.cat([part.to(there) for part in stream(run)]), run.table)
        return ClipStore.open(folder / "store")

    return Stage(f"protected/{name}", protector.notebook, ("clips", *protector.needs), settings(config, "keep_protected"), make, load,
                 alone=True)


@define
def recognizer(config: Config, name: str) -> Stage:
    """F_u on a protector's clips: from scratch (or Kinetics) on the originals, from those weights on everything else."""
    train = config.recognition if name == "none" else config.adaptation

    def make(run: Run, folder: Path) -> dict:
        seed, emotions, parts = stage_seed(run, f"recognizer/{name}"), run.labels("emotion"), run.parts
        net = new_recognizer(config, len(run.classes("emotion")), pretrained=name == "none")
        if name != "none":
            net.load_state_dict(run.get("recognizer/none").state_dict())
        trainable(net, run)
        pixels = run.tensor(f"protected/{name}")

        def measure() -> dict[str, float]:
            logits = evaluate.clip_logits(net, pixels, parts["val"], device=run.device, precision=config.precision)
            truth = torch.as_tensor(emotions[parts["val"]])
            return {"val_accuracy": float((logits.argmax(-1) == truth).float().mean()), "val_loss": float(F.cross_entropy(logits, truth))}

        batches = batches_of(run, f"protected/{name}", parts["train"], emotions, train, seed, frames=False)
        return fit_stage(run, folder, f"recognizer/{name}", ClassificationObjective(net, train.label_smoothing), net, batches, train,
                    evaluate=measure, score=lambda m: [-m["val_accuracy"], m["val_loss"]])

    def load(run: Run, folder: Path) -> nn.Module:
        return load_net(new_recognizer(config, len(run.classes("emotion")), pretrained=False), folder, run)

    needs = settings(config, "precision", "seed") | {"train": to_dict(train), "net": config.nets.recognizer, "weights": config.nets.recognizer_weights}
    inputs = ("split", f"protected/{name}") + (() if name == "none" else ("recognizer/none",))
    notebook = max("06_recognition.ipynb", protector_named(name).notebook)
    return Stage(f"recognizer/{name}", notebook, inputs, needs, make, load)


@define
def attack(config: Config, name: str) -> Stage:
    """V_pl retrained on a protector's training clips: what an attacker with the protector in hand can still read."""

    def make(run: Run, folder: Path) -> dict:
        seed, actors, parts = stage_seed(run, f"attack/{name}"), run.labels("actor"), run.parts
        net = new_classifier(config, len(run.classes("actor")), pretrained=False)
        net.load_state_dict(run.get("identity").state_dict())
        trainable(net, run)
        pixels = run.tensor(f"protected/{name}")

        def measure() -> dict[str, float]:
            return {"val_" + k: v.value for k, v in leak(run, net, pixels, parts["val"]).items()}

        batches = batches_of(run, f"protected/{name}", parts["train"], actors, config.attack, seed)
        return fit_stage(run, folder, f"attack/{name}", ClassificationObjective(net), net, batches, config.attack, evaluate=measure,
                    score=lambda m: [-m["val_all_frames"]])

    def load(run: Run, folder: Path) -> nn.Module:
        return load_net(new_classifier(config, len(run.classes("actor")), pretrained=False), folder, run)

    notebook = max("07_leakage.ipynb", protector_named(name).notebook)
    return Stage(f"attack/{name}", notebook, ("split", "identity", f"protected/{name}"),
                 settings(config, "attack", "precision", "seed"), make, load)


def ensure(run: Run, name: str) -> None:
    """Make a stage and all it stands on that belongs to the tables; what the main notebooks make must be there.

    Raises:
        MissingInput: naming the main notebook (00–07) to run first.
    """
    stage = run.describe(name)
    for need in stage.needs:
        if run.describe(need).notebook >= FIRST_TABLE:
            ensure(run, need)
    run.make(name, load=False)


def prepare(run: Run, names: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """Make what a table over protectors needs: their inputs, their clips, and stages such as "recognizer" and "attack".

    Args:
        names: protectors.
        kinds: stages "<kind>/<protector>" to make for each.

    Returns:
        The names that can run here; of the others `Protector.missing` tells what to install.

    Raises:
        PpferError: naming a protector that returns another shape, NaN or leaves [0, 1], before anything is trained on it.
    """
    ready = [name for name in names if not protector_named(name).missing(run)]
    for name in ready:
        protector = protector_named(name)
        for need in protector.needs:
            if run.describe(need).notebook >= FIRST_TABLE:
                ensure(run, need)
        next(protect.protect_all(protector.build(run), run.tensor("clips")[:2], device=run.device, batch=2, name=name, rows=protector.rows,
                                 precision=run.config.precision))
        ensure(run, f"protected/{name}")
    for name in ready:
        for kind in kinds:
            ensure(run, f"{kind}/{name}")
    return ready


def validator_logits(run: Run, validator: str, name: str, part: str) -> Tensor:
    """`evaluate.frame_logits` of a stage's network on a part of a protector's clips; kept, since several tables look at them."""
    key = f"{run.key(validator)} {run.key(f'protected/{name}')} {part}"
    if key not in run.kept:
        run.kept[key] = evaluate.frame_logits(run.get(validator), run.tensor(f"protected/{name}"), run.parts[part], device=run.device,
                                              precision=run.config.precision)
    return run.kept[key]


def measure_leakage(run: Run, name: str, *, retrained: bool = False, part: str = "test", remapped: bool = True) -> dict[str, evaluate.Rate]:
    """PLR of a protector's clips under the frozen validator, or under the one retrained on its training clips.

    ``remapped`` (see `evaluate.remapped_leakage`) looks at all training clips too; leave it out where time counts.
    """
    validator = f"attack/{name}" if retrained else "identity"
    actors, index, train = run.labels("actor"), run.parts[part], run.parts["train"]
    logits = validator_logits(run, validator, name, part)
    rates = evaluate.leakage(logits, actors[index], seed=run.config.seed)
    if not remapped:
        return rates
    seen = validator_logits(run, validator, name, "train")
    return rates | {"remapped": evaluate.remapped_leakage(seen, actors[train], logits, actors[index])}


def measure_accuracy(run: Run, name: str, *, retrained: bool = True, part: str = "test") -> dict[str, evaluate.Rate]:
    """Recall per expression and "average" on a protector's clips; F_u trained on them, or (frozen) on the originals."""
    net = run.get(f"recognizer/{name}" if retrained else "recognizer/none")
    index = run.parts[part]
    logits = evaluate.clip_logits(net, run.tensor(f"protected/{name}"), index, device=run.device, precision=run.config.precision)
    return evaluate.per_class(logits, run.labels("emotion")[index], run.classes("emotion"))


def table_row(run: Run, name: str, *, retrained: bool = True) -> dict:
    """One row of Table 1: PLR and ACC with networks trained on the originals (frozen) and, if asked, on the protected clips.

    The paper's own row is ``plr`` beside ``acc_retrained``: V_pl never sees a protected clip, F_u is trained on them.
    """
    row = {"approach": protector_named(name).title, "what_ran": what_ran(run, name)}
    for suffix, again in (("", False), ("_retrained", True))[: 1 + retrained]:
        row[f"plr{suffix}"] = measure_leakage(run, name, retrained=again, remapped=False)["random_frame"]
        row[f"acc{suffix}"] = measure_accuracy(run, name, retrained=again)["average"]
    return {k: row[k] for k in ("approach", "what_ran", "plr", "plr_retrained", "acc", "acc_retrained") if k in row}


def table2(run: Run, names: tuple[str, ...] = ("none", "enhanced", "ppfer")) -> list[dict]:
    """Table 2: recall per expression of F_u trained on each protector's clips; the last column is over all clips."""
    return [{"approach": protector_named(name).title, **measure_accuracy(run, name)} for name in names]


def leakage_table(run: Run, names: tuple[str, ...] = ("none", "enhanced", "ppfer")) -> list[dict]:
    """PLR, frozen and retrained, by every attacker; one row per protector and protocol."""
    return [{"approach": protector_named(name).title, "validator": "retrained" if retrained else "frozen",
             **measure_leakage(run, name, retrained=retrained)} for name in names for retrained in (False, True)]


def main_table(run: Run, names: tuple[str, ...] = ("none", "enhanced", "ppfer")) -> list[dict]:
    """Both protocols of both measures for each protector: the rows a run ends with."""
    return [table_row(run, name) for name in names]


PIPELINE = (
    "clips", "wild", "split", "identity", "pretrain", "privacy", "protected/none", "protected/enhanced", "expression", "compensation",
    "protected/ppfer", "recognizer/none", "recognizer/enhanced", "recognizer/ppfer", "attack/none", "attack/enhanced", "attack/ppfer",
)  # fmt: skip


def run_all(run: Run, names: tuple[str, ...] = PIPELINE) -> None:
    """Make every stage in order, without notebooks, then write the run's tables."""
    for name in names:
        run.make(name)
    if is_main():
        for name, rows in (("table2", table2(run)), ("leakage", leakage_table(run)), ("main", main_table(run))):
            evaluate.write_table(rows, run.dir / "tables", name)
