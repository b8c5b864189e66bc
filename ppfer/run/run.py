"""What a run is: a configuration, a folder of stage results, and the rule for when a result may be
used again.

``runs/<name>/<stage>/`` holds a stage's weights (safetensors), ``metrics.jsonl`` and
``manifest.json``. The manifest's key is a digest of the settings the stage depends on and of the
keys of the stages it stands on; a result whose key still matches is loaded instead of made again.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from ppfer import measure
from ppfer.base.device import device_name, explaining_memory, versions
from ppfer.base.errors import PpferError, check
from ppfer.base.files import atomic, digest, owner_only, read_json, read_lines, sweep, write_json
from ppfer.base.processes import is_main, wait_for_everyone
from ppfer.base.progress import say
from ppfer.config import Config, pick
from ppfer.run.gpu_memory import Room
from ppfer.run.names import ASIDE, RUNS, introduce, key_of_lost_data, run_name
from ppfer.run.stage import COMPARING, Protector, Stage


class MissingInput(PpferError):
    """A stage's result is not there yet; the message names the notebook that makes it."""


class Run:
    """A configuration and its results.

    Args:
        device: default: CUDA if there, else CPU.
        stages: classes of all that can be made; `ppfer.study.catalogue` lists every one there is.
        protectors: the rows of the tables.

    Attributes:
        dir: its folder in `runs_dir`, named by `ppfer.run.names.run_name`. Stages that another run
            there has made with the same settings and inputs are used from that one.
        room: where clips lie as tensors.
    """

    def __init__(
        self,
        config: Config,
        runs_dir: str | Path = RUNS,
        device: str | torch.device | None = None,
        *,
        stages: Iterable[type[Stage]] = (),
        protectors: Iterable[Protector] = (),
    ):
        self.config = config
        local = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        self.device = torch.device(device or (local if torch.cuda.is_available() else "cpu"))
        self.dir = Path(runs_dir) / run_name(config)
        self.stages = {cls.kind: cls for cls in stages}
        self.protectors = {protector.name: protector for protector in protectors}
        self.room = Room(self.device)
        self._results: dict[str, Any] = {}
        self._keys: dict[str, str] = {}
        # described once: the data stages look at every file for it
        self._stages: dict[str, Stage] = {}
        self._places: dict[str, Path] = {}

    def __repr__(self) -> str:
        return f"Run({self.dir.name!r} on {self.device})"

    # -- results ---------------------------------------------------------------------

    def make(self, name: str, *, load: bool = True) -> Any:
        """The result of a stage (None without `load`), made now unless a matching one is there; its
        inputs must exist (`get`).
        """
        with self._in_turn(name):
            wait_for_everyone()
            finished = self.has(name)
            wait_for_everyone()  # all have looked before anyone finishes it
            if not finished:
                self._make(name)
                self._results.pop(name, None)
                wait_for_everyone()
        return self.get(name) if load else None

    def ensure(self, name: str) -> None:
        """Make a stage and all it stands on that comparing methods makes (`Stage.origin`); what the
        main run makes must be there.

        Raises:
            MissingInput: naming the main notebook (00–07) to run first.
        """
        for need in self.stage(name).needs():
            if self.stage(need).origin() >= COMPARING:
                self.ensure(need)
        self.make(name, load=False)

    @contextlib.contextmanager
    def _in_turn(self, name: str) -> Iterator[None]:
        """While a stage is made any other program that needs it, or its folder, waits for it."""
        if not is_main() or self.has(name):
            yield
            return
        owner_only(self.dir)
        locks = self.dir.parent / ".making"
        locks.mkdir(exist_ok=True)
        with contextlib.ExitStack() as held:
            for mark in (self.key(name), digest(str(self.dir.resolve() / name))):
                lock = FileLock(locks / f"{mark}.lock")
                try:
                    lock.acquire(blocking=False)
                except Timeout:
                    say(f"{name} is being made by another program; waiting for it")
                    lock.acquire()
                held.callback(lock.release)
            yield

    def _make(self, name: str) -> None:
        folder = self._begin(name)
        wait_for_everyone()
        stage, began = self._new(name), time.monotonic()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # what names no device goes where the run is
            torch.cuda.init()  # the first stage may come before anything used the GPU
            torch.cuda.reset_peak_memory_stats(self.device)
        if is_main() or not stage.alone:
            memory = explaining_memory(name, self.device, stage.lighter())
            with memory, torch.random.fork_rng(devices=[]):  # as for what is loaded, see `get`
                summary = stage.make(folder)
            self._finish(stage, folder, summary, time.monotonic() - began)

    def get(self, name: str) -> Any:
        """The result of a finished stage; a `MissingInput` if it was never made or belongs to
        another configuration.
        """
        self.manifest(name)
        if name not in self._results:
            stage = self.stage(name)
            # loading must not move the caller's random numbers: a stage is seeded before it asks
            # for its inputs
            memory = explaining_memory(name, self.device, stage.lighter())
            with memory, torch.random.fork_rng(devices=[]):
                try:
                    self._results[name] = stage.load(self.folder(name))
                except MissingInput:
                    raise
                except (PpferError, FileNotFoundError) as error:  # of a folder that was half copied
                    raise MissingInput(
                        f"{error}; remove {self.folder(name)} and run notebook "
                        f"{stage.origin()} again"
                    ) from error
        return self._results[name]

    def manifest(self, name: str) -> dict:
        """How a finished stage was made: settings, inputs, seconds, device, versions, and its
        summary; raises as `get`.
        """
        manifest = self._manifest(name)
        if manifest.get("key") != self.key(name):
            why = "was made with other settings or inputs" if manifest else "does not exist yet"
            raise MissingInput(
                f"{self.dir / name} {why}; run notebook {self.stage(name).origin()} "
                f"with profile {self.config.profile} first"
            )
        return manifest

    def has(self, name: str) -> bool:
        """Whether a finished, matching result is there."""
        try:
            return self._manifest(name).get("key") == self.key(name)
        except MissingInput:
            return False

    def summary(self, name: str) -> dict:
        """What the stage's ``make`` returned, from its manifest."""
        return self.manifest(name)["summary"]

    def metrics(self, name: str) -> list[dict]:
        """Rows of the stage's ``metrics.jsonl``: step, loss and validation measures."""
        return read_lines(self.folder(name) / "metrics.jsonl")

    def key(self, name: str) -> str:
        """Digest of the stage's settings and of the keys of all it stands on."""
        if name not in self._keys:
            stage = self.stage(name)
            inputs = {need: self.key(need) for need in stage.needs()}
            try:
                settings = stage.settings()
            except PpferError:
                own = pick(self.config, *stage.named_settings)
                if not (key := key_of_lost_data(self.dir / name, own)):
                    raise
                return self._keys.setdefault(name, key)
            described = {"stage": name, "settings": settings, "inputs": inputs}
            # version 1 is left out: keys from before there were versions stay what they were
            described |= {"version": stage.version} if stage.version != 1 else {}
            self._keys[name] = digest(described)
        return self._keys[name]

    def stage(self, name: str) -> Stage:
        """The stage of that name under this run's config; a `PpferError` if there is none."""
        if name not in self._stages:
            self._stages[name] = self._new(name)
        return self._stages[name]

    def with_needs(self, name: str) -> Iterator[str]:
        """A stage after all that it stands on, which may come more than once."""
        for need in self.stage(name).needs():
            yield from self.with_needs(need)
        yield name

    def _new(self, name: str) -> Stage:
        """A stage to be made: what it keeps while it is made goes with it."""
        kind, _, value = name.partition("/")
        check("stage", kind, self.stages)
        return self.stages[kind](self, value)

    def protector(self, name: str) -> Protector:
        """The protector of that name; a `PpferError` if there is none."""
        check("protector", name, self.protectors)
        return self.protectors[name]

    def folder(self, name: str) -> Path:
        """The folder of a stage's result: in this run, or in another whose key is the same."""
        key, own = self.key(name), self.dir / name
        found = self._places.get(name, own)
        if _read(found).get("key") == key:
            return found
        for path in sorted(self.dir.parent.glob(f"*/{name}/manifest.json")):
            if _read(path.parent).get("key") == key:
                self._places[name] = path.parent
                return path.parent
        return own

    def _manifest(self, name: str) -> dict:
        return _read(self.folder(name))

    def _begin(self, name: str) -> Path:
        """Keep what an interrupted attempt with the same key left behind. A finished result with
        another key is put aside, any other attempt is cleared.
        """
        folder, key = self.dir / name, self.key(name)
        if is_main():
            introduce(self.dir, self.config)
            mark = folder / "started.json"
            begun = read_json(mark).get("key", "")
            sweep(folder, 0)  # nobody else makes this stage: see `_in_turn`
            # of other stages in sub-folders, privacy/frames in privacy, nothing is touched
            own = [c for c in folder.glob("*") if not (c / "started.json").exists()]
            if finished := _read(folder).get("key"):
                aside = self.dir / ASIDE / f"{name}-{finished}"
                shutil.rmtree(aside, ignore_errors=True)  # the same, left behind before
                aside.mkdir(parents=True)
                for child in own:
                    child.replace(aside / child.name)
            elif begun != key:
                for child in own:
                    shutil.rmtree(child) if child.is_dir() else child.unlink()
            write_json(mark, {"key": key})
        return folder

    def _finish(self, stage: Stage, folder: Path, summary: dict, seconds: float) -> None:
        if not is_main():
            return
        manifest = {
            "stage": stage.name,
            "key": self.key(stage.name),
            "settings": stage.settings(),
            "inputs": {need: self.key(need) for need in stage.needs()},
            "seed": self.config.seed,
            "profile": self.config.profile,
            "seconds": round(seconds, 2),
            "device": device_name(self.device),
            "versions": versions(),
            "summary": summary,
        }
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            manifest["peak_gib"] = round(peak / 2**30, 2)
        write_json(folder / "manifest.json", manifest)

    # -- data ------------------------------------------------------------------------

    @property
    def table(self) -> Any:
        """The original clips' table: clip, actor, emotion, sentence, level, sex, age, race."""
        return self.get("clips").table

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """Indices of the clips in "train", "val" and "test"."""
        return self.get("split")

    def classes(self, column: str) -> list[str]:
        """Sorted values of a column: the order of the logits of any classifier over it."""
        return self.get("clips").classes(column)

    def labels(self, column: str) -> np.ndarray:
        """(N,) int64 labels of the original clips."""
        return self.get("clips").labels(column)

    def chance(self, column: str) -> float:
        """`measure.chance` of a column: what naming it by guessing is right about."""
        return measure.chance(self.labels(column))

    def tensor(self, name: str) -> Tensor:
        """(N, T, 3, H, W) uint8 pixels of a store, "clips", "wild" or "protected/<protector>"."""
        name = "clips" if name == "protected/none" else name
        return self.room.tensor(name, lambda: self.get(name), self._results)

    def logits(
        self,
        net: str | nn.Module,
        store: str | Tensor,
        part: str | np.ndarray | None = None,
        *,
        per_frame: bool | None = None,
        batch: int = 64,
    ) -> Tensor:
        """What a network says of a part of a store's clips (`ppfer.measure.logits`).

        Args:
            net: a network, or the name of the stage that trained it.
            store: the name of a store, or (N, T, 3, H, W) uint8 pixels.
            part: "train", "val", "test", or places in the store; None for all of it.
            per_frame: whether the network sees single frames; by default all but F_u do.
            batch: clips at a time.

        Returns:
            (n, T, classes) of a network of frames, (n, classes) of one of clips.
        """
        # several tables ask for it: where all three are names it is kept under their keys
        rows, kept = self.parts[part] if isinstance(part, str) else part, None
        if all(isinstance(about, str) for about in (net, store, part)):
            self.manifest(net)  # only of a network that is there
            key = digest([*map(self.key, (net, store, "split")), part, per_frame])
            kept = self.dir / "logits" / f"{key}.npy"
            if kept.exists() and len(answer := torch.from_numpy(np.load(kept))) == len(rows):
                return answer

        # else the network is asked
        judge = self.get(net) if isinstance(net, str) else net
        sees_clips = getattr(judge, "sees_clips", False)
        answer = measure.logits(
            judge,
            self.tensor(store) if isinstance(store, str) else store,
            rows,
            per_frame=not sees_clips if per_frame is None else per_frame,
            device=self.device,
            precision=self.config.precision,
            batch=batch,
        )
        if kept and is_main():
            with atomic(kept) as partial:
                np.save(partial, answer.numpy())
        return answer


def _read(folder: Path) -> dict:
    """A stage's manifest; {} where nothing is finished."""
    return read_json(folder / "manifest.json")
