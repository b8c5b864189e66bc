"""Video reading and writing, and the store: aligned, resumable, never half-written, never hung."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ppfer import data, store
from ppfer.config import PpferError
from ppfer.store import ClipStore, decode_clip, read_video, sample_positions, write_video

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def clip(level: float = 0.0, frames: int = 6, height: int = 32, width: int = 32) -> torch.Tensor:
    """(T, 3, H, W) in [0, 1]: a ramp to the right, `level` in green, brighter from frame to frame in blue."""
    out = torch.zeros(frames, 3, height, width)
    out[:, 0] = torch.linspace(0, 1, width)
    out[:, 1] = level
    out[:, 2] = torch.linspace(0, 1, frames)[:, None, None]
    return out


LEVELS = dict(
    zip(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"), np.linspace(0.1, 0.9, 6), strict=True)
)


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
    return build(videos, tmp_path_factory.mktemp("built"), workers=2)


@pytest.fixture
def tree(videos, tmp_path) -> Path:
    shutil.copytree(videos, tmp_path / "tree")
    return tmp_path / "tree"


def build(tree: Path, folder: Path, **options) -> ClipStore:
    return ClipStore.build(
        data.index(tree), folder, **{"frames": 4, "size": 16, "workers": 1} | options
    )


def assert_aligned(clips: ClipStore) -> None:
    """Every row of the array shows the clip its row of the table names."""
    greens = [
        LEVELS[name.split("_")[2]] if name.startswith("1001") else 0.0
        for name in clips.table["clip"]
    ]
    np.testing.assert_allclose(clips.clips[:, :, 1].mean((1, 2, 3)) / 255, greens, atol=0.04)


# --- one video -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height, width, fps", [(32, 32, 25.0), (31, 45, 29.97), (48, 64, 12.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_write_then_read(tmp_path, height, width, fps, dtype):
    frames = clip(0.5, 7, height, width)
    path = write_video(
        tmp_path / "new/a.mp4", frames if dtype is torch.float32 else (frames * 255).byte(), fps
    )
    back, rate = read_video(path)
    assert back.shape == frames.shape and back.dtype == torch.uint8
    assert rate == pytest.approx(fps, rel=1e-3)
    assert (back / 255 - frames).abs().mean() < 0.02
    assert os.listdir(tmp_path / "new") == ["a.mp4"]


def test_full_colour_keeps_what_half_size_colour_mixes(tmp_path):
    stripes = torch.zeros(4, 3, 32, 32)
    stripes[:, 0, :, ::2], stripes[:, 2, :, 1::2] = 1, 1  # red and blue columns in turn
    lost = [
        (
            read_video(write_video(tmp_path / f"{full}.mp4", stripes, crf=4, full_colour=full))[0]
            / 255
            - stripes
        )
        .abs()
        .mean()
        for full in (False, True)
    ]
    assert lost[1] < 0.03 < 0.2 < lost[0]


def test_write_refuses_other_shapes_and_leaves_nothing(tmp_path):
    for bad in (torch.zeros(0, 3, 8, 8), torch.zeros(8, 8, 3), torch.zeros(4, 8, 8, 3)):
        with pytest.raises(PpferError, match=r"frames of shape \(T, 3, H, W\)"):
            write_video(tmp_path / "a.mp4", bad)
    with pytest.raises(PpferError, match="uint8 in .* or float"):
        write_video(tmp_path / "a.mp4", torch.zeros(4, 3, 8, 8, dtype=torch.int64))
    (tmp_path / "file").touch()
    with pytest.raises(PpferError, match="could not be written"):
        write_video(tmp_path / "file/a.mp4", clip())
    with pytest.raises(PpferError, match="could not be written"):
        write_video(tmp_path / "a.unknown", clip())
    assert os.listdir(tmp_path) == ["file"]


@given(st.integers(1, 300), st.integers(1, 64))
def test_sample_positions_are_segment_mid_points(count, frames):
    positions = sample_positions(count, frames)
    assert len(positions) == frames and positions == sorted(positions)
    assert all(abs(p + 0.5 - (i + 0.5) * count / frames) <= 0.5 for i, p in enumerate(positions))
    assert 0 <= positions[0] and positions[-1] < count


def test_decoded_pixels_are_the_videos_pixels(tmp_path):
    path = write_video(
        tmp_path / "a.mp4", torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    )
    every, _ = read_video(path)
    assert np.array_equal(decode_clip(path, frames=20, size=32), every)
    assert np.array_equal(decode_clip(path, frames=7, size=32), every[sample_positions(20, 7)])
    assert np.array_equal(decode_clip(path, frames=40, size=32), every.repeat_interleave(2, 0))


def test_centre_crop_and_area_resize(tmp_path):
    path = write_video(
        tmp_path / "a.mp4", torch.rand(4, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    )
    every = read_video(path)[0].float()
    mean = torch.nn.functional.avg_pool2d(
        every[..., 16:48], 4
    )  # the middle square, 4 x 4 pixels to one
    assert np.abs(decode_clip(path, frames=4, size=8) - mean.numpy()).max() <= 1
    corner = torch.nn.functional.avg_pool2d(every[..., :16, :16], 2)
    assert (
        np.abs(decode_clip(path, frames=4, size=8, crop=(0, 0, 16, 16)) - corner.numpy()).max() <= 1
    )
    assert decode_clip(path, frames=4, size=50).shape == (4, 3, 50, 50)


def test_picture_folders_are_read_in_numeric_order(tmp_path):
    for number in range(1, 13):
        Image.new("RGB", (24, 16), (number * 20, 0, 0)).save(tmp_path / f"{number}.png")
    out = decode_clip(tmp_path, frames=12, size=16)
    assert out[:, 0, 0, 0].tolist() == [number * 20 for number in range(1, 13)]
    (tmp_path / "5.png").write_bytes((tmp_path / "5.png").read_bytes()[:40])
    with pytest.raises(PpferError, match=r"cannot be decoded: 5\.png is damaged"):
        decode_clip(tmp_path, frames=12, size=16)


def write_flv(path: Path, frames: int = 60) -> bytes:
    """A file whose header says how long it is, as CREMA-D's."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flv", rate=30)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for frame in np.random.default_rng(0).integers(0, 255, (frames, 32, 32, 3), np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def test_flash_video_decodes(tmp_path):
    write_flv(tmp_path / "a.flv")
    assert np.array_equal(
        decode_clip(tmp_path / "a.flv", 60, 32), read_video(tmp_path / "a.flv")[0]
    )


def test_damaged_files_are_named_with_their_fault(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", clip(frames=30)).read_bytes()
    flash = write_flv(tmp_path / "whole.flv")
    write_video(tmp_path / "still.mp4", clip(frames=1))
    contents = {
        "pointer.mp4": POINTER,
        "empty.mp4": b"",
        "cut.mp4": whole[: len(whole) // 2],
        "text.mp4": b"hello" * 99,
    }
    contents |= {"cut.flv": flash[: len(flash) // 2], "zeros.mp4": bytes(5000)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.mp4").mkdir()
    for name, fault in {
        "pointer.mp4": "is a Git-LFS pointer; run: git lfs pull",
        "empty.mp4": "is empty",
        "missing.mp4": "does not exist",
        "cut.mp4": "cannot be decoded",
        "cut.flv": "is truncated: it holds 0.7 of 2.0 s",
        "text.mp4": "cannot be decoded",
        "zeros.mp4": "cannot be decoded",
        "still.mp4": "has one frame only",
        "folder.mp4": "holds no picture",
    }.items():
        with pytest.raises(PpferError) as caught:
            decode_clip(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name} {fault}")
        if name in ("pointer.mp4", "empty.mp4", "missing.mp4", "text.mp4", "cut.mp4"):
            with pytest.raises(PpferError, match=name):
                read_video(tmp_path / name)


# --- the store: built from an index ----------------------------------------------------------------------------------


def test_build(tree, tmp_path):
    done = []
    clips = build(tree, tmp_path / "store", progress=done.append)
    assert done == list(range(1, 8))
    assert isinstance(clips.clips, np.memmap) and clips.clips.shape == (7, 4, 3, 16, 16)
    pd.testing.assert_frame_equal(clips.table, data.index(tree).table, check_dtype=False)
    assert_aligned(clips)
    assert clips.classes("emotion") == ["angry", "disgust", "fear", "happy", "neutral", "sad"]
    assert clips.labels("emotion").tolist() == [0, 1, 2, 3, 4, 5, 5] and clips.labels(
        "actor"
    ).tolist() == [0] * 6 + [1]
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
    assert np.array_equal(
        first.clips[:6], changed.clips[:6]
    )  # a store that is open outlives its replacement


def test_damaged_clips_are_left_out_and_listed(tree, tmp_path):
    bad = tree / "VideoMP4/1001_DFA_DIS_XX.mp4"
    bad.write_bytes(bad.read_bytes()[:500])
    (tree / "VideoMP4/1001_DFA_SAD_XX.mp4").write_bytes(POINTER)
    clips = build(tree, tmp_path / "store")
    assert (
        clips.table["clip"].str.slice(9, 12).tolist() == ["ANG", "FEA", "HAP", "NEU", "SAD"]
        and len(clips) == 5
    )
    assert_aligned(clips)
    assert dict(
        zip(clips.rejected["path"], clips.rejected["reason"].str.split(";").str[0], strict=True)
    ) == {
        "VideoMP4/1001_DFA_DIS_XX.mp4": "cannot be decoded: it is damaged or no video",
        "VideoMP4/1001_DFA_SAD_XX.mp4": "is a Git-LFS pointer",
    }
    assert "7 videos found, 5 usable, 2 rejected" in ClipStore.open(tmp_path / "store").summary()


def test_too_many_damaged_clips_stop_the_run(tree, tmp_path):
    for path in sorted((tree / "VideoMP4").iterdir())[:4]:
        path.write_bytes(b"no video" + path.name.encode())
    with pytest.raises(
        PpferError,
        match="(?s)4 of the 7 videos found in .* were rejected, more than the 50%.*4 rejected",
    ):
        build(tree, tmp_path / "store")
    assert len(pd.read_csv(tmp_path / "store/rejected.csv")) == 4
    with pytest.raises(PpferError, match="holds no finished clip store"):
        ClipStore.open(tmp_path / "store")
    assert len(build(tree, tmp_path / "store", max_rejected=0.6)) == 3


def test_files_that_hang_or_crash_the_decoder_cost_only_themselves(tree, tmp_path, monkeypatch):
    script = """if 1:
        import os, time
        from ppfer import store
        real = store.decode_clip
        def decode(path, *rest):
            if "_FEA_" in path: time.sleep(600)
            if "_HAP_" in path: os.abort()
            print("noise from a decoder")
            return real(path, *rest)
        store.decode_clip = decode
        store._serve()"""
    monkeypatch.setattr(store._Decoder, "command", (sys.executable, "-c", script))
    clips = build(tree, tmp_path / "store", timeout=3)
    assert_aligned(clips)
    assert len(clips) == 5 and dict(
        zip(clips.rejected["path"].str.slice(18, 21), clips.rejected["reason"], strict=True)
    ) == {"FEA": "hung the decoder: 3 s", "HAP": "crashed the decoder: exit -6"}


@pytest.mark.parametrize("after, torn", [(1, False), (4, True)])
def test_an_interrupted_build_resumes(videos, built, tmp_path, after, torn):
    folder = tmp_path / "store"

    def interrupt(done: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(videos, folder, progress=interrupt)
    with pytest.raises(PpferError, match="holds no finished clip store"):
        ClipStore.open(folder)
    if torn:
        with (
            (folder / "decoded.jsonl").open("a") as log,
            (folder / "clips.npy").open("ab") as array,
        ):
            log.write('"hal')
            array.write(b"half a row")
    done = []
    clips = build(videos, folder, progress=done.append)
    assert done == list(range(after + 1, 8))
    assert_aligned(clips)
    assert clips.hash == built.hash
    assert sorted(os.listdir(folder)) == [
        ".lock",
        "clips.npy",
        "manifest.json",
        "rejected.csv",
        "table.csv",
    ]


def test_a_full_disk_is_a_sentence_and_resumes(tree, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
        with pytest.raises(PpferError, match=r"disk of .* is too full: 0 MB are needed"):
            build(tree, tmp_path / "store")
    append = store._ClipFile.append
    with monkeypatch.context() as patch:

        def fail(self, clip):
            if self.rows == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            append(self, clip)

        patch.setattr(store._ClipFile, "append", fail)
        with pytest.raises(PpferError, match="the disk of .* is full; free some and run again"):
            build(tree, tmp_path / "store")
    done = []
    assert_aligned(build(tree, tmp_path / "store", progress=done.append))
    assert done == [4, 5, 6, 7]


def test_a_damaged_store_is_refused_and_built_again(videos, built, tmp_path):
    folder = shutil.copytree(built.folder, tmp_path / "store")
    os.truncate(folder / "clips.npy", 5000)
    with pytest.raises(PpferError, match="damaged clip store; delete it"):
        ClipStore.open(folder)
    assert build(videos, folder).hash == built.hash
    (folder / "table.csv").write_text("clip,path\nx,y\n")
    with pytest.raises(PpferError, match="damaged clip store"):
        ClipStore.open(folder)
    with pytest.raises(PpferError, match=r"no finished clip store \(manifest.json is missing\)"):
        ClipStore.open(tmp_path)


# --- the store: made from arrays -------------------------------------------------------------------------------------


def protected(count: int = 5) -> tuple[torch.Tensor, pd.DataFrame]:
    pixels = torch.randint(
        0, 256, (count, 4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    table = pd.DataFrame(
        {"clip": [f"c{i}" for i in range(count)], "path": "x", "actor": "01", "emotion": "sad"}
    )
    return pixels, table


def test_from_array_takes_clips_batches_and_floats(tmp_path):
    pixels, table = protected()
    by_clip = ClipStore.from_array(tmp_path / "a", iter(pixels), table, {"protector": "blur"})
    by_batch = ClipStore.from_array(tmp_path / "b", pixels.split(2), table.assign(path="elsewhere"))
    by_float = ClipStore.from_array(
        tmp_path / "c", (pixels.numpy() / 255).astype(np.float32)[None], table
    )
    in_memory = ClipStore.in_memory(pixels, table)
    for clips in (by_clip, by_batch, by_float, in_memory):
        assert torch.equal(clips.to("cpu"), pixels) and len(clips) == 5
        assert clips.hash == by_clip.hash
        assert clips.labels("actor").tolist() == [0] * 5 and "5 usable" in clips.summary()
    assert (
        by_clip.manifest["source"] == {"protector": "blur"}
        and by_clip.table["actor"].tolist() == ["01"] * 5
    )
    assert ClipStore.in_memory(255 - pixels, table).hash != by_clip.hash
    assert ClipStore.in_memory(pixels, table.assign(emotion="happy")).hash != by_clip.hash


def test_from_array_replaces_or_leaves_nothing(tmp_path):
    pixels, table = protected()
    ClipStore.from_array(tmp_path, pixels[None], table)
    assert torch.equal(
        ClipStore.from_array(tmp_path, 255 - pixels[None], table).to("cpu"), 255 - pixels
    )

    def broken():
        yield pixels[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ClipStore.from_array(tmp_path, broken(), table)
    for clips, message in (
        (pixels[:3], "3 clips came for a table of 5 rows"),
        ([], "0 clips came"),
        ([pixels[0], pixels[1, :2]], r"a clip of shape \(2, 3, 8, 8\) came among"),
        (pixels[:, :, 0], r"a clip has the shape \(T, 3, H, W\)"),
    ):
        with pytest.raises(PpferError, match=message):
            ClipStore.from_array(tmp_path, iter(clips), table)
        with pytest.raises(PpferError, match="no finished clip store"):
            ClipStore.open(tmp_path)
    assert not (tmp_path / "clips.npy").exists()


def test_the_manifest_says_what_the_store_is_made_of(videos, built):
    manifest = json.loads((built.folder / "manifest.json").read_text())
    assert manifest["shape"] == [7, 4, 3, 16, 16] and manifest["hash"] == built.hash
    assert manifest["source"]["request"] == {
        "files": data.index(videos).fingerprint(),
        "frames": 4,
        "size": 16,
    }
    assert (manifest["source"]["found"], manifest["source"]["rejected"]) == (7, 0)
