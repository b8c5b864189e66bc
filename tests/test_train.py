"""The loop: batches are a function of the step, and a resumed run equals an uninterrupted one."""

import gc
import json
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import small_classifier
from torch import nn

from ppfer.base.errors import PpferError
from ppfer.base.weights import read_weights
from ppfer.config import REPO, Train
from ppfer.method.networks import Objective, classification
from ppfer.run import loop
from ppfer.run.batches import Batches, augment
from ppfer.run.loop import fit, learning_rate

CPU = torch.device("cpu")


def toy(frames: bool = True, batch: int = 3, device: torch.device = CPU) -> Batches:
    """Batches of eight out of ten clips of noise."""
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (10, 4, 3, 16, 16), dtype=torch.uint8, generator=g).to(device)
    how = {"batch": batch, "seed": 5, "device": device, "per_frame": frames}
    return Batches(pixels, np.arange(1, 9), np.arange(10) % 3, **how)


def test_every_epoch_visits_each_clip_once():
    batches = toy()
    ids = torch.cat([batches._clip_ids(step) for step in range(8)])  # 24 places = 3 epochs of 8
    for epoch in ids.view(3, 8):
        assert sorted(epoch.tolist()) == list(range(1, 9))
    assert ids[:8].tolist() != ids[8:16].tolist()


def test_batches_depend_on_the_step_alone():
    forward, backward = toy(), toy()
    later = [backward(step) for step in (5, 2, 0)]
    for step, batch in zip((5, 2, 0), later, strict=True):
        for a, b in zip(forward(step), batch, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(("frames", "shape"), [(True, (3, 3, 16, 16)), (False, (3, 4, 3, 16, 16))])
def test_batch_shapes_and_range(frames, shape):
    pixels, labels = toy(frames)(0)
    assert pixels.shape == shape and labels.shape == (3,)
    assert 0 <= pixels.min() and pixels.max() <= 1


def test_processes_share_a_batch_out(monkeypatch):
    whole = toy()(4)
    monkeypatch.setenv("WORLD_SIZE", "3")
    parts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(toy()(4))
    for i, tensor in enumerate(whole):
        torch.testing.assert_close(torch.cat([p[i] for p in parts]), tensor, rtol=0, atol=0)


def test_augment_without_flip_gain_or_shift_is_the_identity():
    x = torch.rand(2, 5, 3, 32, 32)
    same = augment(x, torch.zeros(2, dtype=torch.bool), torch.ones(2, 3), [2, 2])
    torch.testing.assert_close(same, x)
    flipped = augment(x, torch.ones(2, dtype=torch.bool), torch.ones(2, 3), [2, 2])
    torch.testing.assert_close(flipped, x.flip(-1))


def test_empty_training_part_is_a_sentence():
    clips, none = torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8), np.array([], dtype=int)
    with pytest.raises(PpferError, match="no clips to train on"):
        Batches(clips, none, np.zeros(1), batch=1, seed=0, device=CPU)


def test_learning_rate_warms_up_and_falls():
    config = Train(100, 1, 1.0, warmup=10)
    values = [learning_rate(step, config) for step in range(100)]
    assert values[0] == pytest.approx(0.1) and values[9] == pytest.approx(1.0)
    assert values[-1] < 0.02 and all(a >= b for a, b in zip(values[10:], values[11:], strict=False))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_resumed_equals_uninterrupted(tmp_path, number):
    config = Train(12, 3, 1e-2, evals=3)

    def train(out, stop_at=None):
        net, batches = small_classifier(), toy()

        def feed(step):
            if step == stop_at:
                os.kill(os.getpid(), number)
            return batches(step)

        def measure():
            return {"norm": float(net[0].weight.detach().norm())}

        fit(classification(net), net, feed, config, out, name="toy", evaluate=measure)
        return net

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", stop_at=7)
    resumed = train(tmp_path / "parts")
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    whole, parts = (
        [json.loads(line) | {"seconds": 0} for line in (tmp_path / f / "metrics.jsonl").open()]
        for f in ("whole", "parts")
    )
    assert whole == parts
    assert not (tmp_path / "parts" / "checkpoint.pt").exists()


@pytest.mark.parametrize("left", [b"", b"PK\x03\x04 a zip file, cut short", b"\x80\x04."])
def test_a_damaged_checkpoint_costs_only_its_own_steps(tmp_path, left, capsys):
    out, net = tmp_path / "toy", small_classifier()
    out.mkdir()
    (out / "checkpoint.pt").write_bytes(left)
    fit(classification(net), net, toy(), Train(2, 3, 1e-2), out, name="toy")
    assert "is damaged; its stage begins again" in capsys.readouterr().out
    assert (out / "weights.safetensors").exists()


def test_a_checkpoint_of_another_device_is_resumed(tmp_path):
    """A GPU's optimizer keeps its rate in a tensor and is fused; elsewhere neither exists."""
    out, config, stopped = tmp_path / "toy", Train(6, 3, 1e-2), []

    def feed(step):
        if step == 3 and not stopped:
            stopped.append(step)
            os.kill(os.getpid(), signal.SIGINT)
        return toy()(step)

    nets_made = [small_classifier(), small_classifier()]
    with pytest.raises(KeyboardInterrupt):
        fit(classification(nets_made[0]), nets_made[0], feed, config, out, name="toy")
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    saved["optimizer"]["param_groups"][0].update(lr=torch.tensor(1e-2), fused=True, capturable=True)
    torch.save(saved, out / "checkpoint.pt")
    fit(classification(nets_made[1]), nets_made[1], feed, config, out, name="toy")
    whole = small_classifier()
    fit(classification(whole), whole, toy(), config, tmp_path / "whole", name="toy")
    for a, b in zip(whole.state_dict().values(), nets_made[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_best_evaluation_is_kept(tmp_path):
    net, scores, seen = small_classifier(), iter([3.0, 1.0, 2.0]), []

    def measure():
        seen.append(net[0].weight.detach().clone())
        return {"value": next(scores)}

    objective, config = classification(net), Train(6, 3, 1e-2, evals=3)
    rule = {"evaluate": measure, "score": lambda m: [m["value"]]}
    summary = fit(objective, net, toy(), config, tmp_path, name="toy", **rule)
    assert summary["best_step"] == 4
    torch.testing.assert_close(net[0].weight, seen[1])
    last = read_weights(tmp_path / "last.safetensors")["0.weight"]
    torch.testing.assert_close(last, seen[2])


def test_diverging_training_is_a_sentence(tmp_path):
    class Bad(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(()))

        def forward(self, pixels, labels):
            return self.w * float("nan")

    bad = Bad()
    with pytest.raises(PpferError, match="the loss is nan at step"):
        fit(bad, bad, toy(), Train(3, 3, 1.0, evals=1), tmp_path, name="toy")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_captured_stage_learns_what_an_eager_one_learns(tmp_path):
    class Eager(Objective):
        captures = False

    device, config, trained = torch.device("cuda"), Train(20, 3, 1e-2, warmup=2), []
    for kind in (Objective, Eager):
        net, out = small_classifier().to(device), tmp_path / kind.__name__
        batches = toy(device=device)
        how = {"name": "toy", "precision": "fp32"}
        summary = fit(kind(net, F.cross_entropy), net, batches, config, out, **how)
        learnt = [p.detach().cpu() for p in net.parameters()]
        trained.append([*learnt, net[1].running_mean.cpu(), torch.tensor(summary["loss"])])
    for a, b in zip(*trained, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_train
test_train.train_linear(Path(sys.argv[2]))
"""


def train_linear(out):
    """A network without BatchNorm, so that halves of a batch add up to the whole."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    config = Train(6, 4, 1e-2)
    fit(classification(net), net, toy(batch=4), config, out, name="linear")
    return net


def test_nothing_holds_the_loop_after_training(tmp_path, monkeypatch):
    """Recorded steps keep their memory on a GPU for as long as somebody holds them."""
    loops = []

    class Watched(loop.Loop):
        def __init__(self, *given):
            super().__init__(*given)
            loops.append(weakref.ref(self))

    monkeypatch.setattr(loop, "Loop", Watched)
    gc.disable()
    try:
        train_linear(tmp_path)
        assert [loop() for loop in loops] == [None]
    finally:
        gc.enable()


def test_two_processes_train_what_one_does(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO), "CUDA_VISIBLE_DEVICES": ""}
    launch = "-m torch.distributed.run --standalone --nproc_per_node 2".split()
    given = [tmp_path / "worker.py", Path(__file__).parent, tmp_path / "both"]
    command = [sys.executable, *launch, *map(str, given)]
    subprocess.run(command, check=True, env=os.environ | settings, timeout=300)
    net = train_linear(tmp_path / "alone")
    both = read_weights(tmp_path / "both" / "weights.safetensors")
    for name, value in net.state_dict().items():
        torch.testing.assert_close(both[name], value, rtol=1e-4, atol=1e-6)
