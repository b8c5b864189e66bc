"""Bad data: files and tables as the world has them, generated. Each is rejected with a reason or
handled; nothing ends in a traceback, hangs, or takes much memory.
"""

from __future__ import annotations

import functools
import itertools
import os
import resource
import shutil
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from counting import COUNTS
from making_videos import encode
from PIL import Image

from ppfer.base.errors import PpferError
from ppfer.cli import main
from ppfer.data import index
from ppfer.data.decoding import in_children
from ppfer.data.words import EMOTIONS

SECONDS, MEMORY = 20.0, 1.5e9  # for one file
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"

# --- videos ---------------------------------------------------------------------------------------

WHOLE = {
    "a.mp4": "libx264",
    "b.mkv": "libx264",
    "c.avi": "mpeg4",
    "d.webm": "libvpx",
    "e.ts": "libx264",
    "f.mov": "mjpeg",
    "g.flv": "flv",
    "h.mpg": "mpeg2video",
}


@functools.cache
def whole(name: str, folder: Path) -> bytes:
    how = {"pix": "yuvj420p"} if WHOLE[name] == "mjpeg" else {}
    return encode(folder / name, WHOLE[name], 24, **how).read_bytes()


def cut(content: bytes) -> Iterator[tuple[str, bytes]]:
    for tenth in range(10):
        yield f"cut at {tenth} tenths", content[: len(content) * tenth // 10]


def flipped(content: bytes) -> Iterator[tuple[str, bytes]]:
    for tenth in range(10):
        rng, spoilt = np.random.default_rng(tenth), bytearray(content)
        for place in rng.integers(0, len(content) // (10 if tenth < 5 else 1), 1 + 4 * tenth):
            spoilt[place] ^= int(rng.integers(1, 256))
        yield f"flipped {tenth}", bytes(spoilt)


def png(width: int, height: int) -> bytes:
    """A picture whose header promises more than is there."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    shape = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", shape) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def y4m(width: int, height: int, rate: str, frames: int = 3) -> bytes:
    said = f"YUV4MPEG2 W{width} H{height} F{rate} Ip A1:1 C420jpeg\n".encode()
    return said + (b"FRAME\n" + bytes(64 * 64 * 3 // 2)) * frames


def others(folder: Path) -> Iterator[tuple[str, bytes]]:
    noise = np.random.default_rng(0)
    mp4, avi = whole("a.mp4", folder), whole("c.avi", folder)
    yield "empty.mp4", b""
    yield "pointer.mp4", POINTER
    yield "page.mp4", b"<!DOCTYPE html><title>log in</title>"
    yield "mac.mp4", bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(4000)
    yield "text.mov", b"not a video\n" * 99
    yield "zeros.mkv", bytes(9000)
    yield "ones.avi", b"\xff" * 9000
    yield "archive.mp4", b"PK\x03\x04" + noise.bytes(4000)
    yield "picture.mp4", png(32, 32)
    for size in (1, 7, 100, 4096, 99_999):
        for suffix in ("mp4", "avi", "ts", "webm"):
            yield f"noise{size}.{suffix}", noise.bytes(size)
    for (name, _), suffix in itertools.product(WHOLE.items(), ("mp4", "avi", "webm")):
        yield f"renamed {name}.{suffix}", whole(name, folder)
    for side, other in ((65535, 65535), (0, 0), (1, 1), (100_000, 2), (2**31 - 1, 2**31 - 1)):
        yield f"size {side}x{other}.y4m", y4m(side, other, "25:1")
        yield f"png {side}x{other}.png.mp4", png(side, other)
    for rate in ("0:1", "1:0", "0:0", "-5:1", "999999999:1", "1:999999999"):
        yield f"rate {rate.replace(':', '_')}.y4m", y4m(64, 64, rate)
    for bad in (0, 1, 0xFFFFFFFF):  # microseconds a frame, frames, width and height of an AVI
        for at in (32, 48, 64, 68):
            yield f"avi {at} {bad}.avi", avi[:at] + struct.pack("<I", bad) + avi[at + 4 :]
    for bad in (0, 0xFFFF):  # the sizes that an MP4 says a frame has
        spot = mp4.index(b"avc1") + 28
        yield f"mp4 {bad}.mp4", mp4[:spot] + struct.pack(">HH", bad, bad) + mp4[spot + 4 :]
    for box in (b"moov", b"mdat", b"stts", b"stsz", b"stco", b"mdhd", b"tkhd"):
        spot = mp4.index(box)
        for size in (0, 1, 0xFFFFFFFF):
            spoilt = mp4[: spot - 4] + struct.pack(">I", size) + mp4[spot:]
            yield f"box {box.decode()} {size}.mp4", spoilt
    for codec, suffix in (("libx264", "mp4"), ("mpeg4", "avi"), ("libvpx", "webm")):
        one = encode(folder / f"single.{suffix}", codec, 1)
        yield f"one frame.{suffix}", one.read_bytes()


def videos(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of what is no good, or odd."""
    for name in WHOLE:
        for how, content in itertools.chain(*(f(whole(name, folder)) for f in (cut, flipped))):
            yield f"{how} {name}", content
    yield from others(folder)


def looked_at(path: str) -> tuple[str, int]:
    """What training says of a file, and the most memory its process ever took; in a child."""
    from ppfer.video.clips import clip_or_reason, inspect

    fault, _ = inspect(path)
    clip = clip_or_reason(path, 4, 32)
    said = clip if isinstance(clip, str) else "used"
    assert fault is None or isinstance(fault, str)
    return said, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def protected(path: str) -> tuple[str, int]:
    """What protecting says of a file; in a child."""
    from cases import outcomes

    out = Path(path).parent.parent / "out" / Path(path).name
    try:
        (became,) = [o for o in outcomes(Path(path), out) if o.source == Path(path)]
        said = "used" if became.ok else f"{became.state}: {became.notes}"
    except PpferError as error:
        said = str(error)
    left = [p.name for p in out.glob(".*")] if out.exists() else []
    assert not left, f"half a file is left: {left}"
    return said, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def odd(answer: object) -> bool:
    """Whether an answer is none: neither use nor a reason."""
    if isinstance(answer, PpferError):
        return "hung" in str(answer)  # a crash costs its child alone, and the file is rejected
    return not isinstance(answer, tuple) or not answer[0]


@pytest.mark.faults
@pytest.mark.parametrize("how", [looked_at, protected])
def test_every_bad_video_is_rejected_or_used(how, tmp_path, monkeypatch):
    scratch, root = tmp_path / "scratch", tmp_path / "in"
    for folder in (scratch, root):
        folder.mkdir()
    paths = []
    for number, (name, content) in enumerate(videos(scratch)):
        paths.append(root / f"{number:03d} {name}")
        paths[-1].write_bytes(content)
    sys.path.insert(0, str(Path(__file__).parent))  # where children find this module
    monkeypatch.setattr("ppfer.data.decoding.TIMEOUT", SECONDS)
    answers = list(in_children(how, ((str(path),) for path in paths)))
    bad = {p.name: str(a) for p, a in zip(paths, answers, strict=True) if odd(a)}
    assert not bad, "no answer, a traceback, or a hang"
    said = [answer for answer in answers if isinstance(answer, tuple)]
    most = max(memory for _, memory in said)
    surprises = [a for a in answers if "Error" in str(a) and not isinstance(a, PpferError)]
    used, crashed = sum(a[0] == "used" for a in said), len(answers) - len(said)
    print(f"{how.__name__}: {len(answers)} files, {used} used, {crashed} crashed a child, "
          f"{most / 1e6:.0f} MB at most; {surprises[:9]}")  # fmt: skip
    assert most < MEMORY and crashed == 0 and 0 < used < len(answers)
    COUNTS["inputs tried"] += len(answers)


# --- names ----------------------------------------------------------------------------------------


def odd_names() -> list[str]:
    """A name for every character below 128 that a file's name may hold, and longer ones."""
    single = [chr(n) for n in range(1, 128) if chr(n) not in "/" and not chr(n).isalnum()]
    more = ["é", "e\u0301", "日本", "🎬", "\u202e", "\u200b", "\udcff", "\udce9", "%s", "{0}"]
    more += ["$HOME", "-rf", "--", "~", "con", "file:", "http:", "concat:", "pipe:0", "x" * 200]
    return [f"{character}x" for character in single] + [f"a{m}" for m in more] + more


def test_every_odd_name_is_used_or_listed(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    names = sorted({f"{name}.mp4" for name in odd_names() if not name.startswith(".")})
    for number, name in enumerate(names):
        (root / name).write_bytes(b"video %d" % number)
    rows = [f'"{name.replace(chr(34), chr(34) * 2)}",{n % 3},{EMOTIONS[n % 6]}\n'
            for n, name in enumerate(names)]  # fmt: skip
    text = "path,actor,emotion\n" + "".join(rows)
    (root / "metadata.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    try:
        found = index.index(root)
        listed = [*(os.path.relpath(p, root) for p in found.table["path"]), *found.rejected["path"]]
        assert {name for name in names if name not in listed} <= {
            n for n in names if n != n.strip()
        }
    except PpferError as error:
        assert "metadata.csv" in str(error)  # names that are not UTF-8
    (root / "metadata.csv").write_bytes(
        "".join(["path,actor,emotion\n", *(r for r in rows if r.isprintable() or "\n" in r)])
        .encode("utf-8", "replace")
    )  # fmt: skip
    found = index.index(root)
    said = found.summary()
    said.encode("utf-8")
    assert len(found.table) > 0.6 * len(names)
    COUNTS["inputs tried"] += len(names)


@pytest.mark.parametrize(
    "name",
    ["../secret.mp4", "a/../../secret.mp4", "ABSOLUTE", "..\\secret.mp4", "in/../../secret.mp4"],
)
def test_a_table_names_no_file_outside_its_folder(name, tmp_path):
    root = tmp_path / "in"
    (root / "a").mkdir(parents=True)
    (tmp_path / "secret.mp4").write_bytes(b"somebody's")
    (root / "own.mp4").write_bytes(b"own")
    name = str(tmp_path / "secret.mp4") if name == "ABSOLUTE" else name
    (root / "metadata.csv").write_text(f"path,actor,emotion\nown.mp4,1,sad\n{name},1,sad\n")
    found = index.index(root)
    assert [Path(p).name for p in found.table["path"]] == ["own.mp4"]
    assert "lies outside" in found.rejected["reason"][0]
    COUNTS["inputs tried"] += 1


def test_links_and_what_is_no_file(tmp_path):
    """Links in circles, to nothing, to devices, pipes and sockets: each has its reason."""
    root, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    for folder in (root, elsewhere):
        folder.mkdir()
    stems = [f"1001_DFA_{code}_XX" for code in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")]
    (root / f"{stems[0]}.mp4").symlink_to("/dev/zero")
    (root / f"{stems[1]}.mp4").symlink_to(tmp_path / "nothing")
    (root / f"{stems[2]}.mp4").symlink_to(root / f"{stems[2]}.mp4")
    os.mkfifo(root / f"{stems[3]}.mp4")
    (root / f"{stems[4]}.mp4").mkdir()
    (root / f"{stems[5]}.mp4").write_bytes(b"whole")
    (root / "again").symlink_to(root)
    (root / "up").symlink_to(tmp_path)
    (elsewhere / "1002_DFA_SAD_XX.mp4").write_bytes(b"another")
    (root / "linked").symlink_to(elsewhere)
    found = index.index(root)
    assert set(found.table["clip"]) == {stems[5], "1002_DFA_SAD_XX"}
    assert len(found.rejected) >= 4 and found.rejected["reason"].str.len().min() > 5
    COUNTS["inputs tried"] += 9


# --- tables ---------------------------------------------------------------------------------------

ROWS = [
    ("a.mp4", "1", "sad"),
    ("b.mp4", "2", "happy"),
    ("c.mp4", "1", "ängstlich"),
    ("d.mp4", "é", "sad"),
]
ENCODINGS = "utf-8 utf-8-sig utf-16 utf-16-le utf-32 latin-1 cp1252 cp437 utf-7 shift_jis".split()
SEPARATORS = (",", ";", "\t", "|", " ", ":", ", ", "\x00")
ENDS = ("\n", "\r\n", "\r", "")
COLUMNS = [
    "path,actor", "actor,emotion", "path,actor,emotion,emotion", "path,path,actor,emotion",
    "PATH,Actor,EMOTION", " path , actor , emotion ", "file,person,label", "path,actor,emotion,",
    ",path,actor,emotion", "", "path", "\ufeffpath,actor,emotion", "0,1,2", "path;actor;emotion",
]  # fmt: skip
BODIES = {
    "a quote left open": 'path,actor,emotion\n"a.mp4,1,sad\nb.mp4,2,sad\n',
    "too many cells": "path,actor,emotion\na.mp4,1,sad,x,y,z\nb.mp4,2,sad\n",
    "too few cells": "path,actor,emotion\na.mp4\nb.mp4,2\n",
    "no row": "path,actor,emotion\n",
    "blank rows": "path,actor,emotion\n\n\n\na.mp4,1,sad\n\n",
    "rows twice": "path,actor,emotion\n" + "a.mp4,1,sad\n" * 9,
    "labels that disagree": "path,actor,emotion\na.mp4,1,sad\na.mp4,1,happy\nb.mp4,2,sad\n",
    "people that disagree": "path,actor,emotion\na.mp4,1,sad\na.mp4,2,sad\nb.mp4,2,sad\n",
    "a cell of a megabyte": "path,actor,emotion\na.mp4,1,sad\n" + "x" * 1_000_000 + ",1,sad\n",
    "ten thousand rows": "path,actor,emotion\na.mp4,1,sad\n" + "n.mp4,1,sad\n" * 10_000,
    "formulas": "path,actor,emotion\na.mp4,=1+1,sad\nb.mp4,@SUM(A1),sad\n",
    "not a number": "path,actor,emotion\na.mp4,nan,sad\nb.mp4,NA,sad\nc.mp4,null,None\n",
    "zeros before": "path,actor,emotion\na.mp4,01,sad\nb.mp4,1,sad\n",
    "an empty path": "path,actor,emotion\n,1,sad\na.mp4,1,sad\n",
    "the folder itself": "path,actor,emotion\n.,1,sad\na.mp4,1,sad\n",
    "the root": "path,actor,emotion\n/,1,sad\na.mp4,1,sad\n",
    "a NUL in a path": "path,actor,emotion\na\0.mp4,1,sad\nb.mp4,1,sad\n",
    "a name too long": "path,actor,emotion\n" + "y" * 300 + ".mp4,1,sad\na.mp4,1,sad\n",
}  # fmt: skip


def texts() -> Iterator[tuple[str, bytes]]:
    for encoding, separator in itertools.product(ENCODINGS, SEPARATORS):
        lines = [separator.join(row) for row in [("path", "actor", "emotion"), *ROWS]]
        content = "\n".join(lines).encode(encoding, "replace")
        yield f"{encoding} {separator!r}", content
    for end, columns in itertools.product(ENDS, COLUMNS):
        yield f"{columns!r} {end!r}", end.join([columns, *map(",".join, ROWS)]).encode()
    for name, body in BODIES.items():
        yield name, body.encode()
    noise = np.random.default_rng(0)
    for size in (1, 99, 9999):
        yield f"noise {size}", noise.bytes(size)
        yield f"header and noise {size}", b"path,actor,emotion\n" + noise.bytes(size)


def test_every_bad_table_is_a_sentence_or_read(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.mp4").write_bytes(name.encode())
    read, refused = [], []
    for what, content in texts():
        (tmp_path / "metadata.csv").write_bytes(content)
        try:
            found = index.index(tmp_path)
        except PpferError as error:
            assert str(tmp_path) in str(error), what
            refused.append(what)
            continue
        read.append(what)
        assert len(found.table) + len(found.rejected) >= 4, f"{what}: a video is unaccounted for"
        assert found.table["emotion"].isin(EMOTIONS).all() and (found.table["actor"] != "").all()
        found.summary().encode()
    assert read and refused
    COUNTS["inputs tried"] += len(read) + len(refused)


def test_labels_that_disagree_are_not_used(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.mp4").write_bytes(name.encode())
    for what in ("labels that disagree", "people that disagree"):
        (tmp_path / "metadata.csv").write_text(BODIES[what])
        found = index.index(tmp_path)
        assert list(found.table["clip"]) == ["b"], what
        assert "disagree" in found.rejected["reason"][0]


def test_other_tables_are_sentences_too(tmp_path):
    """DFEW's splits and CREMA-D's people, spoilt in the same ways."""
    dfew, cremad = tmp_path / "dfew", tmp_path / "cremad"
    split = dfew / "EmoLabel_DataSplit" / "train(single-labeled)" / "set_1.csv"
    split.parent.mkdir(parents=True)
    (dfew / "EmoLabel_DataSplit" / "test(single-labeled)").mkdir()
    other = dfew / "EmoLabel_DataSplit" / "test(single-labeled)" / "set_1.csv"
    other.write_text("video_name,label\n2,1\n")
    (dfew / "Clip" / "original").mkdir(parents=True)
    for number in (1, 2):
        (dfew / "Clip" / "original" / f"{number:05d}.mp4").write_bytes(b"%d" % number)
    cremad.mkdir()
    (cremad / "1001_DFA_ANG_XX.mp4").write_bytes(b"x")
    tried = 0
    bodies = [b"", b"video_name,label", b"video_name;label\n1;1\n", b"video_name,label\n1,1\n1,2\n",
              b"video_name,label\n-1,1\n1e9,1\n99999999999999999999,1\n", b"\xff\xfe\x00",
              b"ActorID,Age,Sex,Race\n1001,51,Male\n", b"ActorID\n", b"\x00" * 99,
              b"video_name,label\n" + "²,1\n".encode()]  # fmt: skip
    for root, path, body in itertools.product((dfew, cremad), (split,), bodies):
        path = split if root == dfew else cremad / "VideoDemographics.csv"
        path.write_bytes(body)
        try:
            index.index(root)
        except PpferError as error:
            assert str(root) in str(error)
        tried += 1
    COUNTS["inputs tried"] += tried


@pytest.mark.faults
def test_pictures_that_burst_are_rejected(tmp_path):
    """Folders of pictures: a header that promises billions of pixels, a picture cut short."""
    from ppfer.video.clips import clip_or_reason

    whole_picture = tmp_path / "whole.png"
    Image.new("RGB", (64, 64), "red").save(whole_picture)
    for number, content in enumerate(
        (png(60_000, 60_000), png(0, 0), png(2**31 - 1, 1), whole_picture.read_bytes()[:60], b"")
    ):
        folder = tmp_path / f"{number:05d}"
        folder.mkdir()
        for name in ("1.png", "2.png"):
            shutil.copy(whole_picture, folder / name)
        (folder / "2.png").write_bytes(content)
        assert isinstance(clip_or_reason(str(folder), 4, 16), str)
        COUNTS["inputs tried"] += 1


def test_the_command_line_says_a_sentence(tmp_path, capsys):
    """`ppfer data` on what it cannot use."""
    (tmp_path / "metadata.csv").write_bytes("path,actor,emotion\n".encode("utf-16"))
    (tmp_path / "a.mp4").write_bytes(b"x")
    for arguments in ([tmp_path], [tmp_path / "a.mp4"], [tmp_path, "--quick"], ["\udcff"]):
        assert main(["data", *map(str, arguments)]) == 2
        assert capsys.readouterr().err.startswith("ppfer: ")
        COUNTS["inputs tried"] += 1
