"""Where clips come from: originals, in-the-wild clips, the split, and what a protector makes."""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ppfer.base.errors import PpferError
from ppfer.base.files import digest, write_json
from ppfer.base.progress import Progress, say
from ppfer.config import Config, pick
from ppfer.data.listing import Index
from ppfer.data.store import ClipStore
from ppfer.protect import protect_all
from ppfer.run.fast import deployed
from ppfer.run.names import data_path
from ppfer.run.stage import Stage, stage

CLIPS_A_PASS = 32  # through a protector
ACTOR_FOLDS = "actor_folds"  # a value of `split_by`
FOLDS = 5  # parts of people that it makes


def twin_origin(config: Config) -> dict | None:
    """How the clips were generated, {"frames", "seed", "difficulty"}, if a twin's; else None."""
    if config.generate:
        return {"frames": config.frames, "seed": 0, "difficulty": config.difficulty}
    path = data_path(config.data) / "twin.json"
    if not path.exists():
        return None
    recipe = {"difficulty": 0.0} | json.loads(path.read_text("utf-8"))  # older twins do not say it
    return {key: recipe[key] for key in ("frames", "seed", "difficulty")}


def has_motions(run: Any) -> bool:
    """Whether the true actions are known: of a twin to which no clips of others were added."""
    name = re.compile(r"\d{4}_[A-Z]{3}_[A-Z]{3}_(LO|MD|HI|XX)")
    return twin_origin(run.config) is not None and all(map(name.fullmatch, run.table["clip"]))


DECODED = ("size", "frames", "generate")


@stage("clips", settings=(*DECODED, "actors", "clips_per_actor"), notebook="00", alone=True)
class Clips(Stage):
    """V: the original clips, a ClipStore decoded from a folder."""

    wild = False

    def settings(self) -> dict:
        files = chosen_clips(self.config, wild=self.wild).fingerprint()
        return super().settings() | {"files": files}

    def make(self, folder: Path) -> dict:
        index = chosen_clips(self.config, wild=self.wild)
        store = ClipStore.build(
            index,
            folder / "store",
            frames=self.config.frames,
            size=self.config.size,
            progress=Progress(f"{self.name}: decoding", len(index.table), "clips").update,
        )
        return {"clips": len(store), "rejected": len(store.rejected), "sha256": store.hash}

    def load(self, folder: Path) -> ClipStore:
        return ClipStore.open(folder / "store")


@stage("wild", settings=(*DECODED, "wild_clips"), notebook="00", alone=True)
class Wild(Clips):
    """In-the-wild clips for the expression controller (the paper's 3,600 DFEW clips)."""

    wild = True


def chosen_clips(config: Config, *, wild: bool = False) -> Index:
    """The index of the clips a config asks for: its data folder, cut down to ``actors``,
    ``clips_per_actor``, ``wild_clips``; a `PpferError` if there is nothing usable.
    """
    # only here, as in `Split.make`: who loads what is there needs none of what reads data sets
    from ppfer.data.index import index

    root = data_path(config.wild if wild else config.data)
    same = root == data_path(config.data)  # fold and labels are of those, not of other wild clips
    fold = 1 if config.split_by == ACTOR_FOLDS else config.fold
    how = {"fold": fold, "labels": config.labels} if same else {}
    found = index(root, keep_faults=config.keep_faults, **how)
    table = found.table
    if wild and same and "split" in table:  # C_fc must not see what is tested on
        table = table[table["split"] != "test"]
    if wild and config.wild_clips:
        table = _evenly(table, "emotion", config.wild_clips)
    if not wild and config.actors:
        table = table[table.actor.isin(sorted(table.actor.unique())[: config.actors])]
    if not wild and config.clips_per_actor:
        groups = [group for _, group in table.groupby("actor")]
        parts = [_evenly(group, "emotion", config.clips_per_actor) for group in groups]
        table = table.loc[sorted(i for part in parts for i in part.index)]
    return dataclasses.replace(found, table=table.reset_index(drop=True))


def _evenly(table: pd.DataFrame, column: str, count: int) -> pd.DataFrame:
    """The first `count` rows, taking the groups of `column` in turn."""
    turn = table.groupby(column).cumcount()
    in_turn = table.assign(_turn=turn).sort_values(["_turn", column], kind="stable")
    return table.loc[sorted(in_turn.index[:count])]


SPLIT_BY = ("test", "val", "split_by", "seed")


@stage("split", needs=("clips",), settings=SPLIT_BY, notebook="00", alone=True)
class Split(Stage):
    """Train, validation and test parts: closed set, all actors on both sides (paper §4.1).

    ``split_by="auto"`` is the paper's random closed set, except for a metadata.csv folder in which
    every actor says each of several sentences: there whole sentences are held out, so that no take
    of a test sentence is trained on. ``split_by="actor_folds"`` deals people out to `FOLDS` parts,
    and `fold` says which of them is tested.
    """

    def settings(self) -> dict:
        fold, by_people = self.config.fold, self.config.split_by == ACTOR_FOLDS
        if by_people and not 1 <= fold <= FOLDS:
            raise PpferError(f"fold={fold}: split_by={ACTOR_FOLDS} makes {FOLDS}, from 1")
        return super().settings() | ({"fold": fold} if by_people else {})

    def column(self) -> str | None:
        """The column whose values are held out; None for the random split."""
        config = self.config
        if config.split_by != "auto":
            return config.split_by or None
        if config.generate or not (data_path(config.data) / "metadata.csv").is_file():
            return None
        if "split" in self.run.table:  # the data set's own parts
            return None
        spoken = self.run.table.groupby("actor").sentence.agg(lambda s: frozenset(filter(None, s)))
        return "sentence" if spoken.nunique() == 1 and len(spoken.iloc[0]) > 2 else None

    def make(self, folder: Path) -> dict:
        from ppfer.data import split

        table, config, by = self.run.table, self.config, self.column()
        if not table["actor"].any():
            say("split: the data name no actor, so nobody is hidden and no identity is measured")
        if by and "split" in table:
            say(f"split: {by} is held out (split_by), so the data's own column split is not used")
        if by == ACTOR_FOLDS:
            parts = split.actor_folds(table, FOLDS, config.seed, config.val)[config.fold - 1]
        else:
            parts = split.split(table, test=config.test, val=config.val, seed=config.seed, by=by)
        names = table["clip"].to_numpy()
        members = {part: names[rows].tolist() for part, rows in parts.items()}
        write_json(folder / "split.json", members)
        counts = {part: len(rows) for part, rows in parts.items()}
        return counts | {"held_out": by or "", "sha256": digest(members)}

    def load(self, folder: Path) -> dict[str, np.ndarray]:
        row = {name: i for i, name in enumerate(self.run.table["clip"])}
        members = json.loads((folder / "split.json").read_text("utf-8"))
        dealt = [name for names in members.values() for name in names]
        if sorted(dealt) != sorted(row):
            raise PpferError(
                f"{folder / 'split.json'} does not deal every clip to exactly one of train, val "
                "and test; delete its folder and run notebook 00 again"
            )
        rows = {part: [row[name] for name in names] for part, names in members.items()}
        return {part: np.array(places, np.int64) for part, places in rows.items()}


def names_people(run: Any) -> bool:
    """Whether PLR says something: there are people to tell apart, and training shows all of those
    who are tested, as it does not of actor-disjoint parts.
    """
    train, test = (set(run.labels("actor")[run.parts[part]]) for part in ("train", "test"))
    return len(train) > 1 and test <= train


@stage("protected/{protector}", settings=("keep_protected",), notebook="", alone=True)
class Protected(Stage):
    """All clips through a protector, as a ClipStore ("none" is the original store itself)."""

    def __init__(self, run: Any, value: str = ""):
        super().__init__(run, value)
        self.what = run.protector(self.protector)
        self.version = self.what.version

    def origin(self) -> str:
        return self.what.notebook

    def needs(self) -> tuple[str, ...]:
        return ("clips", *self.what.needs)

    def settings(self) -> dict:
        return super().settings() | pick(self.config, *self.what.settings)

    def stream(self) -> Iterator[Tensor]:
        """The protected clips, uint8 batches on the run's device."""
        run, config, what = self.run, self.config, self.what
        clips = run.tensor(f"protected/{what.compensates or 'none'}")
        built = what.build(run)
        apply = deployed(
            built.compensate if what.compensates else built,
            CLIPS_A_PASS,
            precision=config.precision,
            compile=config.compile,
        )
        protected = protect_all(
            apply,
            clips,
            device=run.device,
            batch=CLIPS_A_PASS,
            name=what.name,
            names=list(run.table["clip"]) if what.named else None,
            precision=config.precision,
        )
        return counted(protected, self.name, len(clips))

    def make(self, folder: Path) -> dict:
        if self.protector != "none" and self.config.keep_protected:
            clips = self.run.get("clips")
            source = {"protector": self.protector, "clips": clips.hash}
            ClipStore.from_array(folder / "store", self.stream(), clips.table, source=source)
        return {"what_ran": self.what.description(self.run)}

    def load(self, folder: Path) -> ClipStore:
        if self.protector == "none":
            return self.run.get("clips")
        if self.config.keep_protected:
            return ClipStore.open(folder / "store")
        there = self.run.tensor("clips").device  # where there is room for clips
        pixels = torch.cat([part.to(there) for part in self.stream()])
        return ClipStore.in_memory(pixels, self.run.table)


def counted(parts: Iterable[Any], label: str, clips: int) -> Iterator[Any]:
    """Parts of so many clips as they come, each of several, and how far one is."""
    progress, done = Progress(label, clips, "clips"), 0
    for part in parts:
        yield part
        progress.update(done := done + len(part))


class ByClip(dict):
    """What a run knows of its clips, by their names; another name is a `PpferError`."""

    def __missing__(self, name: str) -> Any:
        raise PpferError(
            f"this protector knows the clips of its run alone; '{name}' is none of them"
        )


def by_clip(run: Any, values: Iterable) -> ByClip:
    """What is known of a run's clips, in its table's order, for a protector that is `named`."""
    return ByClip(zip(run.table["clip"], values, strict=True))
