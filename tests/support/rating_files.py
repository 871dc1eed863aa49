"""Tiny rating files in the original formats, for the tests of data sets."""

import numpy as np
import pytest

from train.errors import InputError
from train.recommenders import rating_files

RAW = {"ml-100k": ("u.data", "\t"), "ml-1m": ("ratings.dat", "::")}
SPLIT = ("ml-1m-ncf", "pinterest-20")


def lines(rows, separator="\t"):
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def some_ratings(seed, users=12, items=130):
    """Rows in the order of a file, with ties in time, and pairs that repeat."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in 3 * rng.permutation(users) + 1:
        for item in 2 * rng.choice(items, rng.integers(17, 31), replace=False) + 5:
            rows.append((int(user), int(item), int(rng.integers(1, 6))))
    rows += [rows[i] for i in rng.integers(0, len(rows), 20)]
    times = rng.integers(10, 16, len(rows)).tolist()
    return [(*rows[i], times[i]) for i in rng.permutation(len(rows)).tolist()]


def write_raw(folder, name, rows):
    file, separator = RAW[name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(lines(rows, separator))
    return folder


def some_split(seed, users=6, items=140):
    """Three tables: training rows, test rows, and the negatives of each test row."""
    rng = np.random.default_rng(seed)
    train, test, negatives = [], [], []
    for user in range(users):
        own = rng.permutation(items).tolist()
        train += [(user, item, 3, int(rng.integers(4))) for item in own[:8]]
        train += [(user, own[0], 3, 2)] * (user % 3)
        test.append((user, own[8], 4, 9))
        negatives.append(own[9:108])
    negatives[1][5] = test[1][1]
    negatives[2][0], negatives[2][1] = train[20][1], negatives[2][7]
    train.append((4, test[4][1], 1, 0))
    return train, test, negatives


def write_split(folder, name, train, test, negatives):
    prefix = rating_files.SOURCES[name].files[0].removesuffix(".train.rating")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}.train.rating").write_text(lines(train))
    (folder / f"{prefix}.test.rating").write_text(lines(test))
    first = [f"({user},{item})" for user, item, *_ in test]
    rows = [(pair, *others) for pair, others in zip(first, negatives, strict=True)]
    (folder / f"{prefix}.test.negative").write_text(lines(rows))
    return folder


def same(one, other):
    for field in ("train", "test_items", "negatives"):
        first, second = getattr(one, field), getattr(other, field)
        assert (first is None) == (second is None)
        if first is not None:
            assert first.dtype == second.dtype == np.int32
            np.testing.assert_array_equal(first, second)
    scalars = ("name", "num_users", "num_items", "counts")
    assert all(getattr(one, x) == getattr(other, x) for x in scalars)


def refused(call, *parts):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message
