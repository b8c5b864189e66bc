"""Video in, arrays out: read and write one video, decode a data set once into a memory-mapped ClipStore.

Nothing else in the package opens a video file. Decoding happens in child processes, because some damaged files make
the decoder hang or crash; torch and pandas are imported where they are used, so that those children start quickly.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ppfer.config import PpferError

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from ppfer.data import Index

LFS_MAGIC = b"version https://git-lfs"
WHOLE = 0.75  # a video whose packets cover less of the duration its header declares counts as truncated


# --- one video ------------------------------------------------------------------------------------------------------


def file_fault(path: Path) -> str | None:
    """Says what is wrong with a file before any decoder sees it: a reason that completes "<path> ...", or None."""
    if not path.is_file():
        return "does not exist"
    if path.stat().st_size == 0:
        return "is empty (0 bytes)"
    with path.open("rb") as file:
        if file.read(len(LFS_MAGIC)) == LFS_MAGIC:
            return "is a Git-LFS pointer; run: git lfs pull"
    return None


def read_video(path: str | Path) -> tuple[torch.Tensor, float]:
    """Reads every frame of a video, in order.

    Args:
        path: any file FFmpeg reads (mp4, flv, avi, webm, ...).

    Returns:
        frames (T, 3, H, W) uint8, and the frame rate in frames per second.

    Raises:
        PpferError: the file is missing, empty, a Git-LFS pointer, or holds no frame that can be decoded.
    """
    import av
    import torch

    path = Path(path)
    if fault := file_fault(path):
        raise PpferError(f"{path} {fault}")
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    except (av.FFmpegError, IndexError) as error:
        raise PpferError(f"{path} cannot be decoded: it is damaged or no video") from error
    if not frames:
        raise PpferError(f"{path} holds no video frame")
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous(), rate  # (T, 3, H, W)


def write_video(path: str | Path, frames: torch.Tensor | np.ndarray, fps: float = 25.0, *, crf: int = 18,
                full_colour: bool = False) -> Path:
    """Writes frames as an H.264 file (MPEG-4 part 2 where FFmpeg has no x264), whole or not at all.

    Args:
        path: target; its suffix picks the container (.mp4).
        frames: (T, 3, H, W), uint8 in [0, 255] or float in [0, 1] (clamped).
        fps: frames per second.
        crf: x264's quality, 0 (lossless) to 51; 18 looks the same to the eye.
        full_colour: keep colour at full resolution (4:4:4). The usual 4:2:0 halves it, which eats the fine coloured texture of
            protected frames and with it some of the expression. Not every browser plays 4:4:4; VLC and FFmpeg do.

    Returns:
        The path written.

    Raises:
        PpferError: frames of another shape, no frames, or the disk is full.
    """
    import av

    path, frames = Path(path), _as_uint8(frames)
    if frames.ndim != 4 or frames.shape[1] != 3 or not len(frames):
        raise PpferError(f"a video is frames of shape (T, 3, H, W) with T >= 1, not {tuple(frames.shape)}")
    height, width = frames.shape[2:]
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(partial), "w") as container:
            h264 = "libx264" in av.codecs_available
            stream = container.add_stream("libx264" if h264 else "mpeg4", rate=Fraction(fps).limit_denominator(1001))
            stream.width, stream.height = width, height
            stream.codec_context.thread_count = 1  # the same bytes on every machine
            # half-size colour needs even sides; MPEG-4 takes odd ones by padding
            stream.pix_fmt = "yuv444p" if h264 and (full_colour or height % 2 or width % 2) else "yuv420p"
            if h264:
                stream.options = {"crf": str(crf)}
            else:
                stream.bit_rate = max(200_000, int(0.3 * height * width * fps))
            for frame in np.ascontiguousarray(frames.transpose(0, 2, 3, 1)):  # (H, W, 3)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        os.replace(partial, path)
    except (OSError, ValueError, av.FFmpegError) as error:
        raise PpferError(f"{path} could not be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return path


def _as_uint8(frames: torch.Tensor | np.ndarray) -> np.ndarray:
    """uint8 as it is; float in [0, 1] (clamped) rounded to [0, 255]. Takes tensors of any device."""
    if not isinstance(frames, np.ndarray):
        frames = frames.detach().float().cpu().numpy() if frames.is_floating_point() else frames.cpu().numpy()
    if frames.dtype == np.uint8:
        return frames
    if frames.dtype.kind != "f":
        raise PpferError(f"frames are uint8 in [0, 255] or float in [0, 1], not {frames.dtype}")
    return np.round(np.clip(frames, 0, 1) * 255).astype(np.uint8)


def sample_positions(count: int, frames: int) -> list[int]:
    """Mid-points of `frames` equal segments of a clip of `count` frames; a shorter clip repeats frames."""
    return [(2 * i + 1) * count // (2 * frames) for i in range(frames)]


def decode_clip(
    path: str | Path, frames: int = 16, size: int = 96, crop: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """Decodes a clip to a fixed shape: frames at uniform segment mid-points, cropped square, resized by area.

    Args:
        path: a video file, or a folder of numbered pictures (DFEW), taken in numeric order.
        frames: frames to keep, T. A shorter clip repeats frames.
        size: side S of the result in pixels. Where the crop already has this size, pixels are passed through.
        crop: box (left, top, right, bottom) in pixels; the largest centred square by default.

    Returns:
        (T, 3, S, S) uint8, RGB.

    Raises:
        PpferError: the file is missing, empty, a Git-LFS pointer, truncated, not decodable, or has one frame only.
    """
    path = Path(path)
    load = _load_pictures if path.is_dir() else _load_video
    if not path.is_dir() and (fault := file_fault(path)):
        raise PpferError(f"{path} {fault}")
    return np.stack([_square(picture, size, crop) for picture in load(path, frames)])


def _load_video(path: Path, frames: int) -> np.ndarray:
    import av
    import decord

    try:  # a look at the packets first: decord hangs on some files that end early, or takes them for whole
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            declared = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
            packets = [p for p in container.demux(stream) if p.size and p.dts is not None]
            ends = [float((p.dts + (p.duration or 0)) * stream.time_base) for p in packets]
            present = max(ends) - float(packets[0].dts * stream.time_base) if packets else 0.0
    except (av.FFmpegError, IndexError) as error:
        raise PpferError(f"{path} cannot be decoded: it is damaged or no video") from error
    if present < WHOLE * declared:
        raise PpferError(f"{path} is truncated: it holds {present:.1f} of {declared:.1f} s")
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        if len(reader) > 1:
            return reader.get_batch(sample_positions(len(reader), frames)).asnumpy()  # (T, H, W, 3)
    except (RuntimeError, decord.DECORDError) as error:
        raise PpferError(f"{path} cannot be decoded: its frames are damaged") from error
    raise PpferError(f"{path} has one frame only")


def _load_pictures(folder: Path, frames: int) -> Iterator[np.ndarray]:
    from PIL import Image

    names = [f for f in folder.iterdir() if f.suffix.lower() in (".jpg", ".jpeg", ".png")]
    names.sort(key=lambda f: (int("".join(re.findall(r"\d", f.stem)) or -1), f.name))  # 10.jpg after 9.jpg
    if len(names) < 2:
        raise PpferError(f"{folder} {'has one frame only' if names else 'holds no picture'}")
    for position in sample_positions(len(names), frames):
        try:
            with Image.open(names[position]) as picture:
                yield np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise PpferError(f"{folder} cannot be decoded: {names[position].name} is damaged") from error


def _square(picture: np.ndarray, size: int, crop: tuple[float, float, float, float] | None) -> np.ndarray:
    """(H, W, 3) to (3, size, size)."""
    from PIL import Image

    height, width = picture.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    box = crop or (left, top, left + side, top + side)
    if box == (0, 0, size, size) == (0, 0, width, height):
        return picture.transpose(2, 0, 1)
    area = Image.Resampling.BOX if box[2] - box[0] >= size else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).resize((size, size), area, box=box)).transpose(2, 0, 1)


def square(frames: torch.Tensor, size: int) -> torch.Tensor:
    """Every frame of a video as `decode_clip` would have it: (T, 3, H, W) uint8 to (T, 3, size, size), centre crop, area resize."""
    import torch

    pictures = frames.permute(0, 2, 3, 1).numpy()  # (T, H, W, 3)
    return torch.from_numpy(np.stack([_square(picture, size, None) for picture in pictures]))


# --- many videos: child processes that may hang or crash --------------------------------------------------------------


def _serve() -> None:
    """A child process: reads a JSON request a line, answers with a JSON line (the fault, or "") and the raw frames."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    with os.fdopen(os.dup(1), "wb") as reply:
        os.dup2(2, 1)  # whatever a decoder prints must not end up in the reply
        reply.write(b"ready\n")
        reply.flush()
        for request in sys.stdin:
            path, frames, size = json.loads(request)
            fault, clip = "", b""
            try:
                clip = decode_clip(path, frames, size).tobytes()
            except PpferError as error:
                fault = str(error).removeprefix(f"{path} ")
            except Exception as error:  # a decoder's surprise rejects this file, not the run
                fault = f"cannot be decoded: {type(error).__name__}"
            reply.write(json.dumps(fault).encode() + b"\n" + clip)
            reply.flush()


class _Decoder:
    """A child process that decodes one file after another; a file that hangs or crashes it costs only itself."""

    command = (sys.executable, "-c", "from ppfer.store import _serve; _serve()")

    def __init__(self, frames: int, size: int, timeout: float) -> None:
        self.frames, self.size, self.timeout = frames, size, timeout
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped = False

    def __call__(self, path: str) -> np.ndarray | str:
        """The clip (T, 3, S, S), or the reason why there is none."""
        if self.process is None and not self._start():
            return "was not decoded: stopped"
        late = threading.Event()
        process, shape = self.process, (self.frames, 3, self.size, self.size)
        timer = threading.Timer(self.timeout, lambda: (late.set(), process.kill()))
        timer.start()
        try:
            process.stdin.write(json.dumps([path, self.frames, self.size]).encode() + b"\n")
            process.stdin.flush()
            fault = json.loads(process.stdout.readline())
            return fault or np.frombuffer(process.stdout.read(math.prod(shape)), np.uint8).reshape(shape)
        except (ValueError, BrokenPipeError):  # the child is gone: nothing, or half an answer, came back
            code, self.process = process.wait(), None
            _close_pipes(process)
            return f"hung the decoder: {self.timeout:g} s" if late.is_set() else f"crashed the decoder: exit {code}"
        finally:
            timer.cancel()

    def _start(self) -> bool:
        if not self.stopped:
            places = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))},
            )
            if self.process.stdout.readline() != b"ready\n" and not self.stopped:
                raise PpferError("the video decoder does not start; try: python -c 'import av, decord, PIL'")
        return not self.stopped

    def stop(self) -> None:
        self.stopped = True
        if (process := self.process) is not None:
            process.kill()
            process.wait()


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):  # half a request may still be in the buffer
        process.stdin.close()
    process.stdout.close()


def _decode_all(paths: list[str], frames: int, size: int, workers: int, timeout: float) -> Iterator[np.ndarray | str]:
    """Decodes `paths` in `workers` child processes; yields clips or reasons in the order of `paths`."""
    decoders = [_Decoder(frames, size, timeout) for _ in range(max(1, min(workers, len(paths))))]
    idle: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
    for decoder in decoders:
        idle.put(decoder)

    def decode(path: str) -> np.ndarray | str:
        decoder = idle.get()
        try:
            return decoder(path)
        finally:
            idle.put(decoder)

    pool, pending = ThreadPoolExecutor(len(decoders)), deque()
    try:
        for path in paths:
            pending.append(pool.submit(decode, path))
            if len(pending) > 8 * len(decoders):  # bounded: clips wait in memory
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for decoder in decoders:
            decoder.stop()  # frees a thread that waits for an answer
        pool.shutdown()
        for decoder in decoders:
            decoder.stop()
            if decoder.process:
                _close_pipes(decoder.process)


# --- the store ------------------------------------------------------------------------------------------------------


class ClipStore:
    """Clips of one shape, decoded once: `clips.npy` (memory-mapped), `table.csv`, `rejected.csv`, `manifest.json`.

    The manifest is written last and atomically: a folder without one holds no store, however much is in it.

    Attributes:
        clips: (N, T, 3, H, W) uint8 memory map, read-only.
        table: DataFrame of N rows in the clips' order, every column text (see `ppfer.data.Index`).
        rejected: DataFrame (path, reason) of all that was found and is not in the store.
        manifest: shape, hash, and `source`: where the clips come from.
        folder: where the store lives; None in memory.
    """

    def __init__(
        self,
        clips: np.ndarray | torch.Tensor,
        table: pd.DataFrame,
        rejected: pd.DataFrame,
        manifest: dict,
        place: Path | None,
    ) -> None:
        self.clips, self.table, self.rejected, self.manifest, self.folder = clips, table, rejected, manifest, place

    @classmethod
    def open(cls, folder: str | Path) -> ClipStore:
        """Opens a finished store.

        Raises:
            PpferError: there is none, or it is damaged.
        """
        import pandas as pd

        folder = Path(folder)
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            clips = np.load(folder / "clips.npy", mmap_mode="r")
            tables = [
                pd.read_csv(folder / name, dtype=str, keep_default_na=False) for name in ("table.csv", "rejected.csv")
            ]
        except FileNotFoundError as error:
            name = Path(error.filename).name
            raise PpferError(f"{folder} holds no finished clip store ({name} is missing)") from error
        except ValueError as error:
            raise PpferError(f"{folder} holds a damaged clip store; delete it and decode again") from error
        if list(clips.shape) != manifest["shape"] or len(tables[0]) != len(clips):
            raise PpferError(f"{folder} holds a damaged clip store; delete it and decode again")
        return cls(clips, *tables, manifest, folder)

    @classmethod
    def in_memory(cls, clips: torch.Tensor | np.ndarray, table: pd.DataFrame, source: dict | None = None) -> ClipStore:
        """A store without a folder: clips (N, T, 3, H, W) uint8, on any device, kept where they are."""
        import pandas as pd

        if len(clips) != len(table):
            raise PpferError(f"{len(clips)} clips came for a table of {len(table)} rows")
        manifest = {"shape": list(clips.shape), "source": source or {}}
        return cls(clips, table.reset_index(drop=True), pd.DataFrame(columns=["path", "reason"]), manifest, None)

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of the clips and of the table without its paths: equal clips and labels, equal hash."""
        if "hash" in self.manifest:
            return self.manifest["hash"]
        return _digest(self.table, (_as_uint8(clip).tobytes() for clip in self.clips))

    @classmethod
    def build(
        cls,
        index: Index,
        folder: str | Path,
        *,
        frames: int = 16,
        size: int = 96,
        workers: int = 2,
        progress: Callable[[int], object] | None = None,
        timeout: float = 60.0,
        max_rejected: float = 0.5,
    ) -> ClipStore:
        """Decodes every clip of an index, or opens the store if it was built from the same files with the same shape.

        Interrupted at any point, the next call goes on after the last clip written. Clips that cannot be decoded are
        left out and listed with their reason in `.rejected`; show `.summary()` before training.

        Args:
            index: what `ppfer.data.index` found.
            folder: where the store lives.
            frames: T, frames per clip.
            size: H = W, pixels.
            workers: child processes that decode.
            progress: called with the number of clips done, of `len(index.table)`, after each clip.
            timeout: seconds after which a file counts as hanging and is rejected.
            max_rejected: share of the videos found that may be rejected.

        Raises:
            PpferError: more than `max_rejected` of the videos found were rejected, none is left, or the disk is full.
        """
        import pandas as pd

        folder, table = Path(folder), index.table
        request = {"files": index.fingerprint(), "frames": frames, "size": size}
        with _writing(folder):
            if (store := _finished(folder)) and store.manifest["source"].get("request") == request:
                return store
            log = folder / "decoded.jsonl"  # first line the request, then a line per clip: its fault, or ""
            faults = _faults_so_far(log, request)
            kept = faults.count("")
            with _ClipFile(folder, (frames, 3, size, size), len(table), kept) as clips:
                if clips.rows < kept or not faults:  # nothing to resume from
                    faults, clips.rows = [], 0
                    log.write_text(json.dumps(request) + "\n")
                todo = list(table["path"])[len(faults) :]
                decoded = contextlib.closing(_decode_all(todo, frames, size, workers, timeout))
                with decoded as results, log.open("a") as lines:
                    for clip in results:
                        if not isinstance(clip, str):
                            clips.append(clip)
                        faults.append(clip if isinstance(clip, str) else "")
                        lines.write(json.dumps(faults[-1]) + "\n")
                        lines.flush()
                        if progress:
                            progress(len(faults))
                good = np.array([not fault for fault in faults], bool)
                failed = pd.DataFrame({"path": table["path"], "reason": faults})[~good]
                failed["path"] = [os.path.relpath(path, index.root) for path in failed["path"]]
                rejected = pd.concat([index.rejected, failed], ignore_index=True)
                found = len(table) + len(index.rejected)
                rejected.to_csv(folder / "rejected.csv", index=False)
                if not good.any() or len(rejected) > max_rejected * found:
                    from ppfer.data import count_reasons

                    raise PpferError(
                        f"{len(rejected)} of the {found} videos found in {index.root} were rejected, more than the "
                        f"{max_rejected:.0%} allowed; {folder / 'rejected.csv'} lists them:\n{count_reasons(rejected)}"
                    )
                source = {"kind": index.kind, "request": request, "found": found, "rejected": len(rejected)}
                clips.finish(table[good], source)
            log.unlink()
        return cls.open(folder)

    @classmethod
    def from_array(
        cls,
        folder: str | Path,
        clips: Iterable[torch.Tensor | np.ndarray],
        table: pd.DataFrame,
        source: dict | None = None,
    ) -> ClipStore:
        """Writes clips made elsewhere (protected, compensated) as a store.

        Args:
            folder: where the store lives; a store already there is replaced.
            clips: yields clips (T, 3, H, W) or batches (B, T, 3, H, W), in the table's order, all of one shape: uint8,
                or float in [0, 1] (clamped and rounded). On any device. It may be lazy.
            table: one row per clip.
            source: what to note in the manifest: where the clips come from. JSON types only.

        Raises:
            PpferError: as many clips as rows did not come, shapes differ, or the disk is full. Nothing is left then
                that could be taken for a store.
        """
        import pandas as pd

        folder = Path(folder)
        with _writing(folder):
            with contextlib.ExitStack() as stack:
                file = None
                for item in clips:
                    item = _as_uint8(item)
                    for clip in item if item.ndim == 5 else item[None]:
                        file = file or stack.enter_context(_ClipFile(folder, clip.shape, len(table)))
                        file.append(clip)
                if file is None or file.rows != len(table):
                    raise PpferError(f"{file.rows if file else 0} clips came for a table of {len(table)} rows")
                pd.DataFrame(columns=["path", "reason"]).to_csv(folder / "rejected.csv", index=False)
                file.finish(table, source or {})
        return cls.open(folder)

    def __len__(self) -> int:
        return len(self.clips)

    def classes(self, column: str) -> list[str]:
        """The sorted values of a column: class k of `labels(column)` is `classes(column)[k]`."""
        return sorted(self.table[column].unique())

    def labels(self, column: str) -> np.ndarray:
        """(N,) int64: the class of each clip in `classes(column)`."""
        return np.searchsorted(np.array(self.classes(column)), self.table[column].to_numpy(str)).astype(np.int64)

    def to(self, device: str | torch.device) -> torch.Tensor:
        """All clips, (N, T, 3, H, W) uint8. On the CPU the memory map itself: pages are read as they are used."""
        import torch

        if self.folder is None:
            return torch.as_tensor(self.clips).to(device)
        return torch.from_numpy(np.load(self.folder / "clips.npy", mmap_mode="c")).to(
            device
        )  # "c": writes stay private

    def offload(self) -> None:
        """Moves clips that are kept on a GPU to main memory; a store on disk stays as it is."""
        if self.folder is None and not isinstance(self.clips, np.ndarray):
            self.clips = self.clips.cpu()

    def summary(self) -> str:
        """What is in the store and what is not, in a few lines, to be shown before training."""
        from ppfer.data import describe

        _, frames, _, height, width = self.clips.shape
        head = f"{self.folder or 'in memory'} ({frames} frames, {height}x{width})"
        return describe(head, self.table, self.rejected)


class _ClipFile:
    """clips.npy while it grows: rows of one shape, appended in order, the header last."""

    def __init__(self, folder: Path, shape: tuple[int, ...], expected: int, kept: int | None = None) -> None:
        """Keeps the first `kept` rows already there; None: what is left unfinished can't be resumed and is removed."""
        self.folder, self.shape, self.row, self.resumable = folder, tuple(shape), int(np.prod(shape)), kept is not None
        if len(shape) != 4 or shape[1] != 3:
            raise PpferError(f"a clip has the shape (T, 3, H, W), not {self.shape}")
        path = folder / "clips.npy"
        (folder / "manifest.json").unlink(missing_ok=True)
        if not kept:
            path.unlink(missing_ok=True)  # not truncated: a map of the old file may still be open
        path.touch()
        self.file: BinaryIO = path.open("r+b")
        self.start = self._header(expected)
        present = max(0, path.stat().st_size - self.start)
        self.rows = min(kept or 0, present // self.row)
        needed, free = expected * self.row - present, shutil.disk_usage(folder).free
        if needed > free:
            self.file.close()
            raise PpferError(
                f"the disk of {folder} is too full: {needed / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free; "
                "free some, choose fewer or smaller frames, or another folder"
            )

    def _header(self, rows: int) -> int:
        """Writes the header; its length does not depend on `rows` (NumPy pads it so that the first axis can grow)."""
        self.file.seek(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": (rows, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, header)
        return self.file.tell()

    def append(self, clip: np.ndarray) -> None:
        if clip.shape != self.shape:
            raise PpferError(f"a clip of shape {clip.shape} came among clips of shape {self.shape}")
        self.file.seek(self.start + self.rows * self.row)
        self.file.write(np.ascontiguousarray(clip))
        self.file.flush()
        self.rows += 1

    def finish(self, table: pd.DataFrame, source: dict) -> None:
        """Writes header, table and, last, the manifest."""
        self._header(self.rows)
        self.file.truncate(self.start + self.rows * self.row)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.seek(self.start)
        digest = _digest(table, iter(lambda: self.file.read(1 << 24), b""))
        table.to_csv(self.folder / "table.csv", index=False)
        manifest = {"shape": [self.rows, *self.shape], "hash": digest, "source": source}
        partial = self.folder / "manifest.json.partial"
        partial.write_text(json.dumps(manifest, indent=1) + "\n")
        os.replace(partial, self.folder / "manifest.json")

    def __enter__(self) -> _ClipFile:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self.file.close()
        if failure and not self.resumable:
            (self.folder / "clips.npy").unlink()


def _finished(folder: Path) -> ClipStore | None:
    try:
        return ClipStore.open(folder)
    except PpferError:
        return None


def _digest(table: pd.DataFrame, blocks: Iterable[bytes]) -> str:
    digest = hashlib.sha256(table.drop(columns="path", errors="ignore").to_csv(index=False).encode())
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def _faults_so_far(log: Path, request: dict) -> list[str]:
    """The faults ("" for none) of the clips already decoded for this request; a half-written last line is dropped."""
    whole = [line for line in log.read_text().splitlines(True) if line.endswith("\n")] if log.exists() else []
    if not whole or json.loads(whole[0]) != request:
        return []
    log.write_text("".join(whole))
    return [json.loads(line) for line in whole[1:]]


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """One writer of a store at a time, and disk trouble as a sentence."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PpferError(f"the disk of {folder} is full; free some and run again") from error
        raise PpferError(f"{folder} cannot be written: {error}") from error
