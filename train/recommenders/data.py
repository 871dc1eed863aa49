"""Implicit feedback for recommenders, split by leave-one-out.

As in He et al. 2017, arXiv:1708.05031, and Gupta et al. 2021, arXiv:2108.05839 (D.3),
every rating is a positive. The latest one of a user is the test item, which is ranked
among 99 items that the user has not rated.
"""

import dataclasses
from pathlib import Path

import numpy as np

from train.devices import memory
from train.errors import InputError, require
from train.recommenders import rating_files
from train.recommenders.rating_files import NEGATIVES, Ratings
from train.report import markdown

DATASETS = tuple(rating_files.SOURCES)
TABLE_7 = {  # Gupta et al. 2021: users, items, approximate interactions.
    "ml-100k": (943, 1682, 100_000),
    "ml-1m": (6040, 3706, 1_000_000),
    "ml-1m-ncf": (6040, 3706, 1_000_000),
    "pinterest-20": (54_906, 9909, 1_500_000),
}
MINIMUM = 20  # Interactions; the papers remove users with fewer.
_REMOVED = f"users with fewer than {MINIMUM}, removed"


@dataclasses.dataclass(frozen=True)
class Interactions:
    """Implicit feedback, split by leave-one-out."""

    name: str
    num_users: int
    num_items: int
    train: np.ndarray
    """int32[n, 2]: user, item; sorted by user and then by age, each pair once."""
    test_items: np.ndarray
    """int32[users]: the held-out item of each user."""
    negatives: np.ndarray | None
    """int32[users, 99]: the other candidates, if the files have them."""
    counts: dict[str, int]
    """Counts from preprocessing, by description; for printing."""


def load(
    name: str, data_dir: Path | None = None, remove_inactive: bool = False
) -> Interactions:
    """Reads a data set and splits it.

    Args:
        name: One of `DATASETS`. ``ml-100k`` and ``ml-1m`` are ratings, and are split
            here by the latest one; the others are already split, with 99 negatives per
            user.
        data_dir: Folder with the original files, or the folder around it. `None`
            downloads them once through TensorFlow Datasets.
        remove_inactive: Whether users with fewer than `MINIMUM` interactions are
            removed from split data sets too, as in Gupta et al. 2021, D.3. Ratings are
            always split without them.

    Returns:
        The interactions. Users and items are numbered from 0: ratings get new numbers
        in the order of the original ones, split data sets keep theirs, but for the
        numbers of users where some are removed.

    Raises:
        InputError: If files are missing, truncated or malformed, or a download fails.
    """
    require(
        name in DATASETS, f"no data set {name!r}; choose from: {', '.join(DATASETS)}"
    )
    if data_dir is None:
        # It imports TensorFlow Datasets, which local files do not need.
        from train.recommenders import ratings_tfds

        return _preprocess(name, ratings_tfds.load(name), remove_inactive)
    try:
        folder = rating_files.find_folder(name, data_dir)
        found = rating_files.read(name, lambda file: (folder / file).read_bytes())
    except OSError as error:
        raise InputError(
            f"cannot read {error.filename} ({error.strerror}); check --data-dir"
        ) from None
    return _preprocess(name, found, remove_inactive)


def _preprocess(name: str, ratings: Ratings, remove_inactive: bool) -> Interactions:
    counts = {"rows read": len(ratings.rows)}
    if ratings.candidates is not None and remove_inactive:
        ratings, counts[_REMOVED] = _active(name, ratings.rows, ratings.candidates)
    rows = _oldest_first(ratings.rows)
    counts["repeated pairs dropped"] = len(ratings.rows) - len(rows)
    if ratings.candidates is not None:
        return _as_split(name, rows, ratings.candidates, counts)
    users, lengths = np.unique(rows[:, 0], return_counts=True)
    rows = rows[np.repeat(lengths >= MINIMUM, lengths)]
    require(len(rows) > 0, f"{name}: no user has at least {MINIMUM} different items")
    last = np.flatnonzero(_is_last(rows))
    ties = rows[last, 3] == rows[last - 1, 3]
    counts[_REMOVED] = int((lengths < MINIMUM).sum())
    counts["users whose latest two tie in time"] = int(ties.sum())
    users, user_numbers = np.unique(rows[:, 0], return_inverse=True)
    items, item_numbers = np.unique(rows[:, 1], return_inverse=True)
    pairs = np.stack([user_numbers, item_numbers], axis=1).astype(np.int32)
    train, test = np.delete(pairs, last, axis=0), pairs[last, 1]
    return Interactions(name, len(users), len(items), train, test, None, counts)


def _active(name: str, rows: np.ndarray, candidates: np.ndarray) -> tuple[Ratings, int]:
    """The users of a split data set with enough interactions, numbered from 0, and how
    many others there are.

    The test item is an interaction too, and a repeated pair counts each time: so the
    share of users that is left fits Table 7 (removed: 0.5 % on Pinterest; if different
    items counted, it would be 5 %).
    """
    kept = np.bincount(rows[:, 0]) + 1 >= MINIMUM
    require(bool(kept.any()), f"{name}: no user has at least {MINIMUM} interactions")
    rows = rows[kept[rows[:, 0]]]
    rows[:, 0] = (np.cumsum(kept) - 1)[rows[:, 0]]
    return Ratings(rows, candidates[kept]), int((~kept).sum())


def _oldest_first(rows: np.ndarray) -> np.ndarray:
    """Sorts by user, time and row of the file; keeps the latest row of each pair."""
    rows = rows[np.lexsort((rows[:, 3], rows[:, 0]))]
    pairs = rows[:, 0] * (rating_files.LARGEST + 1) + rows[:, 1]
    _, from_end = np.unique(pairs[::-1], return_index=True)
    return rows[np.sort(len(rows) - 1 - from_end)]


def _is_last(rows: np.ndarray) -> np.ndarray:
    """Whether each row is the last one of its user, bool[n]."""
    return np.diff(rows[:, 0], append=-1) != 0


def _as_split(
    name: str, rows: np.ndarray, candidates: np.ndarray, counts: dict[str, int]
) -> Interactions:
    """Keeps the split and the numbers of the files, as He et al. do."""
    test, negatives = candidates[:, 0], candidates[:, 1:]
    num_items = int(max(rows[:, 1].max(), candidates.max())) + 1
    users = np.arange(len(candidates))[:, None]
    is_positive = np.isin(users * num_items + negatives, _pairs(rows, num_items))
    ordered = np.sort(negatives, axis=1)
    found = {
        "test pairs that are training pairs too, kept": rows[:, 1] == test[rows[:, 0]],
        "users with the test item among the negatives": negatives == test[:, None],
        "users with training items among the negatives": is_positive,
        "users with repeated negatives": ordered[:, 1:] == ordered[:, :-1],
    }
    for what, where in found.items():
        counts[what] = int(where.any(axis=tuple(range(1, where.ndim))).sum())
    rows, test, negatives = (x.astype(np.int32) for x in (rows, test, negatives))
    train = rows[:, :2]
    return Interactions(
        name, len(candidates), num_items, train, test, negatives, counts
    )


def _pairs(rows: np.ndarray, num_items: int) -> np.ndarray:
    """Encodes each pair of user and item as one number, int64[n]."""
    return rows[:, 0].astype(np.int64) * num_items + rows[:, 1]


def hold_out(data: Interactions) -> Interactions:
    """Makes a validation split, in which the last training item is the test item.

    Args:
        data: Interactions from `load`. Their test items count as items that the user
            has not rated.

    Returns:
        The interactions without the original test items, and without the negatives of
        the files.

    Raises:
        InputError: If a user has only one training item.
    """
    is_last = _is_last(data.train)
    few = np.bincount(data.train[:, 0], minlength=data.num_users) < 2
    require(
        not few.any(),
        f"{data.name}: user {few.argmax()} has too few training items to hold one out"
        " for validation",
    )
    return dataclasses.replace(
        data,
        train=data.train[~is_last],
        test_items=data.train[is_last, 1],
        negatives=None,
    )


def draw_candidates(data: Interactions, seed: int, draws: int) -> np.ndarray:
    """Draws the items among which each user's test item is ranked.

    Args:
        data: Interactions from `load` or `hold_out`.
        seed: Seed of the generator, at least 0. A draw does not depend on `draws`.
        draws: Number of independent draws.

    Returns:
        int32[draws, users, 100]: the test item, then 99 different items that are
        neither the test item nor among the user's training items.

    Raises:
        InputError: If a user has fewer than 99 such items.
    """
    require(seed >= 0, f"the seed of the candidates must be at least 0; got {seed}")
    users = np.arange(data.num_users)
    test = np.stack([users, data.test_items], axis=1)
    seen = np.unique(_pairs(np.concatenate([data.train, test]), data.num_items))
    seen_users, seen_items = np.divmod(seen, data.num_items)
    known = np.bincount(seen_users, minlength=data.num_users)
    unseen = data.num_items - known
    require(
        unseen.min() >= NEGATIVES,
        f"{data.name}: user {unseen.argmin()} has {unseen.min()} unseen items, fewer"
        f" than the {NEGATIVES} candidates beside the test item",
    )
    # The unseen item of rank r is r + the number of seen items below it, which are
    # those with at most r unseen items below them.
    starts = np.cumsum(known) - known
    below = seen_items - (np.arange(len(seen)) - starts[seen_users])
    below += seen_users * (data.num_items + 1)
    size = draws * data.num_users * (1 + NEGATIVES) * np.dtype(np.int32).itemsize
    most = memory() // 2 * draws // max(size, 1)
    require(
        size <= memory() // 2,
        f"{draws:,} draws of candidates need {size / 2**30:,.0f} GiB; at most {most:,}"
        " fit half the memory, see --candidate-draws",
    )
    result = np.empty((draws, data.num_users, 1 + NEGATIVES), np.int32)
    result[:, :, 0] = data.test_items
    for draw in range(draws):
        ranks = _distinct(np.random.default_rng([seed, draw]), unseen)
        keys = ranks + users[:, None] * (data.num_items + 1)
        skipped = np.searchsorted(below, keys, side="right") - starts[:, None]
        result[draw, :, 1:] = ranks + skipped
    return result


def _distinct(rng: np.random.Generator, limits: np.ndarray) -> np.ndarray:
    """Draws 99 different numbers below each limit, by Floyd's algorithm."""
    chosen = np.full((len(limits), NEGATIVES), -1)
    for i in range(NEGATIVES):
        top = limits - NEGATIVES + i
        number = rng.integers(0, top + 1)
        taken = (chosen == number[:, None]).any(axis=1)
        chosen[:, i] = np.where(taken, top, number)
    return chosen


def file_candidates(data: Interactions) -> np.ndarray:
    """The candidates of the files.

    Args:
        data: Interactions from `load`.

    Returns:
        int32[1, users, 100]: the test item, then the 99 others of the files, which may
        include the test item again.

    Raises:
        InputError: If the files have no candidates.
    """
    if data.negatives is None:
        raise InputError(f"{data.name} has no candidates of its own; draw them instead")
    return np.concatenate([data.test_items[:, None], data.negatives], axis=1)[None]


def statistics(data: Interactions) -> str:
    """Compares the sizes with those of the papers, and lists counts from preprocessing.

    Args:
        data: Interactions from `load`.

    Returns:
        A Markdown table and one line.
    """
    sizes = (data.num_users, data.num_items, len(data.train) + data.num_users)
    rows = []
    names = ("users", "items", "interactions")
    for what, size, theirs in zip(names, sizes, TABLE_7[data.name], strict=True):
        about = "about " if what == "interactions" else ""
        difference = f"{size - theirs:+,}" if size != theirs else "none"
        rows.append([what, f"{size:,}", f"{about}{theirs:,}", difference])
    header = [data.name, "here", "arXiv:2108.05839, Table 7", "difference"]
    counts = "; ".join(f"{what}: {count:,}" for what, count in data.counts.items())
    return f"{markdown.table(header, rows)}\n\nFound in the files: {counts}."
