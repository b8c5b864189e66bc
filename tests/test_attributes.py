"""Leakage of sex, race and age group: counted right, also where nobody is named."""

import math

import pandas as pd
import pytest
import torch

from ppfer.base.errors import PpferError
from ppfer.measure import Rate
from ppfer.study.attacks import attributes
from ppfer.study.attacks.attributes import attribute_labels


def test_age_groups_and_unknown_labels():
    ages, sexes = ["20", "30", "49", "50", ""], ["male", "female", "", "male", "male"]
    table = pd.DataFrame({"age": ages, "sex": sexes, "race": [""] * 5})
    labels, classes = attribute_labels(table, "age_group")
    names = [classes[i] if i >= 0 else "" for i in labels]
    assert names == ["under 30", "30 to 49", "30 to 49", "50 and over", ""]
    assert attribute_labels(table, "sex")[0].tolist() == [1, 0, -1, 1, 1]
    with pytest.raises(PpferError, match="names 0 values of race"):
        attribute_labels(table, "race")


def test_attribute_table_measures_what_is_labelled(tiny_run):
    assert attributes.attributes_of(tiny_run) == ["sex", "age_group"]
    rows = attributes.attribute_table(tiny_run, ("none",))
    test = tiny_run.parts["test"]
    males = int((tiny_run.table["sex"].to_numpy()[test] == "male").sum())
    assert rows[-1]["sex"] == Rate(males, len(test))  # two of three actors
    columns = ["sex", "sex_retrained", "age_group", "age_group_retrained"]
    assert list(rows[0]) == ["approach", *columns] and rows[0]["sex"].n == len(test)


def test_an_attacker_who_names_every_actor_names_every_group(tiny_run):
    labels, classes = attribute_labels(tiny_run.table, "sex")
    groups = attributes.actor_groups(tiny_run, labels, len(classes))
    certain = torch.eye(3)[torch.as_tensor(tiny_run.labels("actor"))]  # (N, actors)
    assert torch.equal((certain @ groups).argmax(1), torch.as_tensor(labels))
    assert math.isclose(groups.sum().item(), 3)
