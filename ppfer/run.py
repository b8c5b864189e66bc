"""What a run is: a configuration, a folder of stage results, and the rule for when a result may be used again.

``runs/<name>/<stage>/`` holds a stage's weights (safetensors), ``metrics.jsonl`` and ``manifest.json``. The manifest's
key is a digest of the settings the stage depends on and of the keys of the stages it stands on; a result whose key
still matches is loaded instead of made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from ppfer import __version__
from ppfer.config import REPO, Config, PpferError, digest, to_dict


class MissingInput(PpferError):
    """A stage's result is not there yet; the message names the notebook that makes it."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        name: folder under the run, e.g. "identity" or "recognizer/ppfer".
        notebook: the notebook that makes it.
        needs: stages whose results go in.
        settings: everything else the result depends on; part of the key.
        make: ``make(run, folder) -> summary``: does the work, leaves files in the folder.
        load: ``load(run, folder) -> result``.
        alone: made by the main process only, the others wait; training stages are made by all together.
    """

    name: str
    notebook: str
    needs: tuple[str, ...]
    settings: Any
    make: Callable[[Run, Path], dict]
    load: Callable[[Run, Path], Any]
    alone: bool = False


STAGES: dict[str, Callable[..., Stage]] = {}  # kind → function(config[, argument]) that describes the stage


def define(function: Callable[..., Stage]) -> Callable[..., Stage]:
    """Register a function that describes a stage under its own name; "kind/argument" passes the argument on."""
    STAGES[function.__name__] = function
    return function


class Run:
    """A configuration, its data and its results.

    Args:
        config: from `ppfer.config.load_config`.
        runs_dir: parent of the run's folder.
        device: default: CUDA if there, else CPU.

    Attributes:
        dir: ``runs_dir/<profile>[-<data folder>][-seed<n>]``.
    """

    def __init__(self, config: Config, runs_dir: str | Path = "runs", device: str | torch.device | None = None):
        local = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        self.config = config
        self.device = torch.device(device or (local if torch.cuda.is_available() else "cpu"))
        self.dir = Path(runs_dir) / run_name(config)
        self._results: dict[str, Any] = {}
        self._keys: dict[str, str] = {}
        self._stages: dict[str, Stage] = {}  # described once: the data stages look at every file for it
        self._tensors: dict[str, Tensor] = {}
        self.kept: dict[str, Tensor] = {}  # by keys of stages: what is quicker kept than computed again

    # -- results -------------------------------------------------------------------------------------------------

    def make(self, name: str, *, load: bool = True) -> Any:
        """The result of a stage, made now unless a matching one is there; its inputs must exist (`get`). None without `load`."""
        stage = self.describe(name)
        folder, key = self.dir / name, self.key(name)
        finished = self._manifest(name).get("key") == key
        wait_for_everyone()
        if not finished:
            self._begin(folder, key)
            wait_for_everyone()
            began = time.monotonic()
            if self.device.type == "cuda":
                torch.cuda.init()  # the first stage may come before anything used the GPU
                torch.cuda.reset_peak_memory_stats(self.device)
            if is_main() or not stage.alone:
                with self._fitting(stage):
                    summary = stage.make(self, folder)
                self._finish(stage, folder, key, summary, began)
            self._results.pop(name, None)
            wait_for_everyone()
        return self.get(name) if load else None

    def get(self, name: str) -> Any:
        """The result of a finished stage.

        Raises:
            MissingInput: if it was never made or belongs to another configuration; names the notebook to run.
        """
        stage, _ = self.describe(name), self.manifest(name)
        if name not in self._results:
            with self._fitting(stage), torch.random.fork_rng(devices=[]):  # loading must not move the caller's random numbers: a stage is seeded
                self._results[name] = stage.load(self, self.dir / name)  # before it asks for its inputs
        return self._results[name]

    def manifest(self, name: str) -> dict:
        """How a finished stage was made: settings, inputs, seconds, device, versions, and the summary its ``make`` returned.

        Raises:
            MissingInput: as `get`.
        """
        manifest, key = self._manifest(name), self.key(name)
        if manifest.get("key") != key:
            why = "was made with other settings or inputs" if manifest else "does not exist yet"
            notebook = self.describe(name).notebook
            raise MissingInput(f"{self.dir / name} {why}; run notebook {notebook} with profile {self.config.profile} first")
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
        return [json.loads(line) for line in (self.dir / name / "metrics.jsonl").read_text().splitlines()]

    def key(self, name: str) -> str:
        """Digest of the stage's settings and of the keys of all it stands on."""
        if name not in self._keys:
            stage = self.describe(name)
            inputs = {need: self.key(need) for need in stage.needs}
            self._keys[name] = digest({"stage": name, "settings": stage.settings, "inputs": inputs})
        return self._keys[name]

    def describe(self, name: str) -> Stage:
        """The stage of that name under this run's config.

        Raises:
            PpferError: if there is no such stage.
        """
        if name not in self._stages:
            kind, _, argument = name.partition("/")
            if kind not in STAGES:
                raise PpferError(f"unknown stage '{name}'; known: {', '.join(STAGES)}")
            self._stages[name] = STAGES[kind](self.config, argument) if argument else STAGES[kind](self.config)
        return self._stages[name]

    def _manifest(self, name: str) -> dict:
        path = self.dir / name / "manifest.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def _begin(self, folder: Path, key: str) -> None:
        """Keep what an interrupted attempt with the same key left behind; clear anything else."""
        if not is_main():
            return
        mark = folder / "started.json"
        if folder.exists() and (not mark.exists() or json.loads(mark.read_text())["key"] != key):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        mark.write_text(json.dumps({"key": key}))

    def _finish(self, stage: Stage, folder: Path, key: str, summary: dict, began: float) -> None:
        if not is_main():
            return
        manifest = {
            "stage": stage.name, "key": key, "settings": stage.settings, "inputs": {n: self.key(n) for n in stage.needs},
            "seed": self.config.seed, "profile": self.config.profile, "seconds": round(time.monotonic() - began, 2), "device": device_name(self.device),
            "versions": versions(), "summary": summary,
        }
        if self.device.type == "cuda":
            manifest["peak_gib"] = round(torch.cuda.max_memory_allocated(self.device) / 2**30, 2)
        write_json(folder / "manifest.json", manifest)

    @contextlib.contextmanager
    def _fitting(self, stage: Stage) -> Iterator[None]:
        """Say what to change when making or loading a stage needs more memory than the GPU has."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            asked = [value for value in stage.settings.values() if isinstance(value, dict) and "batch" in value]
            batch = next((f"--set {k}.batch={v['batch'] // 2}" for k, v in to_dict(self.config).items() if v in asked), "--set size=SMALLER")
            raise PpferError(f"{stage.name} does not fit the memory of {device_name(self.device)}; run again with less at once, e.g. {batch}. Finished "
                             "stages whose settings stay the same are kept. `ppfer cost` says what each stage takes") from error

    def finished(self) -> dict[str, dict]:
        """Stage → what its manifest says of its making, for all that is finished in the run's folder."""
        said = (json.loads(path.read_text()) for path in sorted(self.dir.rglob("manifest.json")))
        return {m["stage"]: {k: m["summary"][k] for k in ("steps", "best_step") if k in m["summary"]}
                | {"training_seconds": m["summary"].get("seconds", 0)} | {k: m[k] for k in ("seconds", "peak_gib", "seed", "device", "versions", "key") if k in m}
                for m in said if "stage" in m}

    # -- data ----------------------------------------------------------------------------------------------------

    @property
    def table(self) -> Any:
        """The table of the original clips (pandas): clip, actor, emotion, sentence, level, sex, age, race."""
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

    def tensor(self, name: str) -> Tensor:
        """(N, T, 3, H, W) uint8 pixels of a store: "clips", "wild" or "protected/<protector>"; on the GPU if there is one with room.

        Clips go to a GPU if they leave half of what is free there to the networks; else they stay in main memory, and only batches
        go. Room is made by putting protected clips aside, the oldest first: from a GPU of which a fifth is taken to main memory,
        and out of that where less is left than four such stores take; then they are read or made again.
        """
        name = "clips" if name == "protected/none" else name
        if name not in self._tensors:
            self.put_aside(0.2)
            for old in [n for n in self._results if n.startswith("protected/") and n != name]:
                if psutil.virtual_memory().available < 4 * self.get("clips").clips.nbytes:
                    self._tensors.pop(old, None)
                    del self._results[old]
            store = self.get(name)
            there = isinstance(store.clips, Tensor) and store.clips.device.type == self.device.type
            fits = there or self._fits(store.clips.nbytes)
            if not fits and is_main():
                print(f"{name}: {store.clips.nbytes / 2**30:.1f} GiB of clips stay in main memory, the GPU has no room for them", flush=True)
            self._tensors[name] = store.to(self.device if fits else "cpu")
        return self._tensors[name]

    def _fits(self, size: int) -> bool:
        """Whether so many bytes of clips leave half of the device's free memory free."""
        if self.device.type != "cuda":
            return True
        free = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return 2 * size < free

    def put_aside(self, share: float = 0.0) -> None:
        """Move protected clips from the GPU to main memory, the oldest first, while more than this share of the GPU is taken."""
        for old in [n for n in self._tensors if n.startswith("protected/")] if self.device.type == "cuda" else []:
            if torch.cuda.memory_allocated(self.device) > share * torch.cuda.get_device_properties(self.device).total_memory:
                del self._tensors[old]
                self._results[old].offload()


def run_name(config: Config) -> str:
    """Folder name of a run: the profile, the data if not the profile's own, the seed if not 0."""
    from ppfer.config import PROFILES

    name = config.profile
    if config.data != PROFILES[config.profile].data:
        name += "-" + Path(config.data).resolve().name
    return name + (f"-seed{config.seed}" if config.seed else "")


def data_path(path: str) -> Path:
    """A data folder named in a config, absolute (stores keep it): as given if it exists, else relative to the repository."""
    given = Path(path).expanduser()
    return given.absolute() if given.is_absolute() or given.exists() else REPO / given


def is_main() -> bool:
    """True in the one process that writes files."""
    return os.environ.get("RANK", "0") == "0"


def wait_for_everyone() -> None:
    """A barrier over the processes of ``accelerate launch``; nothing with one process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


def device_name(device: torch.device) -> str:
    """E.g. "NVIDIA H100 80GB HBM3" or "CPU x86_64, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions a result depends on."""
    import torchvision

    return {"ppfer": __version__, "python": platform.python_version(), "torch": torch.__version__,
            "torchvision": torchvision.__version__, "numpy": np.__version__}


def write_json(path: Path, value: object) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1, default=str) + "\n")
    partial.replace(path)


def settings(config: Config, *names: str) -> dict:
    """The named fields of a config as plain JSON types, for a stage's key."""
    values = to_dict(config)
    return {name: values[name] for name in names}
