"""Video in, video out: every frame the right one, whatever cameras and editors write."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from making_videos import (
    KINDS,
    SIZE,
    corners,
    encode,
    encoded,
    hum,
    naively,
    new_stream,
    number,
    paint,
)
from PIL import Image

from ppfer.base.errors import PpferError
from ppfer.video import (
    Frames,
    decode_clip,
    file_fault,
    inspect,
    is_video,
    probe,
    read_video,
    sample_positions,
    square,
)
from ppfer.video.picture import photo_pixels
from ppfer.video.writer import Writer, write_video

ONE_FOLDER = HealthCheck.function_scoped_fixture
NOT_SQUARE = ("h263.3gp", "dv.avi")  # their pixels are 12:11 and 16:15, so pictures are resized
NO_RATE = ("h264_default.h264", "hevc.hevc")  # a bare stream is shown at 25 by FFmpeg


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind, made when asked for."""
    return tmp_path_factory.mktemp("kinds")


def make(folder: Path, name: str) -> Path:
    path = folder / name
    return path if path.exists() else encode(path, **KINDS[name])


def numbers(path: Path, **how: object) -> list[int]:
    with Frames(path, **how) as frames:
        return [number(frame.pixels) for frame in frames]


def clip_numbers(path: Path, frames: int = 8) -> list[int]:
    """What training gets."""
    return [number(picture.transpose(1, 2, 0)) for picture in decode_clip(path, frames, 64)]


def copied(path: Path, out: Path, audio_from: Path | None = None, **part: float) -> Path:
    """A video, or a part of it, read and written again."""
    with Frames(path, **part) as frames:
        with Writer(out, *SIZE, rate=frames.video.rate, audio_from=audio_from) as writer:
            for frame in frames:
                writer.write(frame.pixels, frame.time, frame.duration)
    return out


# --- every kind --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_is_the_right_one(kinds: Path, name: str) -> None:
    """Of the whole, and of the mid-points that training gets."""
    path, how = make(kinds, name), KINDS[name]
    assert is_video(path)
    count, rate = how.get("count", 24), how.get("rate", 30)
    with Frames(path) as frames:
        shown = list(frames)
    assert [number(frame.pixels) for frame in shown] == list(range(count))
    assert frames.faults == []
    plain = naively(path)
    assert len(plain) == count
    if name not in NOT_SQUARE:
        for frame, picture in zip(shown, plain, strict=True):
            np.testing.assert_array_equal(frame.pixels, picture)
    if name not in NO_RATE:
        late = [abs(float(frame.time - k / Fraction(rate))) for k, frame in enumerate(shown)]
        assert max(late) <= 0.0011  # Matroska and FLV count milliseconds
        assert abs(frames.video.rate / rate - 1) < 0.01
        assert abs(frames.video.frames - count) <= 6  # sound may last longer
        assert inspect(path) == (None, ["interlaced, deinterlaced"] if name == "dv.avi" else [])
    chosen = np.stack([shown[i].pixels for i in sample_positions(count, 5)])
    expected = square(torch.from_numpy(chosen).permute(0, 3, 1, 2), 32).numpy()
    np.testing.assert_array_equal(decode_clip(path, 5, 32), expected)


def test_decord_agrees_where_it_is_right(kinds: Path) -> None:
    decord = pytest.importorskip("decord")
    for name in ("h264_closed.mp4", "flv1.flv"):
        path = make(kinds, name)
        reader = decord.VideoReader(str(path), num_threads=1)
        theirs = reader.get_batch(list(range(len(reader)))).asnumpy()
        ours = read_video(path)[0].permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(ours, theirs)


# --- as a player shows it ----------------------------------------------------------------------


TURNS = [("libx264", degrees, flip) for degrees in (0, 90, 180, 270) for flip in ("", "h", "v")]


@pytest.mark.parametrize(("codec", "degrees", "flip"), [*TURNS, ("libx265", 90, "h")])
def test_pictures_are_turned_upright(tmp_path: Path, codec: str, degrees: int, flip: str) -> None:
    options = {"x265-params": "log-level=0:pools=none"} if codec == "libx265" else {}
    flips = {"hflip": flip == "h", "vflip": flip == "v"}
    how = {"options": options, "before": lambda s: s.set_display_rotation(degrees, **flips)}
    path = encode(tmp_path / "phone.mp4", codec, 4, **how)
    turned = np.rot90(paint(5), degrees // 90)  # counter-clockwise, as FFmpeg counts
    turned = {"": turned, "h": turned[:, ::-1], "v": turned[::-1]}[flip]
    video = probe(path)
    assert (video.height, video.width) == turned.shape[:2]
    with Frames(path) as frames:
        assert {corners(frame.pixels) for frame in frames} == {corners(turned)}
    if not flip:
        assert video.rotation == -degrees % 360 and not video.mirrored
        said = [f"rotated by {-degrees % 360}°, turned upright"]
        assert inspect(path)[1] == (said if degrees else [])
    assert corners(decode_clip(path, 2, 64)[0].transpose(1, 2, 0)) == corners(turned)


@pytest.mark.parametrize(("aspect", "width"), [((4, 3), 128), ((8, 9), 85), ((1, 1), 96)])
def test_pixels_become_square(tmp_path: Path, aspect: tuple[int, int], width: int) -> None:
    def stretch(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(*aspect)

    for suffix in ("mp4", "mkv", "avi"):
        path = encode(tmp_path / f"dvd.{suffix}", count=4, before=stretch)
        assert (probe(path).width, probe(path).height) == (width, 64)
        assert numbers(path) == [0, 1, 2, 3]


def box(data: bytes, *names: bytes) -> int:
    """Where the innermost of nested mp4 boxes starts."""
    start, end = 0, len(data)
    for name in names:
        while data[start + 4 : start + 8] != name:
            start += struct.unpack(">I", data[start : start + 4])[0]
            assert start < end, f"no box {name}"
        found, start = start, start + 8
    return found


def test_edit_lists_are_honoured(tmp_path: Path) -> None:
    path = encode(tmp_path / "cut.mp4", options={"g": "30", "bf": "2"})
    data = bytearray(path.read_bytes())
    place = box(bytes(data), b"moov", b"trak", b"edts", b"elst") + 16
    length, begin = struct.unpack(">II", data[place : place + 8])
    tick = 512  # of a frame at 30 a second, as FFmpeg counts: 15360 a second
    data[place : place + 8] = struct.pack(">II", length - 500, begin + 10 * tick)  # frames 10 to 18
    path.write_bytes(data)
    with Frames(path) as frames:
        shown = [(number(frame.pixels), frame.time) for frame in frames]
    assert shown[0] == (10, 0)
    assert [n for n, _ in shown] == list(range(10, 10 + len(shown)))
    assert len(shown) in (9, 10)
    assert clip_numbers(path, 3) == [10 + k for k in sample_positions(len(shown), 3)]


def comb(picture: np.ndarray) -> float:
    """How much every second line stands out."""
    lines = picture.astype(float).mean(-1)
    return float(np.abs(2 * lines[1:-1] - lines[:-2] - lines[2:]).mean())


@pytest.mark.parametrize("suffix", ["mp4", "ts", "mkv"])
def test_half_pictures_are_made_whole(tmp_path: Path, suffix: str) -> None:
    path, size, counter = tmp_path / f"tv.{suffix}", (128, 96), iter(range(100))

    def two_moments(picture: av.VideoFrame) -> None:
        k, luma = next(counter), np.full((96, 128), 60, np.uint8)
        for line in range(96):
            left = 8 + 8 * k + 4 * (line % 2)  # a bar that moves on between the half pictures
            luma[line, left : left + 16] = 220
        picture.planes[0].update(np.pad(luma, ((0, 0), (0, picture.planes[0].line_size - 128))))
        for plane in picture.planes[1:]:
            plane.update(np.full(plane.buffer_size, 128, np.uint8))

    flags = av.codec.context.Flags.interlaced_dct.value
    encode(path, count=10, size=size, options={"crf": "5"}, flags=flags, frame=two_moments)
    assert probe(path).interlaced
    assert inspect(path)[1] == ["interlaced, deinterlaced"]
    with Frames(path) as frames:
        shown = list(frames)
    plain = naively(path)
    assert len(shown) == len(plain) == 10
    assert [round(frame.time * 30) for frame in shown] == list(range(10))
    assert np.mean([comb(f.pixels) for f in shown]) < 0.4 * np.mean([comb(p) for p in plain])


@pytest.mark.parametrize("transfer", [16, 18])  # PQ, HLG
def test_hdr_becomes_ordinary(tmp_path: Path, transfer: int) -> None:
    levels = np.linspace(0.05, 0.95, 8)  # of the signal

    def grey(picture: av.VideoFrame) -> None:
        luma = np.repeat(np.round(64 + 876 * levels), 16)[None].repeat(64, 0).astype("<u2")
        for plane, value in zip(picture.planes, (luma, 512, 512), strict=True):
            rows = np.zeros((plane.height, plane.line_size // 2), "<u2")
            rows[:, : plane.width] = value
            plane.update(rows.tobytes())

    def tag(stream: av.VideoStream) -> None:
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = transfer, 9, 9
        context.color_range = 1

    how = {"size": (128, 64), "pix": "yuv420p10le", "before": tag, "frame": grey}
    path = encode(tmp_path / "hdr.mkv", "ffv1", 3, **how)
    assert probe(path).hdr
    assert inspect(path)[1] == ["HDR, mapped to ordinary colours", "all frames equal"]
    with Frames(path) as frames:
        picture = next(iter(frames)).pixels
    steps = picture[32, 8::16].astype(int)  # (8, 3)
    assert np.all(np.ptp(steps, axis=1) <= 2)  # grey stays grey
    assert np.all(np.diff(steps[:, 0]) >= 0)
    assert steps[0, 0] < 30
    assert steps[-1, 0] > 230
    if transfer == 16:  # paper white, 203 cd/m2, is 0.58 of the signal
        assert 150 < np.interp(0.58, levels, steps[:, 0]) < 230


@pytest.mark.parametrize("what", ["preview", "cover"])
def test_the_film_is_found_beside_what_is_none(tmp_path: Path, what: str) -> None:
    cover = what == "cover"
    path = tmp_path / ("two.mp4" if cover else "two.mkv")
    with av.open(str(path), "w") as container:
        small = container, "libx264", (48, 32)
        other = new_stream(*((container, "mjpeg", (384, 256), "yuvj420p") if cover else small))
        film = new_stream(container)
        if cover:
            other.disposition = av.stream.Disposition.attached_pic
        for k in range(6):
            for stream in (other, film) if not cover or k == 0 else (film,):
                picture = paint(k, (stream.width, stream.height))
                container.mux(stream.encode(encoded(stream, picture)))
        for stream in (film, other):
            container.mux(stream.encode())
    assert (probe(path).width, probe(path).height) == SIZE
    assert numbers(path) == list(range(6))
    assert clip_numbers(path, 3) == [1, 3, 5]


def remux(source: Path, target: Path) -> Path:
    """The pictures of a bare stream, a thirtieth of a second each, in a container."""
    with av.open(str(source)) as given, av.open(str(target), "w") as container:
        old = given.streams.video[0]
        new = container.add_stream_from_template(old)
        for k, packet in enumerate(p for p in given.demux(old) if p.size):
            packet.pts = packet.dts = k
            packet.time_base, packet.duration, packet.stream = Fraction(1, 30), 1, new
            container.mux(packet)
    return target


def test_a_size_that_changes_midway(tmp_path: Path) -> None:
    raw, how = b"", {"count": 6, "fmt": "h264", "options": {"bf": "0"}}
    for k, size in enumerate((SIZE, (192, 128), (48, 32))):
        raw += encode(tmp_path / f"{k}.h264", size=size, first=6 * k, **how).read_bytes()
    (tmp_path / "call.h264").write_bytes(raw)
    path = remux(tmp_path / "call.h264", tmp_path / "call.mkv")
    with Frames(path) as frames:
        shown = list(frames)
    assert {frame.pixels.shape for frame in shown} == {(64, 96, 3)}
    assert [number(frame.pixels) for frame in shown] == list(range(18))
    assert clip_numbers(path, 6) == sample_positions(18, 6)


def test_parts_put_together(tmp_path: Path) -> None:
    part = encode(tmp_path / "part.mpg", "mpeg2video").read_bytes()
    path = tmp_path / "film.mpg"
    path.write_bytes(part + part)  # a camcorder's parts: the clock starts again
    with Frames(path) as frames:
        shown = list(frames)
    assert [number(frame.pixels) for frame in shown] == [*range(24), *range(24)]
    assert [round(frame.time * 30) for frame in shown] == list(range(48))
    assert clip_numbers(path, 8) == [n % 24 for n in sample_positions(48, 8)]


# --- names, titles, damage ---------------------------------------------------------------------


def test_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = encode(tmp_path / "x.mp4", count=4)
    monkeypatch.chdir(tmp_path)
    for name in (b"12:30:05.mp4", b"caf\xe9.mp4", b"%03d.mp4", "é 日本.mp4".encode(), b"-i.mp4"):
        os.link(made, name)
        path = Path(os.fsdecode(name))
        assert numbers(path) == [0, 1, 2, 3]
        assert len(decode_clip(path, 2, 32)) == 2


def test_titles_that_are_not_utf8(tmp_path: Path) -> None:
    for name, codec in (("a.avi", "mpeg4"), ("a.mp4", "libx264")):
        path = encode(tmp_path / name, codec, 4, about={"title": "XXvideo de Jose"})
        path.write_bytes(path.read_bytes().replace(b"XXvideo de Jose", b"v\xeddeo de Jos\xe9 "))
        assert numbers(path) == [0, 1, 2, 3]


def test_faults_of_files(tmp_path: Path) -> None:
    cases = {
        "lfs.mp4": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        "empty.mp4": (b"", "empty"),
        "mac.mp4": (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "AppleDouble"),
        "page.mp4": (b"<!DOCTYPE html><html>", "web page"),
        "text.mp4": (b"hello " * 1000, "damaged or no video"),
        "zeros.mp4": (bytes(5000), "cannot be decoded"),
    }
    for name, (data, reason) in cases.items():
        (tmp_path / name).write_bytes(data)
        fault, remarks = inspect(tmp_path / name)
        assert reason in fault
        assert remarks == []
        for read in (probe, decode_clip, read_video):
            with pytest.raises(PpferError, match=name):
                read(tmp_path / name)
    assert is_video("a/B.MP4") and not is_video("a/._B.mp4") and not is_video("notes.txt")
    assert file_fault(tmp_path / "none.mp4") == "does not exist"
    assert "folder" in file_fault(tmp_path)
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "regular" in file_fault(tmp_path / "pipe.mp4")
    assert file_fault(encode(tmp_path / "fine.mp4", count=2)) is None


def test_sound_alone_and_one_frame_are_useless(tmp_path: Path) -> None:
    one = encode(tmp_path / "one.mp4", count=1)
    assert inspect(one)[0] == "has one frame only"
    with pytest.raises(PpferError, match="one frame only"):
        decode_clip(one)
    assert numbers(one) == [0]
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        hum(container, container.add_stream("aac", rate=48_000))
    assert inspect(tmp_path / "sound.mp4")[0] == "holds no video, only sound"


@pytest.mark.parametrize("name", ["flv1.flv", "h264_faststart.mp4", "vp8.webm", "mpeg4.avi"])
def test_files_cut_short(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, **{**KINDS[name], "count": 60, "size": (192, 128)})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with Frames(path) as frames:
        shown = [number(frame.pixels) for frame in frames]
    assert shown[:6] == list(range(6))
    assert len(shown) < 55
    assert any("ends early" in fault for fault in frames.faults)
    with pytest.raises(PpferError, match="truncated"):
        decode_clip(path)
    assert inspect(path)[0].startswith("is truncated")


def test_mostly_broken_is_rejected(tmp_path: Path) -> None:
    how = KINDS["h264_closed.mp4"] | {"muxer": {"movflags": "faststart"}}
    path = encode(tmp_path / "a.mp4", count=60, **how)
    data = bytearray(path.read_bytes())
    start = box(bytes(data), b"mdat")
    for place in range(start + 4000, len(data) - 600, 1000):
        data[place : place + 600] = os.urandom(600)
    data[(start + len(data)) // 2 :] = bytes(len(data) - (start + len(data)) // 2)
    path.write_bytes(data)
    with pytest.raises(PpferError, match="could not be decoded"):
        decode_clip(path)


def test_pictures_in_a_folder(tmp_path: Path) -> None:
    for k in range(12):
        Image.fromarray(paint(k)).save(tmp_path / f"{k + 1}.png")
    (tmp_path / "._1.png").write_bytes(b"\x00\x05\x16\x07")
    assert clip_numbers(tmp_path, 6) == sample_positions(12, 6)
    (tmp_path / "2.png").write_bytes(b"nonsense")
    with pytest.raises(PpferError, match=r"2\.png"):
        decode_clip(tmp_path, 12)


def test_remarks(tmp_path: Path) -> None:
    dull = encode(tmp_path / "dull.mp4", options={"qp": "0"}, draw=lambda k, size: paint(0, size))
    assert inspect(dull) == (None, ["all frames equal"])
    times = [33 * k for k in range(12)] + [396 + 333 * k for k in range(12)]
    webcam = encode(tmp_path / "cam.webm", "libvpx", times=times, unit=Fraction(1, 1000))
    assert inspect(webcam) == (None, ["variable frame rate"])


# --- a part of it, all of it -------------------------------------------------------------------


@pytest.mark.parametrize("name", "h264_b.mp4 h264_open.mkv mpeg2_b.mpg h264_b.avi vp9.webm".split())
def test_a_part_of_a_video(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, **{**KINDS[name], "count": 360, "size": (48, 32)})
    for start, end in ((0.5, 0.8), (10.95, 11.25), (11.8, None), (30, 31)):
        with Frames(path, start=start, end=end) as frames:
            shown = [(number(frame.pixels), float(frame.time)) for frame in frames]
        begin, stop = Fraction(str(start)), Fraction(str(end or 99))
        expected = [k for k in range(360) if begin <= Fraction(k, 30) < stop]
        assert [n for n, _ in shown] == expected
        assert all(abs(time - n / 30) < 0.0011 for n, time in shown)


def test_the_whole_must_fit_the_memory(kinds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(kinds, "h264_b.mp4")
    frames, rate = read_video(path)
    assert frames.shape == (24, 3, 64, 96) and rate == 30
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100_000))
    with pytest.raises(PpferError, match="frame by frame"):
        read_video(path)


def test_memory_does_not_grow(tmp_path: Path) -> None:
    code = (
        "import resource, sys\nfrom ppfer.video import Frames\n"
        "for frame in Frames(sys.argv[1]): frame.pixels\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)"
    )
    used = []
    for count in (30, 150):
        how = {"size": (1280, 720), "options": {"preset": "ultrafast"}}
        path = encode(tmp_path / f"{count}.mp4", count=count, **how)
        used.append(float(subprocess.check_output([sys.executable, "-c", code, path])))
    assert used[1] - used[0] < 30, used  # MB; 120 more pictures are 330 MB


# --- video out ---------------------------------------------------------------------------------


def times_of(path: Path) -> list[Fraction]:
    with Frames(path) as frames:
        return [frame.time for frame in frames]


def test_a_web_page_can_play_it(tmp_path: Path) -> None:
    pictures = np.stack([paint(k).transpose(2, 0, 1) for k in range(12)])
    path = write_video(tmp_path / "out.mp4", pictures, 30)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 30)
        assert (context.color_primaries, context.color_trc, context.colorspace) == (1, 1, 1)
        assert context.color_range == 1
        assert not {"encoder", "creation_time"} & container.metadata.keys()
    assert numbers(path) == list(range(12))


@settings(max_examples=25, deadline=None, suppress_health_check=[ONE_FOLDER])
@given(gaps=st.lists(st.integers(1, 3000), min_size=1, max_size=12), start=st.integers(0, 10**7))
def test_times_are_kept(tmp_path: Path, gaps: list[int], start: int) -> None:
    times = [Fraction(start + sum(gaps[:k]), 1000) for k in range(len(gaps) + 1)]  # milliseconds
    path = tmp_path / "vfr.mp4"
    with Writer(path, *SIZE) as writer:
        for k, time in enumerate(times):
            writer.write(paint(k), time, Fraction(1, 2))
    assert times_of(path) == [time - times[0] for time in times]
    assert probe(path).duration == pytest.approx(float(times[-1] - times[0]) + 0.5, abs=0.002)


RATES = Fraction(24000, 1001), 30000 / 1001, 1, 15, 59.94, 1000, 1 / 3600, 90_000


@pytest.mark.parametrize("rate", RATES)
def test_rates_are_kept(tmp_path: Path, rate: float) -> None:
    path = write_video(tmp_path / "r.mp4", np.zeros((6, 3, 32, 32), np.uint8), rate)
    with av.open(str(path)) as container:
        kept = container.streams.video[0].average_rate
    assert float(kept) == pytest.approx(float(rate), rel=1e-4)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_rates_that_cannot_be(tmp_path: Path, rate: float) -> None:
    with pytest.raises(PpferError, match="frame rate"):
        write_video(tmp_path / "r.mp4", np.zeros((2, 3, 32, 32), np.uint8), rate)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["rate_24000_1001.mp4", "h264_b.avi", "vp9.webm", "wmv2.wmv"])
def test_through_and_through(kinds: Path, tmp_path: Path, name: str) -> None:
    path = make(kinds, name)
    out = copied(path, tmp_path / "out.mp4")
    assert numbers(out) == list(range(24))
    assert times_of(out) == pytest.approx(times_of(path), abs=1e-5)
    assert probe(out).duration == pytest.approx(24 / float(probe(path).rate), abs=0.003)


def test_quality_of_both_ways(tmp_path: Path) -> None:
    x, y = np.meshgrid(np.linspace(0, 1, 96), np.linspace(0, 1, 64))
    picture = np.round(255 * np.stack([x, y, 1 - x], -1)).astype(np.uint8)
    frames = np.stack([picture.transpose(2, 0, 1)] * 3)
    for exact in (False, True):
        path = write_video(tmp_path / "q.mp4", frames, crf=1, full_colour=exact)
        back = read_video(path)[0].numpy().astype(int)
        assert np.abs(back - frames).mean() < 3
    noise = np.random.default_rng(0).integers(0, 256, (3, 3, 64, 96), dtype=np.uint8)
    errors = []
    for exact in (False, True):
        path = write_video(tmp_path / "n.mp4", noise, crf=1, full_colour=exact)
        back = read_video(path)[0].numpy()
        errors.append(np.abs(back.astype(int) - noise).mean())
    assert errors[1] < 0.1 * errors[0]  # fine coloured texture survives only exactly


def test_the_same_frames_are_the_same_bytes(tmp_path: Path) -> None:
    """Whatever lies in memory that the encoder did not write itself."""
    rng, path, made = np.random.default_rng(0), tmp_path / "v.mp4", set()
    rows, columns = np.mgrid[:112, :112]
    planes = [(rows * 5 + k * 3, columns * 7 + k, rows * columns // 4 + k * 5) for k in range(16)]
    frames = [np.stack(p, -1) for p in planes]  # (112, 112, 3) each; 7 macroblocks in a row
    for _ in range(40):
        dirt = [np.full(rng.integers(10, 300_000), rng.integers(256), np.uint8) for _ in range(60)]
        del dirt[::2]
        with Writer(path, 112, 112) as writer:
            for frame in frames:
                writer.write(frame.astype(np.uint8))
        made.add(path.read_bytes())
    assert len(made) == 1


def test_odd_sizes(tmp_path: Path) -> None:
    frames = torch.full((3, 3, 33, 47), 0.5)
    back, _ = read_video(write_video(tmp_path / "odd.mp4", frames))
    assert back.shape == (3, 3, 34, 48)  # one more line and column, repeated
    assert back.float().std() < 2
    back, _ = read_video(write_video(tmp_path / "odd.mp4", frames, full_colour=True))
    assert back.shape == (3, 3, 33, 47)


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"older")
    with pytest.raises(KeyError), Writer(out, *SIZE) as writer:
        writer.write(paint(0))
        raise KeyError
    with pytest.raises(PpferError, match="96x64"), Writer(out, *SIZE) as writer:
        writer.write(paint(0, (32, 32)))
    with pytest.raises(PpferError, match="no frame"), Writer(out, *SIZE):
        pass
    for suffix in ("nonsense", "avi", "webm"):
        with pytest.raises(PpferError, match="could not be written"):
            Writer(tmp_path / f"out.{suffix}", *SIZE)
    with pytest.raises(PpferError, match="could not be written"):
        Writer(out / "below.mp4", *SIZE)
    (tmp_path / "taken.mp4").mkdir()
    with pytest.raises(PpferError, match="could not be written"):
        write_video(tmp_path / "taken.mp4", np.zeros((2, 3, 32, 32), np.uint8))
    assert out.read_bytes() == b"older"
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", "taken.mp4"}


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from ppfer.config import PpferError\nfrom ppfer.video.writer import write_video\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "frames = np.random.default_rng(0).integers(0, 255, (9, 3, 256, 256), dtype=np.uint8)\n"
        "try: write_video(sys.argv[1], frames)\nexcept PpferError as error: print(error)"
    )
    out = subprocess.check_output([sys.executable, "-c", code, tmp_path / "out.mp4"], text=True)
    assert "could not be written" in out
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_and_long_names(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 240 + ".mp4")
    with Writer(long, *SIZE) as one, Writer(tmp_path / "b.mp4", *SIZE) as two:
        for k in range(4):
            one.write(paint(k))
            two.write(paint(9 - k))
    assert numbers(long) == [0, 1, 2, 3]
    assert numbers(tmp_path / "b.mp4") == [9, 8, 7, 6]


def test_frames_are_checked(tmp_path: Path) -> None:
    shapes = (0, 3, 8, 8), (4, 8, 8), (4, 8, 8, 3)
    for frames in (*(np.zeros(shape, np.uint8) for shape in shapes), np.zeros((2, 3, 8, 8), int)):
        with pytest.raises(PpferError, match="frames"):
            write_video(tmp_path / "x.mp4", frames)
    assert list(tmp_path.iterdir()) == []


# --- sound -------------------------------------------------------------------------------------


def heard(path: Path) -> tuple[str, float, float]:
    """(codec, start, end) of the sound of a file, in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        pieces = [(p.time, p.samples / p.sample_rate) for p in container.decode(stream)]
        return stream.codec_context.name, pieces[0][0], pieces[-1][0] + pieces[-1][1]


@pytest.mark.parametrize("name", ["h264_sound.mp4", "vp9_sound.webm", "h264_sound.ts"])
def test_sound_is_dropped_or_kept(kinds: Path, tmp_path: Path, name: str) -> None:
    path = make(kinds, name)
    assert probe(path).sound
    mute = copied(path, tmp_path / "mute.mp4")
    loud = copied(path, tmp_path / "loud.mp4", audio_from=path)
    assert not probe(mute).sound
    codec, start, end = heard(loud)
    assert codec == "aac"
    assert abs(start) < 0.05
    assert 0.75 < end < 0.9  # the pictures last 0.8 s
    assert numbers(loud) == list(range(24))


def test_sound_of_a_part(kinds: Path, tmp_path: Path) -> None:
    path = make(kinds, "h264_sound.mp4")
    out = copied(path, tmp_path / "part.mp4", audio_from=path, start=0.3, end=0.6)
    assert numbers(out) == list(range(9, 18))
    assert heard(out)[2] == pytest.approx(0.3, abs=0.05)


SOUNDS = "mov pcm_s16le mono 8000, mkv pcm_s16le 5.1 48000, avi libmp3lame stereo 44100, "
SOUNDS += "mkv flac stereo 44100, mpg mp2 stereo 48000, flv aac stereo 44100"


@pytest.mark.parametrize("form", SOUNDS.split(", "))
def test_sound_of_every_form(tmp_path: Path, form: str) -> None:
    suffix, codec, layout, rate = form.split()
    how = {
        "sound": codec,
        "layout": layout,
        "hertz": int(rate),
        "gap": suffix not in ("avi", "flv"),
    }
    path = encode(tmp_path / f"in.{suffix}", **how)
    out = copied(path, tmp_path / "out.mp4", audio_from=path)
    assert 0.6 < heard(out)[2] < 1
    assert numbers(out) == list(range(24))


def test_no_sound_to_keep(kinds: Path, tmp_path: Path) -> None:
    with Writer(tmp_path / "out.mp4", *SIZE, audio_from=make(kinds, "h264_b.mp4")) as writer:
        writer.write(paint(3))
    assert numbers(tmp_path / "out.mp4") == [3]


def test_what_is_transparent_is_white_in_a_video_and_in_a_photo(tmp_path):
    picture = np.full((32, 48, 4), (200, 30, 30, 255), np.uint8)
    picture[:, 24:] = 90, 90, 90, 0  # somebody cut this out
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "rgba"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba")))
        container.mux(stream.encode())
    Image.fromarray(picture).save(tmp_path / "a.png")
    (frame,) = Frames(tmp_path / "a.mov")
    for seen in (frame.pixels, photo_pixels(tmp_path / "a.png")):
        assert (seen[:, 24:] == 255).all() and np.abs(
            seen[:, :24].astype(int) - picture[:, :24, :3]
        ).max() < 3


def test_a_photo_of_many_pictures_is_none(tmp_path):
    pictures = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (0, 100, 200)]
    for name in ("a.webp", "a.png", "a.tif"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:])
        with pytest.raises(PpferError, match="holds 3 pictures and is no photo"):
            photo_pixels(tmp_path / name)
