"""How clips are dealt out to training, validation and test: the paper's closed set, held-out
values, folds of actors.
"""

import math

import numpy as np
import pandas as pd

from ppfer.base.errors import PpferError


def split(
    table: pd.DataFrame,
    *,
    test: float = 0.3,
    val: float = 0.1,
    seed: int = 0,
    by: str | None = None,
) -> dict[str, np.ndarray]:
    """Deals clips out to train, val and test.

    By default the paper's closed set (§4.1): floor(test * N) test clips (2,232 of 7,442), dealt out
    so that every actor, and every emotion of an actor as far as there are two clips of it, is on
    both sides in proportion. Validation is carved out of the rest in the same way. A table with a
    column `split` (DFEW) keeps its own test clips, and its validation clips if it names some.

    Args:
        table: rows with clip, actor, emotion. Their order does not count.
        test: share of all clips, within (0, 1).
        val: share of the clips that are not test, within [0, 1).
        by: a column, such as "sentence", of which whole values are held out for the test: those,
            drawn by seed, whose clips come closest to `test`.

    Returns:
        {"train", "val", "test"}: disjoint, sorted int64 row numbers that cover the table.

    Raises:
        PpferError: fewer than two actors, too few clips, `by` names no column or one with a single
            value, or a test or validation emotion (or actor) that training would never see.
    """
    if not 0 < test < 1 or not 0 <= val < 1:
        what = "test must lie within (0, 1) and val within [0, 1)"
        raise PpferError(f"{what}; they are {test} and {val}")

    # in the order of the names, so that the table's own order does not count
    table = table.reset_index(drop=True)
    rng = np.random.default_rng(seed)
    order = np.argsort(table["clip"].to_numpy(str), kind="stable")
    given = table.get("split", pd.Series("", table.index)).to_numpy(str)
    official = bool(np.isin(given, ["train", "val", "test"]).all())
    people = table["actor"].nunique()
    if not official and people < 2:
        raise PpferError(
            f"the clips show {people} actor; to tell people apart, and to hide who they are, "
            "at least two are needed"
        )

    # the test part: held-out values, the data set's own, or a share of each actor
    if by:
        held_out = _held_out(table, by, test, rng)
        in_test = table[by].isin(held_out).to_numpy()[order]
        tested, rest = order[in_test], order[~in_test]
    elif official:
        tested, rest = order[given[order] == "test"], order[given[order] != "test"]
    else:
        tested, rest = _carve(table, order, test, rng)
    if not len(rest):
        raise PpferError("every clip is a test clip; none is left for training")

    # the validation part: the data set's own, or a share of what is left
    if official and not by and (given == "val").any():
        checked, rest = (rest[given[rest] == name] for name in ("val", "train"))
    else:
        checked, rest = _carve(table, rest, val, rng) if val else (rest[:0], rest)
    parts = {"train": rest, "val": checked, "test": tested}
    parts = {name: np.sort(rows).astype(np.int64) for name, rows in parts.items()}

    # nobody and nothing is tested that training never sees
    for column in ("emotion",) if by == "actor" else ("emotion", "actor"):
        values = {name: set(table[column].iloc[rows]) for name, rows in parts.items()}
        if unseen := sorted((values["val"] | values["test"]) - values["train"]):
            raise PpferError(
                f"no training clip shows the {column} {', '.join(unseen)}; "
                "give more clips of it, take it out, or lower test and val"
            )
    return parts


def actor_folds(
    table: pd.DataFrame, k: int = 5, seed: int = 0, val: float = 0.1
) -> list[dict[str, np.ndarray]]:
    """Actor-independent folds, for the recognizer alone: k dictionaries as `split` returns. No
    actor of a fold's test or val is in its train, and every clip is in exactly one fold's test.

    Args:
        table: rows with actor.
        val: share of the remaining clips, in whole actors (at least one), that validates.

    Raises:
        PpferError: too few actors for k folds with someone left to train on and to validate on.
    """
    actors = np.array(sorted(table["actor"].unique()))
    if not 2 <= k <= len(actors) or len(actors) - math.ceil(len(actors) / k) < 1 + (val > 0):
        raise PpferError(f"{len(actors)} actors are too few for {k} folds that share none")
    rng, folds = np.random.default_rng(seed), []
    for people in np.array_split(rng.permutation(actors), k):
        tested = table["actor"].isin(people).to_numpy()
        validating = _held_out(table[~tested], "actor", val, rng) if val else []
        checked = table["actor"].isin(validating).to_numpy()
        rows = {"train": ~tested & ~checked, "val": checked, "test": tested}
        folds.append({name: np.flatnonzero(part).astype(np.int64) for name, part in rows.items()})
    return folds


def _held_out(table: pd.DataFrame, by: str, share: float, rng: np.random.Generator) -> list[str]:
    """Values of a column, in random order, whose rows come closest to `share` of the table."""
    if by not in table:
        raise PpferError(
            f"there is no column {by} to split by; there are {', '.join(table.columns)}"
        )
    counts = table[by].value_counts().sort_index()
    if len(counts) < 2:
        raise PpferError(f"every clip has the same {by}; to split by it, at least two are needed")
    values = rng.permutation(counts.index.to_numpy(str))
    distance = np.abs(np.cumsum(counts[values].to_numpy())[:-1] - share * len(table))
    return list(values[: int(distance.argmin()) + 1])


def _carve(
    table: pd.DataFrame, rows: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Takes floor(share * rows), at least one, in proportion of actors, then of their emotions."""
    total = max(1, int(share * len(rows) + 1e-9))
    actor, emotion = (table[column].to_numpy(str)[rows] for column in ("actor", "emotion"))
    actors, sizes = np.unique(actor, return_counts=True)
    words, kind = np.unique(emotion, return_inverse=True)
    owed, drawn = np.zeros(len(words)), []  # what rounding has kept from each emotion so far
    for name, seats in zip(actors, _apportion(sizes, total, 0, rng), strict=True):
        cells = [rows[(actor == name) & (kind == k)] for k in range(len(words))]
        counts = np.array([len(cell) for cell in cells])
        places = _apportion(counts, seats, owed, rng)
        owed += counts * (seats / counts.sum()) - places
        drawn += [rng.permutation(cell)[:n] for cell, n in zip(cells, places, strict=True)]
    chosen = np.concatenate(drawn)
    return chosen, rows[~np.isin(rows, chosen)]


def _apportion(
    sizes: np.ndarray, total: int, owed: np.ndarray | float, rng: np.random.Generator
) -> np.ndarray:
    """Seats for groups in proportion to their sizes, summing to `total`, by largest remainder; ties
    are drawn.

    Where the total allows, every group of two or more has a clip on either side, and a group of one
    stays behind.
    """
    least, most = (sizes > 1).astype(int), np.maximum(sizes - 1, 0)
    if total < least.sum():
        least = np.zeros_like(sizes)
    if total > most.sum():
        most = sizes
    quota = sizes * (total / sizes.sum())
    seats = np.clip(np.floor(quota + 1e-9).astype(int), least, most)
    wish = quota + owed + 1e-6 * rng.random(len(sizes))  # ties
    while missing := total - seats.sum():
        can_change = seats < most if missing > 0 else seats > least
        gap = np.where(can_change, (wish - seats) * np.sign(missing), -np.inf)
        seats[gap.argmax()] += np.sign(missing)
    return seats
