"""The store of clips: aligned, resumable, never half-written, never hung."""

import errno
import importlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ppfer.base.errors import PpferError
from ppfer.data import index, store
from ppfer.data.store import ClipStore
from ppfer.data.words import EMOTION_CODES, EMOTIONS
from ppfer.video.writer import write_video

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def clip(level: float = 0.0, frames: int = 6, height: int = 32, width: int = 32) -> torch.Tensor:
    """(T, 3, H, W) in [0, 1]: a ramp to the right, `level` in green, blue rising in time."""
    out = torch.zeros(frames, 3, height, width)
    out[:, 0] = torch.linspace(0, 1, width)
    out[:, 1] = level
    out[:, 2] = torch.linspace(0, 1, frames)[:, None, None]
    return out


LEVELS = dict(zip(EMOTION_CODES, np.linspace(0.1, 0.9, 6), strict=True))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A CREMA-D tree of six clips of one actor and one of another; green tells them apart."""
    root = tmp_path_factory.mktemp("videos")
    for code, level in LEVELS.items():
        write_video(root / f"VideoMP4/1001_DFA_{code}_XX.mp4", clip(level))
    write_video(root / "VideoMP4/1002_DFA_SAD_XX.mp4", clip(0.0))
    return root


@pytest.fixture(scope="module")
def built(videos, tmp_path_factory) -> ClipStore:
    return build(videos, tmp_path_factory.mktemp("built"))


@pytest.fixture
def tree(videos, tmp_path) -> Path:
    shutil.copytree(videos, tmp_path / "tree")
    return tmp_path / "tree"


def build(tree: Path, folder: Path, **options) -> ClipStore:
    small = {"frames": 4, "size": 16}
    return ClipStore.build(index.index(tree), folder, **small | options)


def assert_aligned(clips: ClipStore) -> None:
    """Every row of the array shows the clip its row of the table names."""
    names = [name.split("_") for name in clips.table["clip"]]
    greens = [LEVELS[code] if actor == "1001" else 0.0 for actor, _, code, _ in names]
    np.testing.assert_allclose(clips.clips[:, :, 1].mean((1, 2, 3)) / 255, greens, atol=0.04)


# --- built from an index ------------------------------------------------------


def test_build(tree, tmp_path):
    done = []
    clips = build(tree, tmp_path / "store", progress=done.append)
    assert done == list(range(1, 8))
    assert isinstance(clips.clips, np.memmap) and clips.clips.shape == (7, 4, 3, 16, 16)
    pd.testing.assert_frame_equal(clips.table, index.index(tree).table, check_dtype=False)
    assert_aligned(clips)
    assert clips.classes("emotion") == list(EMOTIONS)
    assert clips.labels("emotion").tolist() == [0, 1, 2, 3, 4, 5, 5]
    assert clips.labels("actor").tolist() == [0] * 6 + [1]
    pixels = clips.to("cpu")
    assert pixels.dtype == torch.uint8 and np.array_equal(pixels, clips.clips)
    pixels[:] = 0  # never reaches the disk
    assert_aligned(ClipStore.open(tmp_path / "store"))
    assert "7 videos found, 7 usable, 0 rejected" in clips.summary()


def test_a_built_store_is_opened_until_files_or_shape_change(tree, tmp_path):
    done = []
    first = build(tree, tmp_path / "store")
    again = build(tree, tmp_path / "store", progress=done.append)
    assert not done and again.hash == first.hash
    assert build(tree, tmp_path / "store", size=12, progress=done.append).clips.shape[-1] == 12
    assert len(done) == 7
    write_video(tree / "VideoMP4/1002_DFA_SAD_XX.mp4", clip(0.0, frames=9))
    changed = build(tree, tmp_path / "store")
    assert len(done) == 7 and changed.hash != first.hash
    # a store that is open outlives its replacement
    assert np.array_equal(first.clips[:6], changed.clips[:6])


def test_damaged_clips_are_left_out_and_listed(tree, tmp_path):
    bad = tree / "VideoMP4/1001_DFA_DIS_XX.mp4"
    bad.write_bytes(bad.read_bytes()[:500])
    (tree / "VideoMP4/1001_DFA_SAD_XX.mp4").write_bytes(POINTER)
    clips = build(tree, tmp_path / "store")
    kept = [name.split("_")[2] for name in clips.table["clip"]]
    assert kept == ["ANG", "FEA", "HAP", "NEU", "SAD"] and len(clips) == 5
    assert_aligned(clips)
    reasons = clips.rejected["reason"].str.split(";").str[0]
    assert dict(zip(clips.rejected["path"], reasons, strict=True)) == {
        "VideoMP4/1001_DFA_DIS_XX.mp4": "cannot be decoded: it is damaged or no video",
        "VideoMP4/1001_DFA_SAD_XX.mp4": "is a Git-LFS pointer",
    }
    assert "7 videos found, 5 usable, 2 rejected" in ClipStore.open(tmp_path / "store").summary()


def test_too_many_damaged_clips_stop_the_run(tree, tmp_path, monkeypatch):
    for path in sorted((tree / "VideoMP4").iterdir())[:4]:
        path.write_bytes(b"no video" + path.name.encode())
    says = "(?s)4 of the 7 videos found in .* were rejected, more than the 50%.*4 rejected"
    with pytest.raises(PpferError, match=says):
        build(tree, tmp_path / "store")
    assert len(pd.read_csv(tmp_path / "store/rejected.csv")) == 4
    with pytest.raises(PpferError, match="holds no finished store"):
        ClipStore.open(tmp_path / "store")
    monkeypatch.setattr("ppfer.data.store.MOST_REJECTED", 0.6)
    assert len(build(tree, tmp_path / "store")) == 3


DECODER = """
import os, time
from ppfer.video.clips import clip_or_reason
def decode(path, *rest):
    if "_FEA_" in path: time.sleep(600)
    if "_HAP_" in path: os.abort()
    print("noise from a decoder")
    return clip_or_reason(path, *rest)
"""


def test_files_that_hang_or_crash_the_decoder_cost_only_themselves(tree, tmp_path, monkeypatch):
    (tmp_path / "bad_decoder.py").write_text(DECODER)
    monkeypatch.syspath_prepend(tmp_path)
    decode = importlib.import_module("bad_decoder").decode
    monkeypatch.setattr("ppfer.video.clips.clip_or_reason", decode)
    monkeypatch.setattr("ppfer.data.decoding.TIMEOUT", 6)
    clips = build(tree, tmp_path / "store")
    assert_aligned(clips)
    codes = clips.rejected["path"].str.slice(18, 21)
    assert len(clips) == 5 and dict(zip(codes, clips.rejected["reason"], strict=True)) == {
        "FEA": "hung the decoder: 6 s",
        "HAP": "crashed the decoder: exit -6",
    }


@pytest.mark.parametrize(("after", "torn"), [(1, False), (4, True)])
def test_an_interrupted_build_resumes(videos, built, tmp_path, after, torn):
    folder = tmp_path / "store"

    def interrupt(done: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(videos, folder, progress=interrupt)
    with pytest.raises(PpferError, match="holds no finished store"):
        ClipStore.open(folder)
    if torn:
        log, array = folder / "decoded.jsonl", folder / "clips.npy"
        with log.open("a") as lines, array.open("ab") as rows:
            lines.write('"hal')
            rows.write(b"half a row")
    done = []
    clips = build(videos, folder, progress=done.append)
    assert done == list(range(after + 1, 8))
    assert_aligned(clips)
    assert clips.hash == built.hash
    kept = [".lock", "clips.npy", "manifest.json", "rejected.csv", "table.csv"]
    assert sorted(os.listdir(folder)) == kept


def test_a_full_disk_is_a_sentence_and_resumes(tree, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
        with pytest.raises(PpferError, match=r"disk of .* is too full: 0 MB are needed"):
            build(tree, tmp_path / "store")
    append = store._Rows.append
    with monkeypatch.context() as patch:

        def fail(self, clip):
            if self.filled == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            append(self, clip)

        patch.setattr(store._Rows, "append", fail)
        with pytest.raises(PpferError, match="the disk of .* is full; free some and run again"):
            build(tree, tmp_path / "store")
    done = []
    assert_aligned(build(tree, tmp_path / "store", progress=done.append))
    assert done == [4, 5, 6, 7]


def test_a_store_is_written_where_space_cannot_be_asked_for(monkeypatch, tmp_path):
    """As on macOS and Windows, whose Python has no `os.posix_fallocate`."""
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    clips = torch.arange(2 * 4 * 3 * 8 * 8).reshape(2, 4, 3, 8, 8).byte()
    table = pd.DataFrame({"clip": ["a", "b"], "actor": "1"})
    made = ClipStore.from_array(tmp_path / "store", clips, table)
    np.testing.assert_array_equal(made.clips, clips.numpy())


def test_a_damaged_store_is_refused_and_built_again(videos, built, tmp_path):
    folder = shutil.copytree(built.folder, tmp_path / "store")
    os.truncate(folder / "clips.npy", 5000)
    with pytest.raises(PpferError, match="damaged clip store; delete it"):
        ClipStore.open(folder)
    assert build(videos, folder).hash == built.hash
    (folder / "table.csv").write_text("clip,path\nx,y\n")
    with pytest.raises(PpferError, match="damaged clip store"):
        ClipStore.open(folder)
    with pytest.raises(PpferError, match=r"no finished store \(manifest.json is missing\)"):
        ClipStore.open(tmp_path)


# --- made from arrays ---------------------------------------------------------


def protected(count: int = 5) -> tuple[torch.Tensor, pd.DataFrame]:
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 4, 3, 8, 8), dtype=torch.uint8, generator=g)
    names = [f"c{i}" for i in range(count)]
    return pixels, pd.DataFrame({"clip": names, "path": "x", "actor": "01", "emotion": "sad"})


def test_from_array_takes_clips_batches_and_floats(tmp_path):
    pixels, table = protected()
    by_clip = ClipStore.from_array(tmp_path / "a", iter(pixels), table, {"protector": "blur"})
    by_batch = ClipStore.from_array(tmp_path / "b", pixels.split(2), table.assign(path="elsewhere"))
    floats = (pixels.numpy() / 255).astype(np.float32)
    by_float = ClipStore.from_array(tmp_path / "c", floats[None], table)
    in_memory = ClipStore.in_memory(pixels, table)
    for clips in (by_clip, by_batch, by_float, in_memory):
        assert torch.equal(clips.to("cpu"), pixels) and len(clips) == 5
        assert clips.hash == by_clip.hash
        assert clips.labels("actor").tolist() == [0] * 5 and "5 usable" in clips.summary()
    assert by_clip.manifest["source"] == {"protector": "blur"}
    assert by_clip.table["actor"].tolist() == ["01"] * 5
    assert ClipStore.in_memory(255 - pixels, table).hash != by_clip.hash
    assert ClipStore.in_memory(pixels, table.assign(emotion="happy")).hash != by_clip.hash


def test_from_array_replaces_or_leaves_nothing(tmp_path):
    pixels, table = protected()
    ClipStore.from_array(tmp_path, pixels[None], table)
    replaced = ClipStore.from_array(tmp_path, 255 - pixels[None], table)
    assert torch.equal(replaced.to("cpu"), 255 - pixels)

    def broken():
        yield pixels[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ClipStore.from_array(tmp_path, broken(), table)
    assert not (tmp_path / "clips.npy").exists()
    for clips, message in (
        (pixels[:3], "3 clips came for a table of 5 rows"),
        ([], "0 clips came"),
        ([pixels[0], pixels[1, :2]], r"a clip of shape \(2, 3, 8, 8\) came among"),
        (pixels[:, :, 0], r"a clip has the shape \(T, 3, H, W\)"),
    ):
        with pytest.raises(PpferError, match=message):
            ClipStore.from_array(tmp_path, iter(clips), table)
        with pytest.raises(PpferError, match="no finished store"):
            ClipStore.open(tmp_path)
        assert not (tmp_path / "clips.npy").exists()


def test_the_manifest_says_what_the_store_is_made_of(videos, built):
    manifest = json.loads((built.folder / "manifest.json").read_text())
    assert manifest["shape"] == [7, 4, 3, 16, 16] and manifest["hash"] == built.hash
    assert manifest["source"]["request"] == {
        "files": index.index(videos).fingerprint(),
        "frames": 4,
        "size": 16,
    }
    assert (manifest["source"]["found"], manifest["source"]["rejected"]) == (7, 0)
