"""Weights, read and saved in one way: a file is refused with a sentence, or it fits and is loaded
whole: names and shapes are compared before the first tensor is copied. Pickled code is never run.
"""

import logging
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import Weights, WeightsEnum, get_model_weights

from ppfer.base.errors import PpferError, some
from ppfer.base.files import LFS_MAGIC, atomic

Source = str | Path | Mapping[str, Tensor]
# what DistributedDataParallel, common training scripts and torch.compile put before every name
PREFIXES = ("module.", "model.", "_orig_mod.")
WRAPPED = ("state_dict", "model_state_dict", "model")
HEAD = ("fc.bias", "fc.weight")  # a classifier's last layer

logger = logging.getLogger(__name__)


def save_weights(module: nn.Module, path: str | Path, *, half: bool = False) -> Path:
    """Write a module's state dict as safetensors, whole or not at all; with `half` in half
    precision: loading gives the network's own again, rounded. Raises as `save_tensors`.
    """
    state = module.state_dict()
    if half:
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    return save_tensors(state, path)


def save_tensors(
    state: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None
) -> Path:
    """The same of tensors by name, with what the file's header is to say of them; a `PpferError`
    when the file cannot be written (full disk, no permission).
    """
    path = Path(path)
    try:
        with atomic(path) as partial:
            tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
            save_file(tensors, partial, metadata)
    except Exception as error:
        raise PpferError(f"weights could not be written to {path}: {error}") from error
    return path


def read_weights(source: Source) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from a mapping, a safetensors file or what `torch.save` wrote:
    its content says which, not its name. A dictionary that wraps its tensors under one of `WRAPPED`
    is unwrapped.

    Raises:
        PpferError: when there is no such file, it cannot be read, it holds something else than
            tensors, or a tensor holds NaN or infinity.
    """
    state = source if isinstance(source, Mapping) else _read_file(Path(source))
    where = _named(source)
    for key in WRAPPED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = isinstance(state, Mapping) and all(isinstance(v, Tensor) for v in state.values())
    if not tensors or not state:
        raise PpferError(f"{where} holds no state dict: expected names mapped to tensors")
    broken = [k for k, v in state.items() if not v.is_meta and not v.isfinite().all()]
    if broken:
        raise PpferError(
            f"{where} holds NaN or infinity in {some(broken, 8)}: the training that made it broke "
            "down; take an earlier checkpoint"
        )
    return dict(state)


def _read_file(path: Path) -> object:
    """Whatever a weights file holds."""
    if not path.is_file():
        raise PpferError(f"there is no weights file at {path}")
    with path.open("rb") as stream:
        start = stream.read(64)
    if start.startswith(LFS_MAGIC):
        raise PpferError(f"{path} is a Git-LFS pointer, not the weights; run: git lfs pull")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise PpferError(
            f"{path} is a web page, not weights: the server sent a page (a login, a virus warning) "
            "in place of the file; open the link in a browser and save the file from there"
        )
    try:
        if path.suffix == ".safetensors" or start[8:9] == b"{":  # a length of 8 bytes, then JSON
            return load_file(path)
        if start.startswith((b"PK", b"\x80")):  # a zip file or, until torch 1.5, a bare pickle
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words advise weights_only=False, which is to run what the file says
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise PpferError(
                f"{path} cannot be read as weights: besides tensors it holds Python objects "
                f"({found[1]}), and unpacking them may run code; where it was made, save the "
                "tensors alone: torch.save(model.state_dict(), PATH)"
            ) from error
    except Exception as error:
        if "TorchScript" in str(error):
            raise PpferError(
                f"{path} cannot be read as weights: it is a TorchScript program; where it was "
                "made, save the tensors alone: torch.save(model.state_dict(), PATH)"
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        raise PpferError(
            f"{path} cannot be read as weights ({reason}): cut short or damaged; fetch it again"
        ) from error
    raise PpferError(
        f"{path} cannot be read as weights: safetensors or torch.save did not write it"
    )


def load_weights(module: nn.Module, source: Source) -> nn.Module:
    """Load every tensor of `module` from `source` (see `read_weights`), or none; returns it.

    `PREFIXES` are stripped where every name of the source carries one and the module's own do not.
    A module on the meta device, which takes no memory before the weights are known to fit, takes
    the source's tensors themselves.

    Raises:
        PpferError: naming what is missing, unexpected or of another shape. BatchNorm's
            ``num_batches_tracked``, absent from old files and unused, may be missing.
    """
    own, state = _match(module, source)
    _refuse(module, source, _compare(own, state))
    _load(module, state)
    return module


def shipped_weights(module: nn.Module, path: Path, what: str) -> nn.Module:
    """`module` with weights that the repository ships; a `PpferError` if there are none."""
    if not path.is_file():
        raise PpferError(
            f"the {what}'s weights {path} are not there; fetch them with the repository, or "
            f"train it (on a GPU it takes minutes): python data/export.py {what}"
        )
    return load_weights(module, path)


def load_pretrained(net: nn.Module, name: str, weights: Source | None, option: str) -> None:
    """Load everything but the head from a network trained for other classes. The head is loaded
    too where its shape agrees; where it doesn't, it alone stays as initialised, and a warning says
    so.

    Args:
        net: the network itself (`Classifier.net`, `Recognizer.net`), by torchvision's `name`.
        weights: None or "" leaves `net` as it is; "DEFAULT" has torchvision fetch its best weights;
            else see `read_weights`.
        option: the setting `weights` came from, for error messages.

    Raises:
        PpferError: when there are no such weights, they cannot be fetched, or the file does not
            hold this backbone with a head; `net` is then untouched.
    """
    if not weights:
        return
    source = weights
    if isinstance(weights, str) and weights == "DEFAULT":
        try:
            source = fetch(get_model_weights(name).DEFAULT, option)
        except ValueError:
            raise PpferError(
                f"'{name}' has no published weights; give {option} a path or leave it empty"
            ) from None

    # the head may differ, and nothing else
    own, state = _match(net, source)
    if lost := [key for key in HEAD if key not in state]:
        _refuse(net, source, [f"missing: {', '.join(lost)}"])
    same_head = all(state[key].shape == own[key].shape for key in HEAD)
    fresh = () if same_head else HEAD  # a head is replaced whole
    body = {k: v for k, v in state.items() if k not in fresh}
    _refuse(net, source, _compare({k: v for k, v in own.items() if k not in fresh}, body))
    _load(net, body)
    if not same_head:
        where = "a state dict" if isinstance(source, Mapping) else str(source)
        theirs, ours = len(state["fc.bias"]), len(own["fc.bias"])
        logger.warning(
            f"loaded {len(own) - len(fresh)} of {len(own)} tensors from {where}; "
            f"the head 'fc' ({theirs} classes there, {ours} here) starts fresh and must be trained"
        )


def fetch(published: Weights | WeightsEnum, option: str) -> Mapping[str, Tensor]:
    """The state dict of weights that torchvision publishes, such as ``ResNet50_Weights.DEFAULT``,
    downloaded once and checked against its hash; else a `PpferError` says what to fetch by hand,
    and which setting (`option`) takes its path.
    """
    try:
        return published.get_state_dict(progress=False, check_hash=True)
    except Exception as error:
        raise PpferError(
            f"the {published} weights could not be downloaded ({error}); "
            f"fetch {published.url} and pass its path: {option}=PATH"
        ) from error


def total(net: nn.Module) -> float:
    """The sum of all a network learns: another number once anything was learnt."""
    learnt = [p.detach().double().sum() for p in net.parameters() if p.requires_grad]
    return float(sum(learnt)) if learnt else float("nan")


def _load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy what was checked; what `state` does not have stays as it is."""
    own = module.state_dict()
    whole = {k: state.get(k, v).to(v.dtype) for k, v in own.items()}
    module.load_state_dict(whole, assign=any(v.is_meta for v in own.values()))


def _match(module: nn.Module, source: Source) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Own and given tensors under comparable names."""
    own, state = module.state_dict(), read_weights(source)
    for prefix in len(PREFIXES) * PREFIXES:  # they may stand in any order
        theirs, ours = (all(k.startswith(prefix) for k in names) for names in (state, own))
        if theirs and not ours:
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    return own, state


def _compare(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """What stands between two sets of tensors, one line a kind."""
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    misshapen = [
        f"{k} is {tuple(state[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "wrong shape": misshapen}
    return [f"{kind}: {some(names, 8)}" for kind, names in kinds.items() if names]


def _named(source: Source) -> str:
    return "the given state dict" if isinstance(source, Mapping) else str(source)


def _refuse(module: nn.Module, source: Source, faults: Sequence[str]) -> None:
    if faults:
        raise PpferError(
            f"{_named(source)} does not fit {type(module).__name__}; nothing was loaded. "
            + "; ".join(faults)
        )
