"""Probes of features: what is there is read, what is not is not, and groups of any size count."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from conftest import SMALL, coloured_run
from torch import nn

from ppfer.base.errors import PpferError
from ppfer.base.weights import save_weights
from ppfer.config import load_config
from ppfer.measure import Rate
from ppfer.study.attacks.features import Moments, OfTimm, chosen, encoders, feature_table, probed

TINY = "test_resnet"  # timm's smallest, for tests


def people(share: int = 8) -> SimpleNamespace:
    """200 clips of which one in so many shows a man, and one in ten nobody knows who."""
    who = np.where(np.arange(200) % share, "female", "male")
    table = pd.DataFrame({"sex": np.where(np.arange(200) % 10 == 5, "", who)})
    places = np.random.default_rng(0).permutation(200)
    parts = {"train": places[:100], "val": places[100:130], "test": places[130:]}
    return SimpleNamespace(table=table, parts=parts)


def test_what_is_in_the_features_is_read():
    run = people()
    known = run.table["sex"].to_numpy()[run.parts["test"]] != ""
    shown = torch.tensor(list(run.table["sex"] == "male")).float()[:, None]
    assert probed(run, shown + 5, "sex") == {"k": known.sum(), "n": known.sum(), "uar": 1.0}


def test_of_features_that_say_nothing_the_commonest_group_is_all_that_is_read():
    run = people()
    found = probed(run, torch.zeros(200, 3), "sex")
    asked = run.table["sex"].to_numpy()[run.parts["test"]]
    assert found == {"k": (asked == "female").sum(), "n": (asked != "").sum(), "uar": 0.5}


def test_a_table_has_a_row_for_every_encoder(tiny_run):
    f_u, v_pl, control = feature_table(tiny_run, ("none",))
    assert (f_u["encoder"], v_pl["encoder"]) == ("F_u", "V_pl")
    read = ["actor", "emotion", "sex", "uar_sex", "age_group", "uar_age_group"]
    assert list(v_pl)[2:] == read and list(control)[1:] == read
    test = len(tiny_run.parts["test"])
    assert {v_pl[key].n for key in ("actor", "emotion", "sex")} == {test}
    assert control["actor"].k == test // 3 and control["uar_sex"] == 0.5
    assert v_pl["actor"].value > control["actor"].value  # a person is a colour here


def test_the_features_are_what_the_last_layer_sees(tiny_run):
    clips = tiny_run.tensor("clips")[:2].float() / 255
    net, found = tiny_run.get("recognizer/none"), encoders(tiny_run)
    torch.testing.assert_close(net.net.fc(found["F_u"](clips)), net(clips))
    frames = tiny_run.get("identity")
    said = frames(clips.flatten(0, 1)).unflatten(0, (2, -1)).mean(1)
    torch.testing.assert_close(frames.net.fc(found["V_pl"](clips)), said)


def test_thumbnails_name_whom_colours_tell_apart(tiny_run, tmp_path):
    tiny_run.ensure("attack_linear/none")
    clips, test = tiny_run.tensor("clips"), tiny_run.parts["test"]
    said = tiny_run.logits("attack_linear/none", "protected/none", "test")
    assert (said.argmax(1).numpy() == tiny_run.labels("actor")[test]).all()
    net = tiny_run.get("attack_linear/none")
    torch.testing.assert_close(net(clips[test].float() / 255), said)
    small = Moments()(clips[:2, :1].float() / 255).view(2, 2, 3, 16, 16)
    assert (small[:, 1] == 0).all()  # a picture that does not move
    torch.testing.assert_close(small[:, 0].mean((2, 3)), clips[:2, 0].float().mean((2, 3)) / 255)


def test_what_a_layer_is_fitted_to_may_have_any_mean_and_spread():
    labels, g = np.arange(300) % 3, torch.Generator().manual_seed(0)
    features = torch.randn(300, 4, generator=g) + torch.eye(4)[labels] * 9
    rows = {"train": np.arange(150), "val": np.arange(150, 200), "test": np.arange(200, 300)}
    for moved in (features, features * torch.tensor([1e-3, 1, 10, 1e3]) + 50):
        for val in (rows["val"], rows["val"][:0]):  # a split need not have one
            layer = chosen(moved, rows | {"val": val}, labels, torch.ones(3))
            assert (layer(moved[200:]).argmax(1).numpy() == labels[200:]).all()


def test_an_encoder_without_weights_is_called_a_baseline(tmp_path):
    given = SMALL | {"encoder": TINY, "identity.steps": 1, "recognition.steps": 1}
    run = coloured_run(load_config("smoke", given), tmp_path)
    for name in ("clips", "split", "identity", "recognizer/none", "protected/none"):
        run.make(name)
    *_, last, _ = feature_table(run, ("none",))
    assert last["encoder"] == f"{TINY}, random weights, a baseline and no attacker"
    assert isinstance(last["emotion"], Rate)


def test_weights_of_others_are_loaded_whole_without_their_head(tmp_path):
    file = tmp_path / "weights.safetensors"
    theirs = timm.create_model(TINY, num_classes=7).eval()
    save_weights(theirs, file)
    ours = OfTimm(TINY, str(file)).eval()
    frames = torch.rand(2, 3, ours.size, ours.size)
    pooled = theirs.forward_head(
        theirs.forward_features((frames - ours.mean) / ours.std), pre_logits=True
    )
    torch.testing.assert_close(ours(frames), pooled)
    assert ours(torch.rand(1, 3, 16, 16)).shape == (1, pooled.shape[1])
    save_weights(nn.Linear(2, 2), file)
    with pytest.raises(PpferError, match="does not fit"):
        OfTimm(TINY, str(file))
    with pytest.raises(PpferError, match="timm has no encoder 'resnet_50'"):
        OfTimm("resnet_50")
