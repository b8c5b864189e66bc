"""A trained protector in one file: made in a run, used where neither the run nor its clips are.

A safetensors file with the tensors of the stages that the protector stands on, as
``<stage>:<tensor>``, and in its metadata, as JSON, the settings they were made with, what was
measured, and a sha256 of all that. It shows that a file is as it was written, not by whom: whoever
alters one on purpose can write the sum anew.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ppfer.base.errors import PpferError
from ppfer.base.weights import read_weights, save_tensors
from ppfer.config import PATHS, dotted, load_config, to_dict
from ppfer.run.clips import twin_origin
from ppfer.run.run import Run
from ppfer.run.stage import Protector, Stage

FORMAT = "1"  # raised when older versions can't read what is written
THEIRS = ("nets.autoencoder", "landmarker")  # files of others, which the user has to give
LEFT_OUT = {*PATHS, *THEIRS, "name"}  # settings that may name a person, or a place elsewhere


def write_export(run: Run, name: str, path: Path, said: Mapping[str, object]) -> Path:
    """Write a protector that the run has trained to a file, whole or not at all, with what else is
    to be `said` of it (JSON types, nothing about people or their clips).

    Raises:
        PpferError: when it stands on something else than networks, or cannot be written.
    """
    state, stages = {}, {}
    of_networks(run, name)
    for need in run.protector(name).needs:
        stage = run.stage(need)
        if not run.has(need):  # a shipped network, which `build` takes from where it lies
            run.ensure(need)
        made, kept = run.get(need), getattr(stage, "of_people", ())
        made = made.state_dict() if isinstance(made, nn.Module) else made
        state |= {f"{need}:{key}": x.cpu() for key, x in made.items() if key not in kept}
        summary = {"classes": run.summary(need).get("classes")}  # of expressions, where it has any
        stages[need] = {"key": run.key(need), "summary": summary}
    settings = {k: v for k, v in dotted(to_dict(run.config)).items() if k not in LEFT_OUT}
    # how faces are looked for depends on whether the clips were drawn, not on where they lie
    settings |= {"data": "not in this file", "generate": twin_origin(run.config) is not None}
    keys = {f"protected/{name}": run.key(f"protected/{name}")}
    about = {"approach": name, "settings": settings, "stages": stages, "keys": keys, **said}
    metadata = {key: json.dumps(value) for key, value in about.items()} | {"export": FORMAT}
    return save_tensors(state, path, metadata | {"sha256": _sha256(metadata, state)})


def of_networks(run: Run, name: str) -> None:
    """A `PpferError` when a protector stands on something else than networks."""
    for need in run.protector(name).needs:
        if not hasattr(run.stage(need), "loaded"):
            raise PpferError(
                f"{name} stands on {need}, which is about a run's clips, and stays in the run; "
                "export one that is made of networks, e.g. ppfer"
            )


def read_export(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """What a file says, and its tensors; a `PpferError` where it is no export or was altered."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}
    except Exception:
        metadata, state = {}, read_weights(path)  # says what is wrong with a file that is none
    if metadata.get("export") != FORMAT:
        raise PpferError(f"{path} is no protector that `ppfer export` of this version wrote")
    said = metadata.pop("sha256", "")
    if said != _sha256(metadata, state):
        raise PpferError(f"{path} was altered after it was written; fetch it again from its makers")
    del metadata["export"]
    about = {key: json.loads(value) for key, value in metadata.items()}
    return about | {"sha256": said}, state


def _sha256(metadata: Mapping[str, str], state: Mapping[str, Tensor]) -> str:
    made = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(state.items()):
        made.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        made.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return made.hexdigest()


class ExportedRun(Run):
    """A run of which nothing is there but what one protector stands on, out of a file; what that
    says is in ``about``. See `Run`; `settings` are of `THEIRS`.
    """

    def __init__(
        self,
        path: Path,
        stages: Iterable[type[Stage]],
        protectors: Iterable[Protector],
        settings: Mapping[str, object],
    ):
        self.about, state = read_export(path)
        given = {**self.about["settings"], **settings}
        config = load_config(given.pop("profile"), given)
        super().__init__(config, stages=stages, protectors=protectors)
        self._keys |= self.about["keys"]
        for name, manifest in self.about["stages"].items():
            own = {k.partition(":")[2]: x for k, x in state.items() if k.startswith(f"{name}:")}
            self._keys[name] = manifest["key"]
            self._results[name] = self.stage(name).loaded(own)

    def key(self, name: str) -> str:
        """As it was in the run; "" of what is not in the file."""
        return self._keys.get(name, "")

    def _manifest(self, name: str) -> dict:
        return self.about["stages"].get(name, {})
