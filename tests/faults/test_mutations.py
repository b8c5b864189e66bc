"""Silent wrongness: each bug is planted, the check that should see it is run, and it must fire."""

from __future__ import annotations

import shutil
import signal
import types
from pathlib import Path

import numpy as np
import pytest
import test_measure
import test_method
import test_nets
import test_run
import test_store
import test_tables
import test_train
import test_wavelets
import test_weights
import torch
import torch.nn.functional as F
from conftest import (
    SMALL,
    ColouredClips,
    coloured_clips,
    coloured_run,
    equal,
    small_classifier,
    snapshot,
)
from counting import COUNTS
from making_videos import corners, encode, number
from test_versions import check_versions
from torch import nn

from ppfer import config, measure, nets, video, wavelets
from ppfer.base import files, weights
from ppfer.base.errors import PpferError
from ppfer.config import load_config
from ppfer.data import split, store
from ppfer.data.store import ClipStore
from ppfer.method import compensation, identity, privacy, recognition
from ppfer.method.networks import classification
from ppfer.protect import PPFER, PrivacyEnhancer
from ppfer.run import batches, loop
from ppfer.run.loop import Loop
from ppfer.run.run import Run
from ppfer.run.stage import stage
from ppfer.run.training import Training
from ppfer.study import tables
from ppfer.study.protectors import simple_baselines
from ppfer.video import clips as video_clips
from ppfer.video.writer import write_video

# --- checks that the rest of the suite does not have ------------------------------------------


def check_compensation_moves_no_controller(case) -> None:
    """The expression controller of Algorithm 2 is judged by, never taught, BatchNorm included."""
    controller = small_classifier(3)
    before = snapshot(controller)
    objective = compensation.CompensationObjective(nn.Conv2d(3, 3, 1), controller).train()
    for _ in range(3):
        objective(torch.rand(6, 3, 8, 8), torch.arange(6) % 3).backward()
    assert all(p.grad is None for p in controller.parameters())
    assert equal(controller.state_dict(), before), "the frozen controller moved"


def check_labels_are_the_clips_own(case) -> None:
    """What a batch calls a clip is what the table says of it."""
    clips, table = coloured_clips()
    for name, column in {
        "identity": "actor",
        "attack/none": "actor",
        "recognizer/none": "emotion",
    }.items():
        made = case.run.stage(name)
        batches = made.batches()
        batches.augment = False
        pixels, labels = batches(0)[:2]
        for shown, label in zip(pixels.mul(255).round().byte(), labels, strict=True):
            same = clips.flatten(0, 1) if made.per_frame else clips
            places = (same == shown).flatten(1).all(1).nonzero().flatten().tolist()
            rows = {place // clips.shape[1] if made.per_frame else place for place in places}
            names = {table[column][row] for row in rows}
            assert names == {sorted(set(table[column]))[label]}, f"{name}: another clip's label"


class Poisoned(ColouredClips):
    """The clips with noise in place of everything that is to be tested on."""

    def load(self, folder) -> ClipStore:
        pixels, table = coloured_clips()
        c = self.config
        held = split.split(table, test=c.test, val=c.val, seed=c.seed)["test"]
        noise = torch.Generator().manual_seed(1)
        shape = pixels[held].shape
        pixels[held] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=noise)
        return ClipStore.in_memory(pixels, table)


stage("clips", notebook="00")(Poisoned)
BLIND = ("identity", "recognizer/none", "attack/none")


def check_training_never_sees_the_test_part(case) -> None:
    """Weights and selection are the same, bit for bit, whatever the test clips are."""
    evals = {f"{name}.evals": 3 for name in ("identity", "recognition", "attack")}
    held = []
    for place, more in (("clean", ()), ("poisoned", (Poisoned,))):
        run = coloured_run(load_config("smoke", SMALL | evals), case.folder() / place)
        run.stages |= {cls.kind: cls for cls in more}
        for name in ("clips", "split", "protected/none", *BLIND):
            run.make(name)
        held.append(run)
    for name in BLIND:
        one, other = (run.get(name).state_dict() for run in held)
        same = all(torch.equal(one[key], other[key]) for key in one)
        best = [run.summary(name)["best"] for run in held]
        assert same and best[0] == best[1], f"{name} depends on the test clips"


def check_parts_share_no_clip(case) -> None:
    """A split that deals a clip out twice is refused when it is read."""
    run = coloured_run(load_config("smoke", SMALL), case.folder())
    for name in ("clips", "split"):
        run.make(name)
    parts = list(run.get("split").values())
    assert sum(map(len, parts)) == len(set(np.concatenate(parts))) == len(run.table)


def check_a_row_needs_its_manifests(case) -> None:
    """Numbers of a stage whose manifest is gone are no row of a table."""
    run = coloured_run(case.run.config, case.run.dir.parent)
    path = run.folder("attack/ppfer") / "manifest.json"
    kept = path.read_text()
    path.unlink()
    try:
        with pytest.raises(PpferError, match="attack/ppfer does not exist yet"):
            tables.table_row(run, "ppfer")
    finally:
        path.write_text(kept)


def check_seeds_matter_and_repeat(case) -> None:
    """The same seed gives the same start and batches, another seed others."""
    seen = []
    for seed in (0, 0, 1):
        run = coloured_run(load_config("smoke", SMALL | {"seed": seed}), case.folder())
        for name in ("clips", "split"):
            run.make(name)
        made = run.stage("identity")
        torch.manual_seed(made.seed)
        start = next(made.net().parameters()).detach().flatten()
        batches = made.draw("clips", run.labels("actor"), index=np.arange(30))
        seen.append(torch.cat([start, batches(0)[0].flatten()]))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0][:9], seen[2][:9]), "networks start from one seed"
    assert not torch.equal(seen[0][-9:], seen[2][-9:]), "batches are of one seed"


def check_an_untrained_network_is_refused(case) -> None:
    """A stage that leaves its network as it was has not trained it."""
    net, few = small_classifier(), config.Train(2, 3, 1e-2)
    objective = classification(net)
    start = [p.detach().clone() for p in net.parameters()]
    loop.fit(objective, net, test_train.toy(), few, case.folder(), name="toy")
    assert any(not torch.equal(a, b) for a, b in zip(start, net.parameters(), strict=True))


def check_nothing_is_read_from_a_constant_answer(case) -> None:
    """Who says the same of every clip names no more than the commonest answer."""
    truth = np.arange(30) % 3
    for said in (torch.zeros(30, 4, 3), torch.ones(30, 4, 3) * torch.tensor([0.0, 1.0, 0.0])):
        rates = measure.leakage(said, truth)
        rates["remapped"] = measure.remapped_leakage(said, truth, said, truth)
        assert all(rate.value <= 0.5 for rate in rates.values())
    words = measure.per_class(torch.zeros(30, 3), truth, ["a", "b", "c"])
    assert words["average"].k == 10


def check_a_row_asks_every_network_about_the_test_part(case) -> None:
    run, asked = coloured_run(case.run.config, case.run.dir.parent), set()
    real, count = run.logits, len(run.get("split")["test"])
    run.logits = lambda net, store, part: asked.add((net, store, part)) or real(net, store, part)
    row = tables.table_row(run, "ppfer")
    judges = ("identity", "attack/ppfer", "recognizer/none", "recognizer/ppfer")
    assert asked == {(judge, "protected/ppfer", "test") for judge in judges}
    shares = [row[cell] for cell in ("plr", "plr_retrained", "acc", "acc_retrained")]
    assert [share.n for share in shares] == [count] * 4


def check_the_controller_doubts_more(case) -> None:
    """Algorithm 1 raises the cross-entropy of the frozen controller."""
    torch.manual_seed(0)
    controller, pixels = small_classifier(3).eval(), torch.rand(6, 3, 8, 8)
    enhancer = PrivacyEnhancer(wavelets.BandSplit(), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    objective, doubt = privacy.PrivacyObjective(enhancer, controller, "paper", 0.0), []
    optimizer = torch.optim.SGD(enhancer.parameters(), lr=1.0)
    for _ in range(20):
        labels = torch.arange(6) % 3
        said = controller(enhancer.views(pixels)[0][1])
        doubt.append(float(F.cross_entropy(said, labels).detach()))
        optimizer.zero_grad()
        objective(pixels, labels).backward()
        optimizer.step()
    assert doubt[-1] > doubt[0]


def check_each_band_has_its_own_network(case) -> None:
    x, bands = torch.rand(2, 3, 8, 8), wavelets.BandSplit()
    low, high = bands.split(x)
    darker, same = nn.Threshold(2.0, 0.3), nn.Identity()
    expected = bands.merge(torch.full_like(low, 0.3), high, like=x).clamp(0, 1)
    torch.testing.assert_close(PrivacyEnhancer(bands, darker, same)(x), expected)


def check_one_picture_is_shown_to_everybody(case) -> None:
    shown = simple_baselines.build_mean(case.run)(torch.rand(3, 4, 3, 16, 16))
    assert (shown == shown[:1, :1]).all()


def check_frames_keep_their_order_and_colours(case) -> None:
    path = encode(case.folder() / "v.mp4", count=20)
    shown = video_clips.decode_clip(path, 5, 64).transpose(0, 2, 3, 1)
    assert [number(picture) for picture in shown] == [2, 6, 10, 14, 18]
    assert corners(shown[0]) == "rgbw"


def check_videos_keep_their_colours_when_written(case) -> None:
    clip = torch.zeros(4, 3, 32, 32)
    clip[:, 0] = 0.9  # red
    path = write_video(case.folder() / "red.mp4", clip)
    assert video_clips.decode_clip(path, 4, 32).mean((0, 2, 3)).argmax() == 0


def check_whole_method_is_its_parts(case) -> None:
    x, brighter, square = torch.rand(2, 3, 3, 8, 8), nn.Threshold(0.5, 0.5), nn.Threshold(0.7, 0.7)
    torch.testing.assert_close(PPFER(brighter, square)(x), x.clamp(0.7, 1))


def check_the_better_look_is_kept(case) -> None:
    rules = {
        "identity": [{"val_all_frames": 0.9}, {"val_all_frames": 0.1}],
        "recovery/none": [{"val_l1": 0.1}, {"val_l1": 0.9}],
    }
    for name, looks in rules.items():
        rule = case.run.stage(name).rule()
        assert min(looks, key=rule) == looks[0], name


# --- bugs -----------------------------------------------------------------------------------------


def set_to(owner: object, name: str, value: object):
    return lambda patch: patch.setattr(owner, name, value)


def wrapped(owner: object, name: str, how):
    """A bug that changes what a function returns: ``how(result, *args)``."""
    real = getattr(owner, name)

    def bad(*args, **kwargs):
        return how(real(*args, **kwargs), *args)

    return lambda patch: patch.setattr(owner, name, bad)


def parts_with(change):
    return lambda patch: patch.setattr(
        Run, "parts", property(lambda run: change(dict(run.get("split"))))
    )


def plain(function, *args):
    """A test of the suite as a check."""
    return lambda case: function(*args)


def _only_gradients(module):
    return module.requires_grad_(False)


def _ties_count(said, actors, *, seed=0):
    truth = torch.as_tensor(np.asarray(actors))
    shape = truth[:, None, None].expand(-1, said.shape[1], 1)
    hits = said.gather(-1, shape)[..., 0] >= said.amax(-1)
    return {"all_frames": measure.rate(hits)}


def _swapped(run, column):
    return run.get("clips").labels({"actor": "emotion", "emotion": "actor"}.get(column, column))


def _headless(module, state):
    own = module.state_dict()
    module.load_state_dict({k: v if "fc" in k else state.get(k, v) for k, v in own.items()})


def _unnoticed(patch):
    blind = types.SimpleNamespace(**vars(loop.math))
    blind.isfinite = lambda value: True
    patch.setattr(loop, "math", blind)


def _never(self, *batch):
    return torch.ones(())


def _forgetful(self):
    if not self.checkpoint.exists():
        self.log.write_text("")
        return
    saved = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
    self.objective.load_state_dict(saved["objective"])
    self.state, self.running, self.since = saved["state"], saved["running"], saved["since"]


algorithm_1 = plain(test_method.test_algorithm_1_moves_the_enhancers_only)
BUGS = {
    "a frozen controller whose BatchNorm follows the data": (
        set_to(nets, "freeze", _only_gradients), algorithm_1),
    "a frozen controller that learns": (set_to(nets, "freeze", lambda m: m), algorithm_1),
    "Algorithm 2's controller not frozen": (
        set_to(nets, "freeze", _only_gradients), check_compensation_moves_no_controller),
    "label columns swapped": (set_to(Run, "labels", _swapped), check_labels_are_the_clips_own),
    "labels one row late": (
        wrapped(Run, "labels", lambda said, *_: np.roll(said, 2)), check_labels_are_the_clips_own),
    "train and test overlapping, as dealt": (
        wrapped(split, "split",
                lambda p, *_: p | {"train": np.sort(np.append(p["train"], p["test"][:1]))}),
        check_parts_share_no_clip),
    "trained on the test part": (
        parts_with(lambda p: p | {"train": np.append(p["train"], p["test"])}),
        check_training_never_sees_the_test_part),
    "selection on test data": (
        parts_with(lambda p: p | {"val": p["test"]}), check_training_never_sees_the_test_part),
    "measured on the training part": (
        parts_with(lambda p: p | {"test": p["train"]}),
        check_a_row_asks_every_network_about_the_test_part),
    "the worst look is kept": (
        wrapped(Training, "rule", lambda rule, *_: lambda m: [-v for v in rule(m)]),
        check_the_better_look_is_kept),
    "a pretty epoch before a private one": (
        set_to(test_measure, "private_first",
               lambda chance, slack, then: lambda m: [m[then], m["val_plr"]]),
        plain(test_measure.test_the_most_private_epoch_is_never_traded_for_a_pretty_one)),
    "a random head": (
        set_to(weights, "_load", _headless),
        plain(test_weights.test_a_head_of_the_right_size_is_loaded_too)),
    "permutation passing for privacy": (
        set_to(measure, "remapped_leakage",
               lambda fit, who, said, actors: measure.leakage(said, actors)["all_frames"]),
        lambda case: test_tables.test_renaming_people_is_no_privacy(case.run, case.patch)),
    "a constant answer scoring": (
        set_to(measure, "leakage", _ties_count), check_nothing_is_read_from_a_constant_answer),
    "a constant picture that is each clip's own": (
        set_to(simple_baselines, "build_mean",
               lambda run: lambda clips: clips.mean(1, keepdim=True).expand_as(clips)),
        check_one_picture_is_shown_to_everybody),
    "an attacker never trained": (
        set_to(Loop, "update", _never), check_an_untrained_network_is_refused),
    "the attacker's own network never asked": (
        set_to(tables, "measure_leakage",
               lambda run, name, *, retrained=False, remapped=True:
               tables.leak(run, "identity", f"protected/{name}", "test")),
        check_a_row_asks_every_network_about_the_test_part),
    "a table row without a manifest": (
        set_to(Run, "manifest", lambda run, name: {"summary": {}}),
        check_a_row_needs_its_manifests),
    "batches that ignore the seed": (
        set_to(batches, "_generator", lambda seed, step: torch.Generator().manual_seed(step % 99)),
        check_seeds_matter_and_repeat),
    "networks that ignore the seed": (
        set_to(Training, "seed", property(lambda self: 7)), check_seeds_matter_and_repeat),
    "a measure that ignores the seed": (
        set_to(test_measure, "leakage",
               lambda said, truth, *, seed=0: measure.leakage(said, truth, seed=0)),
        plain(test_measure.test_random_frame_is_seeded)),
    "NaN loss unnoticed": (
        _unnoticed, lambda case: test_train.test_diverging_training_is_a_sentence(case.folder())),
    "frames read in the wrong order": (
        wrapped(video_clips, "decode_clip", lambda clip, *_: clip[::-1]),
        check_frames_keep_their_order_and_colours),
    "frames sampled from the beginning alone": (
        set_to(video_clips, "sample_positions", lambda count, frames: list(range(frames))),
        check_frames_keep_their_order_and_colours),
    "colour channels swapped on reading": (
        wrapped(video_clips, "squared", lambda picture, *_: picture[::-1]),
        check_frames_keep_their_order_and_colours),
    "colour channels swapped on writing": (
        wrapped(video.writer, "as_uint8", lambda clip, *_: clip[..., ::-1, :, :].copy()),
        check_videos_keep_their_colours_when_written),
    "a store with its frames reversed": (
        wrapped(store, "as_uint8", lambda clip, *_: clip[::-1]),
        lambda case: test_store.test_from_array_takes_clips_batches_and_floats(case.folder())),
    "the recognizer's time and colour exchanged": (
        set_to(nets.Recognizer, "forward", lambda self, clips: self.net(
            (clips.transpose(1, 2).flip(1) - self.mean) / self.std)),
        plain(test_nets.test_recognizer_sees_channels_before_time_and_kinetics_statistics)),
    "a classifier without its mean and std": (
        set_to(nets.Classifier, "forward", lambda self, frames: self.net(frames)),
        plain(test_nets.test_resnet18_computes_what_torchvision_computes)),
    "band and detail exchanged": (
        wrapped(wavelets.BandSplit, "split", lambda bands, *_: bands[::-1]),
        plain(test_wavelets.test_details_answer_to_their_edges_and_are_folded_frame_by_frame)),
    "the enhancer's two networks exchanged": (
        wrapped(PrivacyEnhancer, "enhance", lambda both, *_: both[::-1]),
        check_each_band_has_its_own_network),
    "the compensator left out": (
        set_to(PPFER, "forward", lambda self, pixels: self.enhancer(pixels)),
        check_whole_method_is_its_parts),
    "the privacy loss's sign flipped": (
        wrapped(privacy, "privacy_loss", lambda loss, *_: -loss),
        check_the_controller_doubts_more),
    "surprise taught as another emotion": (
        set_to(test_method, "wild_labels",
               lambda emotions, classes: np.array([max(0, e in classes) for e in emotions])),
        plain(test_method.test_wild_labels_mask_what_the_data_does_not_have)),
    "an input's change unnoticed": (
        set_to(Run, "key", lambda run, name: files.digest(name)),
        lambda case: test_run.MADE.clear() or (
            test_run.test_changed_settings_make_it_and_what_stands_on_it_again(case.folder()))),
    "an optimizer that starts afresh when resumed": (
        set_to(Loop, "resume", _forgetful), lambda case: (
            test_train.test_resumed_equals_uninterrupted(case.folder(), signal.SIGTERM))),
    "processes that all take the same share": (
        set_to(batches, "rank", lambda: 0),
        lambda case: test_train.test_processes_share_a_batch_out(case.patch)),
    "an objective whose meaning changed under the same version": (
        wrapped(identity.IdentityObjective, "forward", lambda loss, *_: 1.1 * loss),
        lambda case: check_versions(case.folder(), "identity")),
    "smoothing forgotten in the recognizer's loss": (
        wrapped(recognition.Recognizer, "objective",
                lambda made, *_: classification(made.net, 0.3)),
        lambda case: check_versions(case.folder(), "recognizer")),
}  # fmt: skip


class Case:
    """What a check may use: a finished small run, fresh folders, a monkeypatch of its own."""

    def __init__(self, run: Run, root: Path, patch: pytest.MonkeyPatch):
        self.run, self.root, self.patch, self.made = run, root, patch, 0

    def folder(self) -> Path:
        self.made += 1
        path = self.root / str(self.made)
        path.mkdir()
        return path


SEEN = (AssertionError, PpferError, pytest.fail.Exception)  # no other: a crash is no check


SLOW = ("trained on the test part", "selection on test data")


@pytest.fixture(autouse=True)
def nothing_remembered(tiny_run):
    """What networks said under a planted bug is not to be asked for afterwards, nor before."""
    shutil.rmtree(tiny_run.dir / "logits", ignore_errors=True)
    yield
    shutil.rmtree(tiny_run.dir / "logits", ignore_errors=True)


@pytest.mark.parametrize(
    "bug", [pytest.param(bug, marks=pytest.mark.faults if bug in SLOW else ()) for bug in BUGS]
)
def test_a_planted_bug_is_seen(bug, tiny_run, tmp_path):
    plant, check = BUGS[bug]
    case = Case(coloured_run(tiny_run.config, tiny_run.dir.parent), tmp_path, None)
    with pytest.MonkeyPatch.context() as patch:
        case.patch = patch
        plant(patch)
        with pytest.raises(SEEN):
            check(case)
    with pytest.MonkeyPatch.context() as patch:  # and without it nothing fires
        case.patch = patch
        case.run = coloured_run(tiny_run.config, tiny_run.dir.parent)
        check(case)
    COUNTS["mutations caught"] += 1
