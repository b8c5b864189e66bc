"""Sex, race, age group: the mechanism of PLR with other labels than the name (paper §3.4)."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ppfer import measure
from ppfer.base.errors import PpferError
from ppfer.data.index import years
from ppfer.method.networks import Naming, new_classifier
from ppfer.run.clips import names_people
from ppfer.run.run import Run
from ppfer.run.stage import stage
from ppfer.study.attacks import with_body
from ppfer.study.tables import MAIN, approaches, rows_of

ATTRIBUTES = ("sex", "race", "age_group")
AGE_GROUPS = ("under 30", "30 to 49", "50 and over")


def attribute_labels(table: pd.DataFrame, column: str) -> tuple[np.ndarray, list[str]]:
    """Labels of each clip and the classes' names, of a column such as "sex" or of "age_group" (see
    `AGE_GROUPS`); −1 where the table does not say.

    Raises:
        PpferError: if fewer than two groups are named, or there is no such column.
    """
    if column == "age_group":
        ages = map(years, table["age"])
        words = ["" if a is None else AGE_GROUPS[(a >= 30) + (a >= 50)] for a in ages]
    elif column not in table:
        known = ", ".join(["age_group", *table.columns])
        raise PpferError(f"the clips' table has no column {column}; it has {known}")
    else:
        words = list(table[column])
    classes = sorted(set(words) - {""})
    if len(classes) < 2:
        raise PpferError(
            f"the clips' table names {len(classes)} values of {column}; at least two are needed to "
            "measure its leakage"
        )
    return np.array([classes.index(w) if w else -1 for w in words]), classes


def attributes_of(run: Run) -> list[str]:
    """The attributes that this data set labels."""
    found = []
    for column in ATTRIBUTES:
        try:
            attribute_labels(run.table, column)
        except PpferError:
            continue
        found.append(column)
    return found


@stage("attribute/{column}", needs=("split", "identity"), notebook="08")
class Attribute(Naming):
    """A validator of one attribute: V_pl with another head, trained on original training clips."""

    trains = "attack"
    best = (("val_accuracy", max),)

    def labels(self) -> tuple[np.ndarray, list[str]]:
        """See `attribute_labels`."""
        return attribute_labels(self.run.table, self.column)

    def known(self, part: str) -> np.ndarray:
        """The clips of a part whose actor has the label."""
        index = self.run.parts[part]
        return index[self.labels()[0][index] >= 0]

    def net(self, weights: str = "") -> nn.Module:
        return new_classifier(self.config, len(self.labels()[1]), weights)

    def start(self) -> nn.Module:
        return with_body(super().start(), self.run.get("identity"))

    def batches(self) -> Callable:
        return self.draw("clips", self.labels()[0], index=self.known("train"))

    def measure(self, net: nn.Module) -> dict[str, float]:
        validation = self.known("val")
        logits = self.run.logits(net, "clips", validation)
        return {"val_accuracy": measure.accuracy(logits, self.labels()[0][validation]).value}


def attribute_table(run: Run, names: Sequence[str] | None = None) -> list[dict]:
    """Leakage of sex, race and age group on one random frame per test clip, frozen and retrained.

    Frozen: the attribute's own validator. Retrained: V_pl retrained on the protector's clips names
    a distribution over actors, and with it over what those actors are; so the second column needs
    no further training. The last row always names the commonest group: what must not be exceeded
    for nothing to have leaked.
    """
    columns = attributes_of(run)
    for column in columns:
        run.ensure(f"attribute/{column}")
    rows = rows_of(run, names, ("attack",), lambda name: attribute_row(run, name, columns))
    control = {"approach": "Always the commonest group (control)"}
    for column in columns:
        control |= dict.fromkeys((column, f"{column}_retrained"), commonest(run, column))
    return [*rows, control]


def commonest(run: Run, column: str) -> measure.Rate:
    """How often the commonest training group of a column is right of test clips."""
    truth = attribute_labels(run.table, column)[0]
    train, test = (truth[run.parts[part]] for part in ("train", "test"))
    return measure.rate(test[test >= 0] == np.bincount(train[train >= 0]).argmax())


def attribute_row(run: Run, name: str, columns: Sequence[str]) -> dict:
    """One protector's row of `attribute_table`."""
    row, store = {"approach": run.protector(name).title}, f"protected/{name}"
    index, seed = run.parts["test"], run.config.seed
    posterior = run.logits(f"attack/{name}", store, "test").softmax(-1)  # (n, T, actors)
    for column in columns:
        labels, classes = attribute_labels(run.table, column)
        known = labels[index] >= 0
        truth = labels[index[known]]
        frozen = run.logits(f"attribute/{column}", store, "test")[known]
        grouped = (posterior[known] @ actor_groups(run, labels, len(classes))).log()
        row[column] = measure.leakage(frozen, truth, seed=seed)["random_frame"]
        row[f"{column}_retrained"] = measure.leakage(grouped, truth, seed=seed)["random_frame"]
    return row


def actor_groups(run: Run, labels: np.ndarray, groups: int) -> Tensor:
    """Which group each actor is of: (actors, groups), one-hot; zeros for one without a label."""
    table = torch.zeros(len(run.classes("actor")), groups)
    rows = labels >= 0
    table[run.labels("actor")[rows], labels[rows]] = 1
    return table


def accuracy_table(
    run: Run, names: Sequence[str] | None = None, by: Sequence[str] | None = None
) -> list[dict]:
    """For whom the expression is still read: accuracy of F_u trained on each approach's clips, by
    the sex, race and age group of who is shown, or `by` other columns of the clips' table, such as
    "sentence" and "level"; columns "sex: female" and so on.
    """
    groups = groups_of(run, attributes_of(run) if by is None else by)

    def row(name: str) -> dict:
        hits = read(run, name)
        shares = {group: measure.rate(hits[here]) for group, here in groups.items() if here.any()}
        return {"approach": run.protector(name).title} | shares

    return rows_of(run, names, ("recognizer",), row)


def read(run: Run, name: str) -> np.ndarray:
    """Of which test clips F_u, trained on a protector's clips, reads the expression: (n,) bool."""
    logits = run.logits(f"recognizer/{name}", f"protected/{name}", "test")
    return measure.hits(logits, run.labels("emotion")[run.parts["test"]])


def groups_of(run: Run, by: Sequence[str]) -> dict[str, np.ndarray]:
    """Which test clips (n,) are of each group of the columns `by`: "sex: female" and so on."""
    groups = {}
    for column in by:
        labels, classes = attribute_labels(run.table, column)
        of_test = labels[run.parts["test"]]
        groups |= {f"{column}: {group}": of_test == i for i, group in enumerate(classes)}
    return groups


def grouped(run: Run, by: Sequence[str]) -> list[dict]:
    """Of every approach that the run has read, for each group of the columns `by`: test clips whose
    expression F_u reads, trained on such clips (`read`), and whose person V_pl names, trained
    again, by the whole clip (`named`).
    """
    rows, groups = [], groups_of(run, by)
    for name in dict.fromkeys((*MAIN, *approaches(run))):
        if not run.has(f"recognizer/{name}"):
            continue
        hits = {"read": read(run, name)}
        if names_people(run) and run.has(f"attack/{name}"):
            said = run.logits(f"attack/{name}", f"protected/{name}", "test").log_softmax(-1).mean(1)
            hits["named"] = measure.hits(said, run.labels("actor")[run.parts["test"]])
        for group, here in groups.items():
            row = {"approach": run.protector(name).title, "group": group}
            rows.append(row | {key: measure.rate(hit[here]) for key, hit in hits.items()})
    return rows
