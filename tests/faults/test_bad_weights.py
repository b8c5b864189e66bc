"""Weights from anywhere: whatever does not fit is refused before use, whatever would run code never
does.
"""

from __future__ import annotations

import itertools
import os
import pickle
import re
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import equal, snapshot
from counting import COUNTS
from safetensors.torch import save_file

from ppfer import nets, uvit
from ppfer.base.errors import PpferError
from ppfer.base.weights import load_pretrained, load_weights
from ppfer.config import REPO

# --- files that run code --------------------------------------------------------------------------


class Evil:
    """Unpacking it makes a folder."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def pickled(path: Path, held: object) -> None:
    path.write_bytes(pickle.dumps(held))


def zipped(path: Path, held: object) -> None:
    torch.save(held, path)


def legacy(path: Path, held: object) -> None:
    torch.save(held, path, _use_new_zipfile_serialization=False)


def scripted(path: Path, held: object) -> None:
    """A zip that carries its pickle as TorchScript does."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(held))
        archive.writestr("model/constants.pkl", pickle.dumps(held))
        archive.writestr("model/version", "3")


def protocols(path: Path, held: object) -> None:
    path.write_bytes(pickle.dumps(held, protocol=0))


WAYS = (pickled, zipped, legacy, scripted, protocols)
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", "")


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of formats it does not write
@pytest.mark.parametrize(
    ("way", "suffix"), itertools.product(WAYS, SUFFIXES), ids=lambda v: getattr(v, "__name__", v)
)
def test_code_in_a_file_never_runs_whatever_its_name(way, suffix, tmp_path):
    mark = tmp_path / "ran"
    for number, held in enumerate(
        (Evil(mark), {"a": torch.zeros(2), "b": Evil(mark)}, {"state_dict": {"a": Evil(mark)}})
    ):
        path = tmp_path / f"w{number}{suffix}"
        way(path, held)
        with pytest.raises(PpferError) as caught:
            load_weights(nets.UNet(2), path)
        said = str(caught.value)
        assert path.name in said and "weights_only" not in said and len(said) < 600
        assert not mark.exists(), "code in a weights file ran"
        COUNTS["weights refused"] += 1


# --- files that do not fit ------------------------------------------------------------------------


def header(said: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(said)) + said + body


def tensor(kind: str = "F32", shape: str = "4", end: int = 16) -> bytes:
    """A file of one tensor, as its header has it, and 16 bytes."""
    told = f'{{"a":{{"dtype":"{kind}","shape":[{shape}],"data_offsets":[0,{end}]}}}}'
    return header(told.encode(), bytes(16))


SAFETENSORS = {
    "a length beyond the file": struct.pack("<Q", 1 << 60) + b"{}",
    "offsets beyond the file": tensor(shape="1000000", end=4000000),
    "a shape that is not its bytes": tensor(shape="9,9"),
    "a shape of 2^80 numbers": tensor(shape="1099511627776,1099511627776"),
    "no JSON": header(b"{" * 64),
    "an unknown type": tensor("X9"),
    "nothing": header(b"{}"),
    "a negative shape": tensor(shape="-4"),
}


@pytest.mark.parametrize("kind", SAFETENSORS)
def test_broken_safetensors_are_sentences(kind, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(SAFETENSORS[kind])
    with pytest.raises(PpferError, match="w.safetensors"):
        load_weights(nets.UNet(2), path)
    COUNTS["weights refused"] += 1


@pytest.mark.parametrize("tenth", range(1, 10))
def test_files_cut_or_flipped_are_refused_or_whole(tenth, tmp_path):
    """A cut file is refused; a flipped byte is refused or gives finite tensors of the right
    shapes."""
    net = nets.UNet(2)
    save_file(net.state_dict(), tmp_path / "s.safetensors")
    torch.save(net.state_dict(), tmp_path / "t.pt")
    for path in (tmp_path / "s.safetensors", tmp_path / "t.pt"):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) * tenth // 10])
        with pytest.raises(PpferError, match=path.name):
            load_weights(nets.UNet(2), path)
        spoilt = bytearray(whole)
        spoilt[len(whole) * tenth // 10] ^= 0xFF
        path.write_bytes(spoilt)
        loaded = nets.UNet(2)
        try:
            load_weights(loaded, path)
        except PpferError as error:
            assert path.name in str(error)
        assert all(v.isfinite().all() for v in loaded.state_dict().values())
        COUNTS["weights refused"] += 1


def spoilt(state: dict, how: str) -> tuple[dict, str]:
    """A state that does not fit, and what is said of it."""
    first = next(key for key, value in state.items() if value.dim() > 1)
    short = {key: value for key, value in state.items() if key != first}
    changed = {
        "wider": (state | {first: torch.cat([state[first]] * 2)}, rf"{first} is \(.*, expected \("),
        "flat": (state | {first: state[first].flatten()}, f"wrong shape: {first}"),
        "NaN": (state | {first: torch.full_like(state[first], float("nan"))}, ""),
        "infinite": (state | {first: torch.full_like(state[first], float("inf"))}, ""),
        "one short": (short, f"nothing was loaded.*missing: {first}"),
        "one more": (state | {"extra": torch.zeros(1)}, "nothing was loaded.*unexpected: extra"),
        "another": (short | {"extra": torch.zeros(1)}, f"missing: {first}; unexpected: extra"),
        "renamed": (
            {f"x.{key}": value for key, value in state.items()},
            "missing: .*unexpected: x.",
        ),
    }
    return changed[how]


HOWS = ("wider", "flat", "NaN", "infinite", "one short", "one more", "another", "renamed")
BUILDS = {
    "U-Net": lambda: nets.UNet(2),
    "classifier": lambda: nets.Classifier("resnet_small", 4),
    "recognizer": lambda: nets.Recognizer("r3d_small", 4, width=8),
}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_what_does_not_fit_changes_nothing(build, how, tmp_path):
    net, path = build(), tmp_path / "w.safetensors"
    state, says = spoilt(build().state_dict(), how)
    save_file(state, path)
    before = snapshot(net)
    with pytest.raises(PpferError, match=f"w.safetensors.*{says}"):
        load_weights(net, path)
    assert equal(net.state_dict(), before)
    COUNTS["weights refused"] += 1


def test_another_architecture_and_other_classes_are_named(tmp_path):
    path, small = tmp_path / "w.safetensors", nets.Classifier("resnet_small", 4)
    for net, other, says in (
        (nets.Classifier("resnet18", 4), small, "wrong shape"),
        (nets.UNet(2), nets.RecoveryUNet(2), "missing|unexpected|wrong shape"),
        (small, nets.Classifier("resnet_small", 5), "fc.weight"),
    ):
        save_file(other.state_dict(), path)
        with pytest.raises(PpferError, match=f"does not fit .*({says})"):
            load_weights(net, path)
        COUNTS["weights refused"] += 1
    save_file(nets.Recognizer("r3d_small", 4).net.state_dict(), path)
    with pytest.raises(PpferError, match="does not fit"):
        load_pretrained(nets.Classifier("resnet18", 4).net, "resnet18", path, "")
    COUNTS["weights refused"] += 1


def test_a_wrong_uvit_is_refused_before_its_two_gigabytes_are_built(tmp_path):
    """Names and shapes are compared first: two seconds, and no memory to speak of."""
    smaller = uvit.UViT(img_size=8, patch=2, dim=64, depth=4, heads=4)
    files = {"another network": nets.UNet(8).state_dict(), "a smaller U-ViT": smaller.state_dict()}
    files["one tensor"] = {"pos_embed": torch.zeros(1, 258, 1152)}
    for number, (what, state) in enumerate(files.items()):
        path = tmp_path / f"{number}.pth"
        torch.save(state, path)
        began, held = time.process_time(), resident()
        with pytest.raises(PpferError):
            uvit.uvit_h2(path, img_size=32)
        assert time.process_time() - began < 2, what
        assert resident() - held < 200e6, f"{what}: memory was taken before it was refused"
        COUNTS["weights refused"] += 1


def resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss


# --- what nobody may write ------------------------------------------------------------------------


def written() -> dict[str, str]:
    """Text of all code and pages, notebooks among them."""
    kinds = (".py", ".ipynb", ".md", ".toml", ".yml")
    folders = ("ppfer", "notebooks", "data", "tests", "figures")
    paths = [p for f in folders for p in (REPO / f).rglob("*") if p.suffix in kinds]
    own = Path(__file__)
    return {
        str(path.relative_to(REPO)): path.read_text(errors="replace")
        for path in [*paths, *REPO.glob("*.md")]
        if path != own
    }


def unsafe(text: str) -> list[str]:
    """Calls of torch.load that may run code, advice to let it, and other ways to unpack code."""
    found = []
    for match in re.finditer(r"torch\.load\(", text):
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        call = text[match.start() : end]
        if not re.search(r"weights_only\s*=\s*True", call):
            found.append(call)
    for bad in (r"allow_pickle\s*=\s*True", r"joblib\.load\(", r"dill\.load", r"jsonpickle"):
        found += re.findall(bad, text)
    return found


def test_nothing_unpacks_code():
    texts = written()
    assert len(texts) > 100 and any(name.endswith(".ipynb") for name in texts)
    assert not {name: found for name, text in texts.items() if (found := unsafe(text))}
    said = {n for n, text in texts.items() if re.search(r"weights_only\s*=\s*(False|None)", text)}
    told_apart = {"ppfer/base/weights.py", "tests/test_weights.py"}  # that it is not to be done
    assert said <= told_apart
    loads = {n for n, t in texts.items() if re.search(r"\bpickle\.loads?\(", t)}
    assert loads <= {"tests/test_wavelets.py"}  # of what it has just packed


def test_what_would_unpack_code_is_seen():
    assert unsafe("torch.load(path)") and unsafe("torch.load(f(a), weights_only=False)")
    assert unsafe("torch.load(open(p, 'rb'), map_location='cpu')")
    assert not unsafe("torch.load(f(a), weights_only=True)")
    assert unsafe("np.load(x, allow_pickle=True)")
