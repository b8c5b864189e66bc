"""What an actor looks like: a `Look`, and from it the texture of a head and the shape of its hair.

A texture is one picture (rows, 512, 3): the skin unrolled around the head's axis, the hair
unrolled the same way below it, and below that a strip with an eyeball seen from the front and one
square of plain colour for every other part of the head.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ppfer.twin.raster import smoothstep

CHART = (512, 256)  # texels: width and height of the unrolled skin, and of the unrolled hair
EYE = 64  # texels across the picture of an eyeball
SPAN = (-1.9, 1.1)  # heights the charts cover, in the model's units
AXIS = -0.55  # depth of the head's vertical axis, around which the charts are unrolled
BROW = ((0.1, 0.38, 0.62, 0.85), (0.145, 0.19, 0.205, 0.115))  # angles and heights of its middle
# fmt: off
HAIR = {  # (angle from the face's midline in rad, lowest hair), thickness (at the top, side, back)
    "bald": None,
    "buzz": (((0, 0.68), (0.55, 0.66), (0.85, 0.36), (1.15, 0.1), (1.5, 0.22), (2.1, -0.2),
              (3.2, -0.5)), (0.025, 0.02, 0.02)),
    "short": (((0, 0.66), (0.55, 0.62), (0.85, 0.34), (1.1, -0.1), (1.4, 0.25), (2.1, -0.3),
               (3.2, -0.6)), (0.12, 0.05, 0.06)),
    "volume": (((0, 0.64), (0.55, 0.6), (0.85, 0.3), (1.1, 0.0), (1.5, 0.22), (2.1, -0.4),
                (3.2, -0.6)), (0.26, 0.15, 0.2)),
    "fringe": (((0, 0.3), (0.5, 0.3), (0.8, 0.15), (1.1, -0.2), (1.5, -0.6), (2.1, -1.0),
                (3.2, -1.0)), (0.12, 0.1, 0.12)),
    "bob": (((0, 0.66), (0.5, 0.58), (0.8, 0.25), (1.05, -0.5), (1.5, -0.85), (2.1, -0.95),
             (3.2, -0.95)), (0.12, 0.12, 0.14)),
    "long": (((0, 0.68), (0.5, 0.6), (0.8, 0.3), (1.1, -0.6), (1.4, -1.6), (2.1, -1.8),
              (3.2, -1.8)), (0.1, 0.09, 0.12)),
    "tied": (((0, 0.66), (0.55, 0.6), (0.85, 0.3), (1.15, -0.05), (1.5, 0.2), (2.1, -0.4),
              (3.2, -0.5)), (0.06, 0.04, 0.1)),
}
# fmt: on


@dataclass(frozen=True)
class Look:
    """What an actor looks like: colours are sRGB in [0, 1], lengths in the head model's units."""

    shape: np.ndarray  # the head model's coefficients (60,)
    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    lip: np.ndarray
    shirt: np.ndarray
    style: str  # a key of `HAIR`
    hairline: float = 0.0  # how far it is raised
    volume: float = 1.0  # times the style's thickness
    # thickness (1 is usual), height, arch, darkness in [0, 1]
    brow: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.8)
    freckles: float = 0.0  # in [0, 1]; 1 is sixty of them
    beard: float = 0.0  # opacity; below 0.4 it reads as stubble
    moustache: float = 0.0  # opacity
    seed: int = 0  # of everything else: blotches, moles, strands


def noise(seed: int, height: int, width: int, cells: int = 8) -> np.ndarray:
    """Smooth noise in [0, 1], (height, width), about `cells` bumps across its longer side."""
    longer = max(height, width)
    rows, columns = max(2, cells * height // longer), max(2, cells * width // longer)
    coarse = torch.from_numpy(np.random.default_rng(seed).random((1, 1, rows, columns)))
    fine = torch.nn.functional.interpolate(
        coarse, (height, width), mode="bilinear", align_corners=True
    )
    return fine[0, 0].numpy()


# --- hair ---------------------------------------------------------------------


def hair_shell(look: Look, scalp: np.ndarray, chart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the hair's surface is.

    Args:
        scalp: (S, 3) skin under the hair, in the head model's units.
        chart: (S, 2) angle around the head's axis (rad, 0 in front) and height of each vertex.

    Returns:
        (S, 3) how far the hair stands off the skin, under the skin where there is none; and (S,)
        how much grows there, in [0, 1].
    """
    # outward from the head, level below the crown
    theta, y = chart.T
    above_ears = (y > 0.25) & (y < 0.4)
    wide = np.abs(scalp[above_ears, 0]).max()  # hair runs over the ears, not around them
    base = np.where(y[:, None] < 0.3, scalp.clip([-wide, -9, -9], [wide, 9, 9]), scalp)
    outward = base - np.array([0, 0.1, AXIS])
    level = outward * [1, 0, 1]
    up = smoothstep(y / 0.3)[:, None]
    direction = outward * up + level * (1 - up)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    if HAIR[look.style] is None:
        return -0.06 * direction, np.zeros(len(scalp))

    # how thick it is, and where it begins: the hairline by angle
    line, (top, side, back) = HAIR[look.style]
    angle = np.abs(theta)
    lowest = np.interp(angle, *np.array(line).T)
    lowest = lowest + look.hairline * np.exp(-((angle / 0.8) ** 2))
    around = ((theta / 6.3 + 0.5) * 23).astype(int)
    bump = noise(look.seed, 24, 24)[around, (smoothstep((y + 2) / 3.2) * 23).astype(int)]
    crown = smoothstep((y - 0.3) / 0.5)
    thick = np.where(angle < 2, side, back) * (1 - crown) + top * crown
    thick = thick * look.volume * (0.85 + 0.3 * bump)
    grows = smoothstep((y - lowest) / 0.1 + 0.3)
    off = direction * (grows * (thick + 0.05) - 0.05)[:, None] + base - scalp

    if look.style in ("long", "bob", "fringe"):  # hangs below the ears, does not follow the neck
        reach = np.linalg.norm(level[:, [0, 2]], axis=1)
        ear = (0.68 + thick) * (1 - 0.12 * smoothstep((-y - 0.5) / 1.2))
        farther = np.clip(ear - reach - thick, 0, 0.5)[:, None]
        hangs = (angle > 0.95) & (y < 0.1) & (y > lowest)
        off[hangs] += (level / np.maximum(reach, 1e-3)[:, None] * farther)[hangs]
    return off, grows


# --- texture ------------------------------------------------------------------


def skin_chart() -> list[np.ndarray]:
    """Angle around the head's axis (rad, 0 in front) and height of every texel of the skin."""
    (width, height), (low, high) = CHART, SPAN
    angles = (np.arange(width) + 0.5) / width * 2 * np.pi - np.pi
    return np.meshgrid(angles, high - (np.arange(height) + 0.5) / height * (high - low))


def paint(look: Look, parts: list[str]) -> np.ndarray:
    """The texture of an actor, by the names of the head's parts in the order of their numbers,
    without the hair: (2 · 256 + 64, 512, 3) uint8, the square root of linear light, half as fine as
    sRGB and without a table.
    """
    rng, (width, height), (theta, y) = np.random.default_rng(look.seed), CHART, skin_chart()
    blotch = noise(look.seed + 1, height, width, cells=24) - 0.5
    grain = noise(look.seed + 2, height, width, cells=128)
    skin = _complexion(look, rng, theta, y, blotch)
    beard = _beard(look, theta, y) * (0.7 + 0.6 * grain).clip(0, 1)
    skin += (look.hair * 0.75 - skin) * (0.85 * beard)[..., None]
    brows = _brows(look, theta, y) * (0.75 + 0.5 * grain).clip(0, 1)
    skin += (look.hair * 0.55 - skin) * brows[..., None]
    shirt = look.shirt * (1 + 0.12 * blotch[..., None])
    skin = np.where((y < -1.27 - 0.06 * np.cos(theta))[..., None], shirt, skin)

    strands = noise(look.seed + 3, 8, width, cells=170)[np.arange(height) * 8 // height]
    curl = noise(look.seed + 4, height, width, cells=90)
    hair = look.hair * (0.65 + 0.45 * strands + 0.35 * curl)[..., None]
    atlas = np.concatenate([skin, hair, _eye_and_plain_colours(look, rng, parts)]).clip(0, 1)
    return np.round(atlas**1.1 * 255).astype(np.uint8)  # squared when drawn: sRGB's 2.2


def plain_column(part: int) -> int:
    """Column of the texture, in the rows below hair and skin, where a part's plain colour starts;
    the lip comes after the last of the parts that `paint` is given.
    """
    return 2 * EYE + 8 * part


def _complexion(
    look: Look, rng: np.random.Generator, theta: np.ndarray, y: np.ndarray, blotch: np.ndarray
) -> np.ndarray:
    """Bare skin (256, 512, 3): blotches, red cheeks and nose, freckles, up to three moles."""
    skin = np.broadcast_to(look.skin, (*theta.shape, 3)).copy()
    skin *= 1 + 0.10 * blotch[..., None] * [0.6, 1, 1] + rng.normal(0, 0.012, (*theta.shape, 1))
    red = np.exp(-(((np.abs(theta) - 0.45) / 0.22) ** 2) - ((y + 0.33) / 0.17) ** 2)  # cheeks
    red += 0.8 * np.exp(-((theta / 0.13) ** 2) - ((y + 0.33) / 0.1) ** 2)  # tip of the nose
    skin *= 1 - 0.08 * red[..., None] * [0.1, 1, 0.9]
    spots = [  # angle, height, radius, and how dark: freckles, then moles
        (rng.normal(0, 0.4), rng.normal(-0.2, 0.14), rng.uniform(0.008, 0.014), 0.22)
        for _ in range(int(60 * look.freckles))
    ]
    spots += [
        (rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.5), rng.uniform(0.018, 0.03), 0.6)
        for _ in range(rng.integers(0, 4))
    ]
    for angle, height, radius, dark in spots:  # an angle of 1 is 0.6 wide
        row = np.flatnonzero(np.abs(y[:, 0] - height) < 4 * radius)
        column = np.flatnonzero(np.abs(0.6 * (theta[0] - angle)) < 4 * radius)
        far = 0.36 * (theta[0, column] - angle) ** 2 + (y[row, :1] - height) ** 2
        near = np.exp(-(far / radius**2))
        skin[np.ix_(row, column)] *= 1 - dark * near[..., None] * [0.7, 0.9, 1]
    return skin


def _beard(look: Look, theta: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How much beard and moustache covers the skin, in [0, 1]."""
    x = np.abs(theta)
    jaw = smoothstep((-0.52 - y + 0.28 * smoothstep((x - 0.6) / 0.3)) / 0.12)
    jaw = jaw * smoothstep((y + 1.0) / 0.1)
    jaw *= smoothstep((1.3 - x) / 0.2)
    upper_lip = np.exp(-(((y + 0.485 + 0.25 * theta**2) / 0.05) ** 4))
    upper_lip = upper_lip * smoothstep((0.38 - x) / 0.15)
    return np.clip(look.beard * jaw + look.moustache * upper_lip, 0, 1)


def _brows(look: Look, theta: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How dark the brows are on the skin, in [0, 1]."""
    thick, high, arch, dark = look.brow
    x = np.abs(theta)
    middle = high + np.interp(x, *BROW) + arch * np.interp(x, BROW[0], (0, 1, 1, 0))
    half = 0.030 * thick * np.interp(x, [0.1, 0.3, 0.6, 0.85], [0.9, 1.1, 0.9, 0.25])
    brow = smoothstep((half - np.abs(y - middle)) / 0.04 + 0.5)
    return dark * (brow * smoothstep((x - 0.13) / 0.06) * smoothstep((0.82 - x) / 0.08))


def _eye_and_plain_colours(look: Look, rng: np.random.Generator, parts: list[str]) -> np.ndarray:
    """The strip (64, 512, 3) below hair and skin."""
    strip = np.zeros((EYE, CHART[0], 3))
    across = np.arange(EYE) - EYE / 2 + 0.5
    r = np.hypot(*np.meshgrid(across, across)) / (EYE * 0.48)
    rim = 1 - 0.45 * smoothstep((r - 0.4) / 0.12)
    iris = look.iris * (0.8 + 0.5 * rng.random((EYE, EYE, 1))) * rim[..., None]
    strip[:, :EYE] = np.where((r < 0.50)[..., None], iris, [0.88, 0.86, 0.84])
    strip[:, :EYE][r < 0.22] = 0.02  # the pupil
    plain = {
        "mouth": (0.42, 0.14, 0.13),
        "tongue": (0.72, 0.36, 0.35),
        "teeth": (0.93, 0.90, 0.84),
        "socket": look.skin * 0.7,
        "lip": look.lip,
    }
    for i, name in enumerate([*parts, "lip"]):
        if name in plain:
            strip[:, plain_column(i) : plain_column(i + 1)] = plain[name]
    return strip
