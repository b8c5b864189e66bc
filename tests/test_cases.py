"""Files people really have, each from a report: what no kind in `test_video` and no way in
`test_protect_files` covers.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import av
import numpy as np
import pytest
from cases import outcomes
from making_videos import encode, hum, naively, number, paint
from PIL import Image

from ppfer.base.errors import PpferError
from ppfer.config import load_config
from ppfer.data.decoding import inspected
from ppfer.data.index import index
from ppfer.data.store import ClipStore
from ppfer.study.catalogue import open_run
from ppfer.video import decode_clip

APPLE_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(4000)
CREMAD = [f"{actor}_DFA_{code}_XX" for actor in (1001, 1002) for code in ("ANG", "HAP", "SAD")]


def protect(source: Path, out: Path) -> list[Path]:
    """The results; none was left out."""
    became = outcomes(source, out)
    assert all(outcome.ok for outcome in became)
    return [outcome.result for outcome in became if outcome.result]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with an empty folder `in`."""
    (tmp_path / "in").mkdir()
    return tmp_path


def test_results_are_not_protected_again(here: Path) -> None:
    encode(here / "in" / "v.mp4", size=(320, 240))
    folder = here / "in" / "protected"
    assert protect(here / "in", folder) == protect(here / "in", folder) == [folder / "v.mp4"]
    folder.rename(here / "in" / "earlier")  # wherever they lie
    assert protect(here / "in", here / "out") == [here / "out" / "v.mp4"]


def test_nothing_is_left_out_without_a_word(here: Path) -> None:
    """MaskAnyone's "leaky frames": what is missed must be said."""
    folder = here / "in"
    encode(folder / "ok.mp4")
    encode(folder / "a.wmv", "wmv2")
    encode(folder / "b.mpg", "mpeg2video")
    encode(folder / "c.mts", fmt="mpegts")
    encode(folder / "d.3gp")
    (here / "disk2").mkdir()
    encode(here / "disk2" / "e.mp4")
    (folder / "linked").symlink_to(here / "disk2")
    (here / "disk2" / "back").symlink_to(folder)  # leads in circles
    (folder / "again").symlink_to(here / "disk2")
    became = outcomes(folder, here / "out")
    results = {o.result.relative_to(here / "out").as_posix() for o in became if o.result}
    assert results == {*(f"{name}.mp4" for name in ("ok", "a", "b", "c", "d")), "again/e.mp4"}
    passed = {o.source.relative_to(folder).as_posix() for o in became if not o.result}
    assert passed == {"again/back", "linked"} and all(o.ok for o in became)


def crema(folder: Path) -> Path:
    for n, name in enumerate(CREMAD):
        encode(folder / f"{name}.mp4", count=20, first=50 * n)
    return folder


def test_a_data_set_copied_from_a_mac(here: Path) -> None:
    """KumarLabJax/JABS-behavior-classifier#410, unslothai/unsloth#8919: ._NAME beside NAME."""
    folder = crema(here / "in")
    for name in CREMAD:
        (folder / f"._{name}.mp4").write_bytes(APPLE_DOUBLE + name.encode())
    (folder / "1003_IEO_ANG_HI.mp4").touch()  # one clip that did not come down whole
    found = index(folder)
    assert len(found.table) + len(found.rejected) == 7
    assert len(ClipStore.build(found, here / "store", frames=8, size=64)) == 6
    (folder / "1003_IEO_ANG_HI.mp4").unlink()
    assert len(protect(folder, here / "out")) == 6


@pytest.mark.parametrize("name", ["a.PNG", "a.webp", "a.tif", "a.bmp", "sixteen.png"])
def test_photos_of_every_kind(here: Path, name: str) -> None:
    """16 bits are what scanners and cameras' PNG have; PIL alone would show them white."""
    photo = Image.fromarray(paint(5, (96, 96)))
    if name == "sixteen.png":
        photo = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    photo.save(here / "in" / name)
    (result,) = protect(here / "in", here / "out")
    assert result.suffix.lower() == ".png" and number(np.asarray(Image.open(result))) == 5
    with pytest.raises(PpferError, match="there is no video"):  # known again
        protect(here / "out", here / "again")


def test_what_is_invisible_in_a_photo_stays_so(here: Path) -> None:
    """Who wipes a part out with a paint program often leaves its pixels in the file."""
    clear = np.dstack([paint(5, (96, 96)), np.zeros((96, 96), np.uint8)])
    Image.fromarray(clear).save(here / "in" / "a.png")
    (result,) = protect(here / "in", here / "out")
    assert np.asarray(Image.open(result)).min() == 255


def test_a_camera_writes_exif_into_every_frame(here: Path) -> None:
    """Which way is up is said there; PyAV has no name for it."""
    exif, files = Image.Exif(), []
    exif[0x0112] = 6  # stored lying on its left side
    for k in range(4):
        file = io.BytesIO()
        lying = np.ascontiguousarray(np.rot90(paint(k, (96, 96))))
        Image.fromarray(lying).save(file, "JPEG", exif=exif, quality=95)
        files.append(file.getvalue())
    (here / "in" / "camera.avi").write_bytes(b"".join(files))
    seen = decode_clip(here / "in" / "camera.avi", 4, 96)
    assert [number(picture.transpose(1, 2, 0)) for picture in seen] == [0, 1, 2, 3]


def test_a_file_name_that_is_not_utf8(here: Path) -> None:
    folder = crema(here / "in")
    os.rename(encode(here / "x.mp4", count=20), os.fsencode(folder) + b"/caf\xe9.mp4")
    store = ClipStore.build(index(folder), here / "store", frames=8, size=64)
    assert len(store) == 6 and "caf\\udce9.mp4" in store.summary()
    own = b"path,actor,emotion\n"  # where it is one of the data set's
    for name in CREMAD:
        own += f"{name}.mp4,{name[:4]},{name[9:12]}\n".encode()
    (folder / "metadata.csv").write_bytes(own)
    os.rename(folder / f"{CREMAD[0]}.mp4", os.fsencode(folder) + b"/1001_\xe9.mp4")
    assert "not listed" in index(folder).summary()


def test_names_have_one_form(here: Path) -> None:
    """A Mac writes é as two letters, others as one: one actor, and files are found either way."""
    folder, one, two = here / "in", "Jos\u00e9", "Jose\u0301"
    encode(folder / f"{one}1.mp4", first=1)
    encode(folder / f"{two}2.mp4", first=100)
    rows = f"path,actor,emotion\n{two}1.mp4,{one},happy\n{one}2.mp4,{two},sad\n"
    (folder / "metadata.csv").write_text(rows)
    table = index(folder).table
    assert table["clip"].tolist() == [f"{one}1", f"{one}2"] and set(table["actor"]) == {one}
    store = ClipStore.build(index(folder), here / "store", frames=4, size=64)
    assert number(store.clips[1, 0].transpose(1, 2, 0)) == 103


def test_one_bad_sector_costs_only_what_it_hit(here: Path) -> None:
    how = {"muxer": {"movflags": "faststart"}, "options": {"g": "10", "crf": "1"}}
    path = encode(here / "gap.mp4", count=120, size=(192, 128), **how)
    data = bytearray(path.read_bytes())
    start, tenth = len(data) // 2, len(data) // 10
    data[start : start + tenth] = bytes(tenth)
    path.write_bytes(data)
    (became,) = outcomes(path, here / "out")
    assert became.state == "written" and "damaged input" in str(became)
    assert set(range(30)) | set(range(80, 120)) <= set(map(number, naively(became.result)))
    assert decode_clip(path, 16, 64).shape == (16, 3, 64, 64)


def test_garbage_is_not_called_usable(here: Path) -> None:
    folder = here / "in"
    (folder / "text.mp4").write_bytes(b"hello " * 1000)
    with av.open(str(folder / "sound.mp4"), "w") as container:
        hum(container, container.add_stream("aac", rate=48_000))
    encode(folder / "one.mp4", count=1)
    rows = "path,actor,emotion\ntext.mp4,x,happy\nsound.mp4,y,sad\none.mp4,x,sad\n"
    (folder / "metadata.csv").write_text(rows)
    assert "not decoded yet" in index(folder).summary()
    said = inspected(index(folder)).summary()
    assert "3 videos found, 0 usable, 3 rejected" in said and "not decoded" not in said


def test_two_data_folders_of_one_name_are_two_runs(here: Path) -> None:
    places = []
    for who, first in (("a", 0), ("b", 300)):
        folder = here / who / "videos"
        folder.mkdir(parents=True)
        rows = ["path,actor,emotion"]
        for i in range(6):
            encode(folder / f"c{i}.mp4", count=20, first=first + 50 * i)
            rows.append(f"c{i}.mp4,p{i % 2},{('happy', 'sad', 'angry')[i // 2]}")
        (folder / "metadata.csv").write_text("\n".join(rows))
        run = open_run(load_config("demo", {"data": str(folder)}), here / "runs", device="cpu")
        run.make("clips")
        (run.dir / "clips" / f"result_of_{who}").write_text("days of training")
        places.append(run.dir)
    left = sorted(path.name for path in (here / "runs").rglob("result_of_*"))
    assert left == ["result_of_a", "result_of_b"] and places[0] != places[1]
    other = load_config("demo", {"data": str(folder), "bands.wavelet": "db4"})
    again = open_run(other, here / "runs", "cpu")
    assert again.dir not in places and again.folder("clips") == places[1] / "clips"  # shared
