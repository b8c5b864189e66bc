"""What features keep of people: linear probes on a frozen encoder's, beside attacks on pictures.

Who stores features in place of clips passes on what they keep. And an attacker who trains nothing
but a linear layer is the weakest there is: what he names leaks to anybody. Encoders were trained
on unprotected clips alone and see protected ones as they are: F_u, V_pl and, where the setting
`encoder` names one, a network of timm's with the user's weights; the plainest is a thumbnail.
Stages: features, attack_linear.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from ppfer import nets
from ppfer.base.errors import PpferError, near
from ppfer.base.weights import load_weights, read_weights, save_weights
from ppfer.measure import Rate, per_class
from ppfer.run.clips import names_people
from ppfer.run.run import Run
from ppfer.run.stage import Stage, stage
from ppfer.study.attacks.attributes import attribute_labels, attributes_of, commonest
from ppfer.study.tables import approaches, left_out, prepare

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # on a probe's weights; the validation part chooses
STEPS = 300  # of L-BFGS, at most
REMEMBERED = 10  # of them, as in SciPy: a GPU waits for the processor at each

# --- encoders ---------------------------------------------------------------------


class OfClips(nn.Module):
    """A network without its last layer, of frames or of clips: (B, T, 3, H, W) → (B, D), the mean
    over frames.
    """

    def __init__(self, body: nn.Module, sees_clips: bool = False):
        super().__init__()
        self.body, self.sees_clips = body, sees_clips

    def forward(self, clips: Tensor) -> Tensor:
        if self.sees_clips:
            return self.body(clips)
        return self.body(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]).float().mean(1)


class OfTimm(nn.Module):
    """An encoder of timm's: frames (N, 3, h, w) in [0, 1] → (N, D), at the size and with the mean
    and deviation of each colour that it was made for. Weights, a path, may have a head or not; ""
    leaves them random. A `PpferError` when timm has no such model, or the file does not hold it.
    """

    def __init__(self, name: str, weights: str = ""):
        super().__init__()
        if not timm.is_model(name):
            raise PpferError(f"timm has no encoder '{name}'{near(name, timm.list_models())}")
        self.net = timm.create_model(name, pretrained=False, num_classes=0)
        about = resolve_model_data_config(self.net)
        self.size = about["input_size"][-1]
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(about[key]).view(1, 3, 1, 1), persistent=False)
        if weights:
            heads = self.net.pretrained_cfg["classifier"]
            heads = "|".join([heads] if isinstance(heads, str) else heads)
            state = read_weights(Path(weights))
            state = {k: v for k, v in state.items() if not re.search(rf"(^|\.)({heads})\.\w+$", k)}
            load_weights(self.net, state)

    def forward(self, frames: Tensor) -> Tensor:
        return self.net((nets.resize(frames, self.size) - self.mean) / self.std)


def encoders(run: Run) -> dict[str, OfClips]:
    """The frozen encoders of a run, and what they are called."""
    found = {}
    for title, name in (("F_u", "recognizer/none"), ("V_pl", "identity")):
        net = copy.deepcopy(run.get(name))
        net.net.fc = nn.Identity()
        found[title] = OfClips(net, getattr(net, "sees_clips", False))
    if name := run.config.encoder:
        torch.manual_seed(run.config.seed)  # of random weights
        given = run.config.encoder_weights
        kind = "with weights of others" if given else "random weights, a baseline and no attacker"
        found[f"{name}, {kind}"] = OfClips(OfTimm(name, given).to(run.device))
    return found


# --- probes -----------------------------------------------------------------------


def asked(run: Run) -> list[str]:
    """What is read from features: the person, where training shows all who are tested, the
    expression, and what else the data say of people.
    """
    return ["actor"] * names_people(run) + ["emotion", *attributes_of(run)]


def fitted(given: Tensor, labels: Tensor, weights: Tensor, penalty: float) -> nn.Linear:
    """Logistic regression: features (n, D), labels (n,), a weight for each class, and of the
    squared weights.
    """
    layer = nn.utils.skip_init(nn.Linear, given.shape[1], len(weights), device=given.device)
    for part in layer.parameters():
        nn.init.zeros_(part)
    how = {"max_iter": STEPS, "history_size": REMEMBERED, "line_search_fn": "strong_wolfe"}
    solver = torch.optim.LBFGS(layer.parameters(), **how)

    def loss() -> Tensor:
        solver.zero_grad()
        wrong = F.cross_entropy(layer(given), labels, weights)
        whole = wrong + penalty * layer.weight.square().sum()
        whole.backward()
        return whole

    solver.step(loss)
    return layer


def chosen(
    features: Tensor, rows: Mapping[str, np.ndarray], labels: np.ndarray, weights: Tensor
) -> nn.Linear:
    """Of linear layers on features (N, D), one for each penalty, the one that is right most often
    on the validation part, if there is one: fitted to the standardised training part, by labels
    (N,); each class counts by its weight.
    """
    train, asked = (torch.as_tensor(rows[part]) for part in ("train", "val"))
    asked = asked if len(asked) else train
    truth, weights = torch.as_tensor(labels).to(features.device), weights.to(features)
    mean, spread = features[train].mean(0), features[train].std(0) + 1e-4
    given = (features[train] - mean) / spread
    layers, right = [fitted(given, truth[train], weights, p) for p in PENALTIES], []
    for layer in layers:
        with torch.no_grad():
            layer.weight /= spread
            layer.bias -= layer.weight @ mean
            hits = layer(features[asked]).argmax(1) == truth[asked]
        right.append(float((hits * weights[truth[asked]]).sum()))
    return layers[int(np.argmax(right))]


def probed(run: Run, features: Tensor, label: str) -> dict:
    """What a linear layer reads of a label from features (N, D), on the test part.

    Returns:
        "k", "n" of a probe to which every clip counts as much, to be held against the commonest
        group; "uar", the mean of the groups' recalls, of one to which every group does, to be held
        against one of so many groups.
    """
    labels, classes = attribute_labels(run.table, label)
    rows = {part: index[labels[index] >= 0] for part, index in run.parts.items()}
    train, test = labels[rows["train"]], torch.as_tensor(rows["test"])

    def read(weights: Tensor) -> dict:
        said = chosen(features, rows, labels, weights)(features[test])
        return per_class(said.cpu(), labels[test], classes)

    shown = torch.bincount(torch.as_tensor(train), minlength=len(classes)).clamp(min=1)
    even = read(len(train) / len(classes) / shown)["uar"]
    return read(torch.ones(len(classes)))["average"].to_dict() | {"uar": even}


class Moments(nn.Module):
    """Clips (B, T, 3, H, W) to what a last layer says of the mean and deviation over time of their
    pictures of 16 × 16, (B, 1536); without one to those.
    """

    sees_clips, width = True, 2 * 3 * 16 * 16

    def __init__(self, last: nn.Module | None = None):
        super().__init__()
        self.last = last or nn.Identity()

    def forward(self, clips: Tensor) -> Tensor:
        small = F.adaptive_avg_pool2d(clips.flatten(0, 1).float(), 16).unflatten(0, clips.shape[:2])
        with torch.autocast(clips.device.type, enabled=False):  # the layer's sums cancel
            return self.last(torch.cat([small.mean(1), small.std(1, correction=0)], 1).flatten(1))


@stage(
    "attack_linear/{protector}", needs=("split", "protected/{protector}"), notebook="08", alone=True
)
class OnThumbnails(Stage):
    """A linear layer on `Moments`, fitted exactly: it names people where networks of millions of
    parameters, trained step by step, find nothing.
    """

    def make(self, folder: Path) -> dict:
        run, even = self.run, torch.ones(len(self.run.classes("actor")))
        shown = run.logits(Moments(), f"protected/{self.protector}").to(run.device)
        layer = chosen(shown, run.parts, run.labels("actor"), even)
        save_weights(layer, folder / "weights.safetensors")
        return {}

    def load(self, folder: Path) -> nn.Module:
        """A frozen network of clips."""
        layer = nn.Linear(Moments.width, len(self.run.classes("actor")))
        load_weights(layer, folder / "weights.safetensors")
        return nets.freeze(Moments(layer).to(self.run.device))


@stage(
    "features/{protector}",
    needs=("split", "identity", "recognizer/none", "protected/{protector}"),
    settings=("seed", "encoder", "encoder_weights"),
    notebook="08",
    version=2,
)
class Features(Stage):
    """Linear probes on what each frozen encoder says of a protector's clips."""

    def make(self, folder: Path) -> dict:
        run, found = self.run, {}
        for title, net in encoders(run).items():
            how = {"per_frame": False, "batch": 16}
            said = run.logits(nets.freeze(net), f"protected/{self.protector}", **how)
            said = said.to(run.device)
            found[title] = {label: probed(run, said, label) for label in asked(run)}
        return {"probes": found}

    def load(self, folder: Path) -> dict[str, dict[str, dict]]:
        """Encoder → label → "k", "n", "uar"."""
        return self.run.summary(self.name)["probes"]


def feature_table(run: Run, names: Sequence[str] | None = None) -> list[dict]:
    """What linear probes read from frozen encoders' features of each approach's test clips: the
    person, the expression, and sex, race and age group with the mean of the groups' recalls
    (``uar_``). The last row always names the commonest.
    """
    names = approaches(run) if names is None else names
    ready, rows, labels = prepare(run, names, ("features",)), [], asked(run)
    for name in names:
        if name not in ready:
            rows.append(left_out(run, name))
            continue
        for encoder, probes in run.get(f"features/{name}").items():
            row = {"approach": run.protector(name).title, "encoder": encoder}
            for label, cell in probes.items():
                row[label] = Rate(cell["k"], cell["n"])
                row |= {f"uar_{label}": cell["uar"]} if label in attributes_of(run) else {}
            rows.append(row)
    control = {"approach": "Always the commonest group (control)"}
    for label in labels:
        control[label] = commonest(run, label)
        groups = len(attribute_labels(run.table, label)[1])
        control |= {f"uar_{label}": 1 / groups} if label in attributes_of(run) else {}
    return [*rows, control]
