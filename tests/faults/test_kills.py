"""Nothing lost: killed anywhere, on a full or read-only disk, out of memory, two at once; the
same command goes on, repeats nothing that was finished, and ends with the tables of a quiet run.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from counting import COUNTS
from harness import (
    MOMENTS,
    PROTECTING,
    alone_with_a_disk,
    counted,
    dying,
    forked,
    grid,
    mount,
    orphans,
    protecting,
    smoke,
    with_memory,
)
from making_videos import encode

pytestmark = pytest.mark.faults
NATIVE = (-11, -6, -7)  # a library that did not ask whether it got its memory


def undisturbed(command: Callable[[Path], Callable[[], int]], folder: Path) -> Path:
    """What a command makes when it is left alone, and how often each moment came in it."""
    what = counted(command(folder), MOMENTS, folder / "counts.json")
    assert forked(what, folder / "said") == 0
    return folder


@pytest.fixture(scope="module")
def quiet(tmp_path_factory) -> Path:
    """A run that nobody disturbed."""
    return undisturbed(smoke, tmp_path_factory.mktemp("quiet"))


@pytest.fixture(scope="module")
def quiet_grid(tmp_path_factory) -> Path:
    """A batch that nobody disturbed."""
    return undisturbed(grid, tmp_path_factory.mktemp("quiet"))


def results(runs: Path) -> dict[str, bytes]:
    """Tables and weights, byte for byte."""
    tables = [*runs.glob("smoke*/tables/[!.]*"), *runs.glob("batches/*/results.[jm]*")]
    return {str(path.relative_to(runs)): path.read_bytes()
            for path in [*tables, *runs.rglob("*.safetensors")]}  # fmt: skip


def same_results(runs: Path, quiet: Path) -> None:
    ours, theirs = results(runs), results(quiet)
    assert ours.keys() == theirs.keys() and len(theirs) > 20
    assert not [name for name in ours if ours[name] != theirs[name]]


def finished(runs: Path) -> dict[str, int]:
    """When each finished stage was finished."""
    return {str(path): path.stat().st_mtime_ns for path in runs.rglob("smoke*/**/manifest.json")}


def no_traceback(said: Path) -> str:
    text = said.read_text()
    assert "Traceback" not in text, text[-3000:]
    return text


def survive(command, anytime, longest: float, least: int, quiet: Path, folder: Path) -> None:
    """Kill a command until it was killed `least` times, each time until it is through.

    Args:
        command: runs folder → what is killed at a moment; anytime: what is killed after a while,
            of `longest` seconds at most.
    """
    rng, calls = np.random.default_rng(least), json.loads((quiet / "counts.json").read_text())
    kills, folders, when = 0, 0, dict.fromkeys([*MOMENTS, "any"], 0)
    while kills < least:
        runs, done, code = folder / f"runs{folders}", {}, -9
        folders += 1
        for attempt in range(16):
            free = attempt == 15 or kills >= least
            kind = str(rng.choice([k for k in when if when[k] == min(when.values())]))
            what, seconds = command(runs), 0.0
            if kind == "any" and not free:
                what, seconds = anytime(runs), float(rng.uniform(0.2, longest))
            elif not free:
                most = max(1, calls[kind] // int(rng.integers(4, 12)))
                number = int(rng.integers(1, most + 1))
                what = dying(what, MOMENTS, kind, number, bool(rng.integers(2)))
            code = forked(what, folder / "said", seconds)
            again = finished(runs)
            assert done.items() <= again.items(), "finished work was done again"
            done = again
            if code == 0:
                break
            assert code == -9, no_traceback(folder / "said")
            assert not orphans(runs), "processes outlived the one that was killed"
            kills, when[kind] = kills + 1, when[kind] + 1
        assert code == 0
        same_results(runs, quiet)
        shutil.rmtree(runs)
    print(f"{kills} kills in {folders} folders: {when}")
    assert least < 6 or all(when.values())
    COUNTS["kills survived"] += kills


@pytest.mark.parametrize("least", [12, pytest.param(42, marks=pytest.mark.full)])
def test_killed_anywhere_a_run_goes_on_and_ends_the_same(least, quiet, tmp_path):
    survive(smoke, smoke, 4, least, quiet, tmp_path)


@pytest.mark.parametrize("least", [4, pytest.param(16, marks=pytest.mark.full)])
def test_killed_anywhere_a_batch_goes_on_and_ends_the_same(least, quiet_grid, tmp_path):
    """In one process, and with two workers, which end with the command."""
    survive(grid, lambda runs: grid(runs, 2), 20, least, quiet_grid, tmp_path)


def test_killed_anywhere_protecting_a_folder_goes_on(tmp_path):
    source, whole, out = tmp_path / "in", tmp_path / "whole", tmp_path / "out"
    source.mkdir()
    for name in ("a.mp4", "b.avi", "c.mkv"):
        encode(source / name, "mpeg4" if name.endswith("avi") else "libx264", 24)

    assert forked(protecting(source, whole), tmp_path / "said") == 0
    rng, kills = np.random.default_rng(1), 0
    while kills < 20:
        code = -9
        while code:
            moment = list(PROTECTING)[int(rng.integers(2))]
            number = int(rng.integers(1, 60 if moment == "encode" else 4))
            what = protecting(source, out)
            if rng.random() < 0.8:
                what = dying(what, PROTECTING, moment, number, bool(rng.integers(2)))
            kept = {p: p.stat().st_mtime_ns for p in out.glob("[!.]*.mp4")} if out.exists() else {}
            code = forked(what, tmp_path / "said")
            assert all(p.stat().st_mtime_ns == when for p, when in kept.items())
            for path in out.glob("[!.]*.mp4"):  # whatever has its name is whole
                assert filecmp.cmp(path, whole / path.name, shallow=False), path.name
            assert code in (0, -9), no_traceback(tmp_path / "said")
            kills += code == -9
        assert {p.name for p in out.glob("[!.]*.mp4")} == {p.name for p in whole.glob("*.mp4")}
        shutil.rmtree(out)
    COUNTS["kills survived"] += kills


def with_a_disk(folder: Path, what: Callable[[], int]) -> str:
    """What a function says that sees a small disk of its own in folder/disk, and ends well."""
    (folder / "disk").mkdir()
    code = forked(alone_with_a_disk(folder / "disk", what), folder / "said")
    if code == 77:
        pytest.skip("no file system may be mounted here")
    text = no_traceback(folder / "said")
    assert code == 0, text[-2000:]
    return text


def at_once(command: Callable[[], int], folder: Path, later: float = 0.0) -> list[str]:
    """What two say that do the same, the second later by so many seconds."""
    said = [folder / "one", folder / "two"]
    first = os.fork()
    if not first:
        os._exit(forked(command, said[0]) & 0xFF)
    time.sleep(later)
    second = forked(command, said[1])
    assert os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == second == 0
    return [no_traceback(path) for path in said]


@pytest.mark.parametrize("megabytes", [1, 4, 20, 50])
def test_a_full_disk_is_a_sentence_and_the_run_goes_on(megabytes, quiet, tmp_path):
    disk, kept = tmp_path / "disk", tmp_path / "kept"

    def on_a_small_disk() -> int:
        mount("-o", f"remount,size={megabytes}m", str(disk))
        first = smoke(disk)()
        done = finished(disk)
        print(f"first {first}", flush=True)
        mount("-o", "remount,size=400m", str(disk))
        code = smoke(disk)()
        assert done.items() <= finished(disk).items(), "finished work was done again"
        shutil.copytree(disk, kept)
        return code

    text = with_a_disk(tmp_path, on_a_small_disk)
    assert "first 2" in text and "ppfer: " in text, text[-2000:]
    same_results(kept, quiet)
    COUNTS["full or read-only disks survived"] += 1


def test_a_read_only_disk_is_a_sentence(quiet, tmp_path):
    """Before anything, half-way, and when all is made."""
    disk = tmp_path / "disk"

    def read_only() -> int:
        codes = []
        for stages in (None, "clips wild split identity", "everything"):
            mount("-o", "remount,rw,size=400m", str(disk))
            for stage in (stages or "").split():
                if stage == "everything":
                    shutil.copytree(quiet / "smoke", disk / "smoke", dirs_exist_ok=True)
                else:
                    shutil.copytree(quiet / "smoke" / stage, disk / "smoke" / stage)
            mount("-o", "remount,ro", str(disk))
            codes.append(smoke(disk)())
        print(codes, flush=True)
        return 0 if codes == [2, 2, 2] else 1

    assert "can only be read" in with_a_disk(tmp_path, read_only)
    COUNTS["full or read-only disks survived"] += 3


@pytest.mark.parametrize("megabytes", [0, 30, 150, 400])
def test_too_little_memory_is_a_sentence_and_the_run_goes_on(megabytes, quiet, tmp_path):
    said, runs = tmp_path / "said", tmp_path / "runs"
    code = forked(with_memory(smoke(runs), megabytes * 2**20), said)
    text = no_traceback(said)
    sentence = code == 2 and "ppfer: " in text
    assert code in (0, *NATIVE) or sentence, f"{code}: {text[-2000:]}"
    done = finished(runs)
    assert forked(smoke(runs), said) == 0
    assert done.items() <= finished(runs).items(), "finished work was done again"
    same_results(runs, quiet)
    COUNTS["memory limits survived"] += 1


@pytest.fixture
def videos(tmp_path) -> Path:
    """A folder of four short videos."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcd":
        encode(folder / f"{name}.mp4", count=24)
    return folder


@pytest.mark.parametrize("kilobytes", [4, 8, 12])
def test_protecting_onto_a_full_or_read_only_disk_is_a_sentence(kilobytes, videos, tmp_path):
    """What had room is whole and is kept; the same command goes on when there is more."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"

    def onto_a_small_disk() -> int:
        mount("-o", f"remount,size={kilobytes}k", str(disk))
        codes, protect = [protecting(videos, disk)()], protecting(videos, disk)
        done = {path: path.stat().st_mtime_ns for path in disk.iterdir()}
        print(f"{len(done)} had room", flush=True)
        mount("-o", "remount,ro,size=1m", str(disk))
        codes.append(protect())
        mount("-o", "remount,rw", str(disk))
        codes.append(protect())
        assert done.items() <= {p: p.stat().st_mtime_ns for p in disk.iterdir()}.items()
        shutil.copytree(disk, kept)
        return 0 if codes == [1, 1, 0] else 1

    text = with_a_disk(tmp_path, onto_a_small_disk)
    assert f"{kilobytes // 4} had room" in text, text[-2000:]
    assert "disk is full" in text or "No space left" in text, text[-2000:]
    assert "Read-only" in text or "can only be read" in text, text[-2000:]
    whole = tmp_path / "whole"
    assert protecting(videos, whole)() == 0
    assert {p.name for p in kept.iterdir()} == {p.name for p in whole.iterdir()}
    assert all(filecmp.cmp(p, kept / p.name, shallow=False) for p in whole.iterdir())
    COUNTS["full or read-only disks survived"] += 2


@pytest.mark.parametrize("megabytes", [2, 20, 80])
def test_protecting_with_too_little_memory_is_a_sentence(megabytes, videos, tmp_path):
    said, out, whole = tmp_path / "said", tmp_path / "out", tmp_path / "whole"
    code = forked(with_memory(protecting(videos, out), megabytes * 2**20), said)
    text = no_traceback(said)
    assert code in (0, *NATIVE) or " memory" in text, f"{code}: {text[-2000:]}"
    assert forked(protecting(videos, out), said) == 0
    assert protecting(videos, whole)() == 0
    assert {p.name for p in out.glob("[!.]*")} == {p.name for p in whole.iterdir()}
    assert all(filecmp.cmp(p, out / p.name, shallow=False) for p in whole.iterdir())
    COUNTS["memory limits survived"] += 1


def test_two_runs_at_once_make_every_stage_once(quiet, tmp_path):
    """The second waits for the first, says so, and finds made what it waited for."""
    runs, later = tmp_path / "runs", float(np.random.default_rng(2).uniform(0.1, 1))
    texts = at_once(smoke(runs), tmp_path, later)
    assert any("is being made by another program" in text for text in texts)
    trained = [line for text in texts for line in text.splitlines() if " 24/24 " in line]
    assert len([line for line in trained if "(identity)" in line]) == 1, trained
    same_results(runs, quiet)
    COUNTS["pairs of runs at once"] += 1


@pytest.mark.full
def test_two_batches_at_once_share_their_cells(quiet_grid, tmp_path):
    runs = tmp_path / "runs"
    assert all("2 of 2 cells" in text for text in at_once(grid(runs), tmp_path, 2))
    same_results(runs, quiet_grid)
    COUNTS["pairs of runs at once"] += 1


def test_two_at_once_protect_one_folder(videos, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert protecting(videos, whole)() == 0
    at_once(protecting(videos, out), tmp_path)
    for path in whole.glob("*.mp4"):
        assert filecmp.cmp(path, out / path.name, shallow=False), "a result is torn"
    assert not list(out.glob(".*"))
    COUNTS["pairs of runs at once"] += 1
