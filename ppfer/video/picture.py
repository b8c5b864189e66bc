"""From a decoded picture to what a player shows: whole, upright, square, ordinary colours."""

import contextlib
import functools
import itertools
import math
import tempfile
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image, ImageOps

from ppfer.base.errors import PpferError

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # of PIL
PQ, HLG = 16, 18  # H.273's numbers of the transfer functions of HDR
HDR_TRANSFERS = (PQ, HLG)
WHITE, PEAK = 203.0, 1000.0  # cd/m2: paper white (BT.2408), the brightest of most HDR video


@contextlib.contextmanager
def opened_photo(path: Path) -> Iterator[Image.Image]:
    """PIL's picture; one of many pixels without PIL's warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as photo:
            yield photo


def photo_pixels(path: Path) -> np.ndarray:
    """A photo as it is shown, (H, W, 3) uint8; a `PpferError` where it cannot be decoded."""
    try:
        with opened_photo(path) as photo:
            if (count := getattr(photo, "n_frames", 1)) > 1 and photo.format != "MPO":
                raise PpferError(
                    f"{path} holds {count} pictures and is no photo; save it as a video"
                )
            upright = ImageOps.exif_transpose(photo)
            if upright.has_transparency_data:  # what somebody made invisible stays so
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            if upright.mode.startswith("I"):  # 16 bits: `convert` would cut them off at 255
                high = np.asarray(upright) >> 8
                upright = Image.fromarray(high.clip(0, 255).astype(np.uint8))
            return np.array(upright.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise PpferError(f"{path} has too many pixels; save it smaller") from error
    except UNREADABLE as error:
        raise PpferError(f"{path} cannot be decoded: it is damaged or no picture") from error


class View:
    """How the pictures of one video are shown; a call gives one as (H, W, 3) uint8, RGB.

    The first picture settles the size; later ones of another size are scaled to it.
    """

    def __init__(self, picture: av.VideoFrame, stream: av.VideoStream) -> None:
        self.name = stream.container.name
        aspect = stream.sample_aspect_ratio
        aspect = aspect if aspect and Fraction(1, 8) <= aspect <= 8 else Fraction(1)
        self.scaled = max(1, round(picture.width * aspect)), picture.height  # square pixels
        self.matrices: dict[tuple[int, int, int], tuple] = {}
        self.matrix = self._turn(picture)
        (a, b), (c, d) = self.matrix
        self.width, self.height = self.scaled[::-1] if b else self.scaled
        self.rotation = {(1, 0): 0, (0, 1): 90, (-1, 0): 180, (0, -1): 270}[a, b]
        self.mirrored = a * d - b * c < 0
        self.reformatter, self.tone_mapper = VideoReformatter(), functools.cache(_tone_mapper)

    def __call__(self, picture: av.VideoFrame) -> np.ndarray:
        matrix = self._turn(picture)
        (width, height), hdr = self.scaled, picture.color_trc in HDR_TRANSFERS
        if bool(matrix[0][1]) != bool(self.matrix[0][1]):  # turned otherwise than the first picture
            width, height = height, width
        same = (picture.width, picture.height) == (width, height)
        clear = any(part.is_alpha for part in picture.format.components)
        picture = self.reformatter.reformat(
            picture,
            width,
            height,
            "gbrp16le" if hdr else "rgba" if clear else "rgb24",
            interpolation=Interpolation.BILINEAR if same else Interpolation.BICUBIC,
            threads=1,
        )
        if hdr:
            mapper = self.tone_mapper(picture.width, picture.height, picture.color_trc)
            picture.pts = None
            mapper.push(picture)
            picture = mapper.pull()
        pixels = picture.to_ndarray()
        if clear and not hdr:  # what somebody made invisible stays so
            solid = pixels[..., 3:] / np.float32(255)
            pixels = np.uint8(np.rint(255 + solid * (pixels[..., :3] - np.float32(255))))
        (a, b), (c, d) = matrix
        if a == d == 1:
            return pixels
        if b:  # x and y change places
            pixels = pixels.transpose(1, 0, 2)
        return np.ascontiguousarray(pixels[:: b + d, :: a + c])  # each sum is 1 or -1

    def _turn(self, picture: av.VideoFrame) -> tuple[tuple[int, int], tuple[int, int]]:
        """The picture's matrix, looked up once: side data would keep pictures in memory."""
        key = picture.width, picture.height, picture.rotation
        if key not in self.matrices:
            self.matrices[key] = _matrix(picture)
        return self.matrices[key]


def _matrix(picture: av.VideoFrame) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where the picture's x and y axes point when shown, to the nearest quarter turn.

    ((1, 0), (0, 1)) leaves it as it is.
    """
    try:
        side = picture.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know a camera's EXIF; the angle tells all but mirrors
        turn = math.radians(picture.rotation)
        a, b, c, d = math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn)
    else:
        if not side:
            return (1, 0), (0, 1)
        a, b, _, c, d = np.frombuffer(bytes(side), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (-1 if a < 0 else 1, 0), (0, -1 if d < 0 else 1)
    return (0, -1 if b < 0 else 1), (-1 if c < 0 else 1, 0)


def deinterlaced(pictures: Iterable[tuple], unit: Fraction) -> Iterator[tuple]:
    """One whole picture of two half ones (FFmpeg's bwdif), from the first interlaced one on.

    Takes and gives (picture, anything, ...), in order, as many as come.
    """
    graph, shape, waiting = None, None, deque()
    for picture, *rest in itertools.chain(pictures, [(None,)]):
        now = picture and (picture.width, picture.height, picture.format.name)
        if graph is not None and now != shape:  # another size, or the end
            graph.push(None)
            yield from _pulled(graph, waiting)
            graph = None
        if picture is None:
            return
        if graph is None and not picture.interlaced_frame:
            yield picture, *rest
            continue
        if graph is None:
            shape = now
            graph = _graph(picture, unit, ("bwdif", "mode=send_frame:deint=interlaced"))
        waiting.append((picture.pts, rest))
        graph.push(picture)
        yield from _pulled(graph, waiting)


def _pulled(graph: Graph, waiting: deque[tuple]) -> Iterator[tuple]:
    with contextlib.suppress(BlockingIOError, EOFError):
        while waiting:
            picture = graph.pull()
            picture.pts, rest = waiting.popleft()
            yield picture, *rest


def _graph(picture: av.VideoFrame, unit: Fraction, *filters: tuple[str, str]) -> Graph:
    graph, (width, height) = Graph(), (picture.width, picture.height)
    first = graph.add_buffer(width=width, height=height, format=picture.format, time_base=unit)
    rest = [graph.add(name, options) for name, options in (*filters, ("buffersink", None))]
    graph.link_nodes(first, *rest).configure()
    return graph


def _tone_mapper(width: int, height: int, transfer: int) -> Graph:
    """From gbrp16le, PQ or HLG, BT.2020, to what ordinary screens show, rgb24, BT.709: FFmpeg's
    lut3d with a table of 33 x 33 x 33 colours.
    """
    blue, green, red = np.meshgrid(*[np.linspace(0, 1, 33)] * 3, indexing="ij")
    signal = np.stack([red, green, blue], -1)  # (33, 33, 33, 3), red varies fastest
    with tempfile.NamedTemporaryFile("w", suffix=".cube") as file:
        file.write("LUT_3D_SIZE 33\n")
        np.savetxt(file, _tone_map(signal.reshape(-1, 3), transfer), "%.6f")  # (35937, 3)
        file.flush()
        return _graph(
            av.VideoFrame(width, height, "gbrp16le"),
            Fraction(1, 25),
            ("lut3d", f"file={file.name}:interp=tetrahedral"),
            ("format", "pix_fmts=rgb24"),
        )


def _tone_map(signal: np.ndarray, transfer: int) -> np.ndarray:
    """(N, 3) HDR signal in [0, 1], BT.2020, to (N, 3) SDR signal in [0, 1], BT.709.

    Up to half of paper white stays as it is; what is brighter is rolled off so that `PEAK` becomes
    white ("mobius", as FFmpeg's tonemap has it), by the brightest of the three colours, so that
    hues stay.
    """
    if transfer == PQ:  # SMPTE ST 2084, to cd/m2
        root = signal ** (1 / 78.84375)
        ratio = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
        light = 10_000 * ratio ** (1 / 0.1593017578125)
    else:  # HLG, ARIB STD-B67 with BT.2100's system gamma 1.2
        high = (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
        scene = np.where(signal <= 0.5, signal**2 / 3, high)
        luma = scene @ (0.2627, 0.6780, 0.0593)
        light = PEAK * scene * luma[:, None] ** 0.2
    rows = (1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)
    matrix = np.array(rows)  # BT.2087: BT.2020's primaries to BT.709's
    light = np.maximum(light @ matrix.T / WHITE, 0)
    knee, peak = 0.5, PEAK / WHITE
    a = -(knee**2) * (peak - 1) / (knee**2 - 2 * knee + peak)
    b = (knee**2 - 2 * knee * peak + peak) / (peak - 1)
    brightest = np.maximum(light.max(1, keepdims=True), 1e-9)
    rolled = (b**2 + 2 * b * knee + knee**2) / (b - a) * (brightest + a) / (brightest + b)
    light = light * np.where(brightest <= knee, 1, rolled / brightest)
    return np.clip(light, 0, 1) ** (1 / 2.2)
