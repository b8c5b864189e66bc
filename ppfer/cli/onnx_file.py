"""A protector's network, or the regressor, as ONNX: for programs that know no PyTorch."""

import contextlib
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ppfer.base.errors import PpferError
from ppfer.base.files import atomic
from ppfer.method.networks import whole_clips
from ppfer.run.run import Run
from ppfer.study.protectors import regressor

SUFFIX = ".onnx"
REGRESSOR = "regressor"  # no protector: reads 55 numbers off each frame (`--approach regressor`)
EXACT = 1e-4  # how far its answers may lie from PyTorch's, of pixels in [0, 1]


def of_protector(run: Run, name: str, built: object) -> tuple[nn.Module, torch.Tensor, dict]:
    """A protector's network, clips (2, T, 3, S, S) to try it on, and which of their sizes are free:
    the number of frames too, unless time is split. A `PpferError` when it is no network alone.
    """
    if run.protector(name).named or not isinstance(built, nn.Module):
        raise PpferError(
            f"{name} does more than a network does, and has no {SUFFIX} file; "
            "export it with another ending, e.g. .safetensors"
        )
    config = run.config
    clips = torch.rand(2, config.frames, 3, config.size, config.size)
    free = {0: "clips"} if whole_clips(config) else {0: "clips", 1: "frames"}
    return built, clips, free


def of_regressor(run: Run) -> tuple[nn.Module, torch.Tensor, dict]:
    """The regressor that a run's config names, frames (2, 3, 112, 112), and what is free."""
    frames = torch.rand(2, 3, regressor.SIDE, regressor.SIDE)
    return regressor.shipped(regressor.Regressor(), run.config), frames, {0: "frames"}


def write_onnx(
    net: nn.Module,
    given: torch.Tensor,
    free: dict[int, str],
    path: Path,
    said: Mapping[str, object],
) -> float:
    """Write a network, one tensor → one tensor, to a file, once onnxruntime has given PyTorch's
    answers; returns how far they lie apart at most.

    Args:
        given: what it is tried on; with one more of what is `free` (dimension → name), too.
        said: what the file's header is to say (JSON types).

    Raises:
        PpferError: where ONNX's packages are not installed, the network has no form in ONNX, or its
            answers differ by more than `EXACT`.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  the exporter asks for it
    except ImportError as error:
        raise PpferError(f"{SUFFIX} files need ONNX: pip install -e '.[onnx]'") from error
    net = net.cpu().float().eval()
    dims = {dim: torch.export.Dim(name) for dim, name in free.items()}
    with torch.no_grad():
        net(given)  # matrices of wavelets are computed now, not while it is traced
        try:
            with _quiet():
                how = {"dynamo": True, "dynamic_shapes": (dims,), "verbose": False}
                made = torch.onnx.export(net, (given,), **how)
        except Exception as error:
            raise PpferError(f"this network has no form in ONNX: {type(error).__name__}") from error
        model = made.model_proto
        onnx.helper.set_model_props(model, {k: json.dumps(v) for k, v in said.items()})
        content = model.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (asked,), apart = session.get_inputs(), 0.0
        for shown in (given, *(torch.cat([given, given.narrow(d, 0, 1)], d) for d in free)):
            answer = torch.from_numpy(session.run(None, {asked.name: shown.numpy()})[0])
            apart = max(apart, float((answer - net(shown)).abs().max()))
    if not apart <= EXACT:
        raise PpferError(f"in ONNX it differs by {apart:.2g}, more than {EXACT:g}; nothing written")
    with atomic(path) as partial:
        partial.write_bytes(content)
    return apart


@contextlib.contextmanager
def _quiet():
    """The exporter tells of every version of every operator."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
