"""Data sets for recommenders: splits, candidates and statistics."""

import numpy as np
import pytest

from tests.support.rating_files import (
    RAW,
    SPLIT,
    some_ratings,
    some_split,
    write_raw,
    write_split,
)
from train.errors import InputError
from train.recommenders import data as interactions


def histories(rows):
    """{user: items, oldest first}: each pair at its latest time and row."""
    latest = {}
    for number, (user, item, _, when) in enumerate(rows):
        own = latest.setdefault(user, {})
        own[item] = max(own.get(item, (-1, -1)), (when, number))
    return {
        user: [(item, own[item][0]) for item in sorted(own, key=own.__getitem__)]
        for user, own in sorted(latest.items())
    }


def pairs(data):
    return [tuple(row) for row in data.train.tolist()]


# ------------------------------------------------------------------- splitting


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("seed", range(5))
def test_ratings_are_split_like_a_slow_loop_does(name, seed, tmp_path):
    rows = some_ratings(seed)
    data = interactions.load(name, write_raw(tmp_path, name, rows))
    every = histories(rows)
    kept = {user: own for user, own in every.items() if len(own) >= 20}
    assert 0 < len(kept) < len(every)
    items = sorted({item for own in kept.values() for item, _ in own})
    expected = [[items.index(item) for item, _ in own] for own in kept.values()]
    assert (data.num_users, data.num_items) == (len(kept), len(items))
    assert data.test_items.tolist() == [own[-1] for own in expected]
    assert pairs(data) == [(u, i) for u, own in enumerate(expected) for i in own[:-1]]
    assert data.train.dtype == data.test_items.dtype == np.int32
    assert data.negatives is None
    assert data.counts == {
        "rows read": len(rows),
        "repeated pairs dropped": len(rows) - sum(map(len, every.values())),
        "users with fewer than 20, removed": len(every) - len(kept),
        "users whose latest two tie in time": sum(
            own[-1][1] == own[-2][1] for own in kept.values()
        ),
    }
    assert min(list(data.counts.values())[1:]) > 0


def test_among_ties_in_time_the_last_row_of_the_file_is_held_out(tmp_path):
    rows = [(7, item, 1, 5) for item in (4, 9, 2, *range(20, 40), 3)]
    rows += [(7, 50, 1, 4)]
    data = interactions.load("ml-100k", write_raw(tmp_path, "ml-100k", rows))
    items = sorted(row[1] for row in rows)
    assert data.test_items.tolist() == [items.index(3)]
    assert pairs(data)[0] == (0, items.index(50))


def test_twenty_different_items_are_enough(tmp_path):
    rows = [(user, i, 1, i) for user, n in ((1, 19), (2, 20)) for i in range(n)]
    rows.append((1, 5, 1, 50))  # Twenty rows, nineteen items.
    data = interactions.load("ml-100k", write_raw(tmp_path, "ml-100k", rows))
    assert data.num_users == 1 and len(data.train) == 19
    few = write_raw(tmp_path / "few", "ml-100k", rows[:19])
    with pytest.raises(InputError, match="no user has at least 20 different items"):
        interactions.load("ml-100k", few)


@pytest.mark.parametrize("name", SPLIT)
def test_files_that_come_split_keep_their_split_and_numbers(name, tmp_path):
    train, test, negatives = some_split(0)
    order = [3, 0, 5, 1, 4, 2]  # The test files need not be sorted by user.
    folder = write_split(
        tmp_path, name, train, [test[i] for i in order], [negatives[i] for i in order]
    )
    data = interactions.load(name, folder)
    own = histories(train)
    assert data.num_users == 6
    used = [row[1] for row in train + test] + sum(negatives, [])
    assert data.num_items == max(used) + 1
    assert pairs(data) == [(u, i) for u in own for i, _ in own[u]]
    assert data.test_items.tolist() == [row[1] for row in test]
    np.testing.assert_array_equal(data.negatives, negatives)
    assert data.counts == {
        "rows read": len(train),
        "repeated pairs dropped": len(train) - sum(map(len, own.values())),
        "test pairs that are training pairs too, kept": 1,
        "users with the test item among the negatives": 1,
        "users with training items among the negatives": 1,
        "users with repeated negatives": 1,
    }
    candidates = interactions.file_candidates(data)
    assert candidates.shape == (1, 6, 100) and candidates.dtype == np.int32
    np.testing.assert_array_equal(candidates[0, :, 0], data.test_items)
    np.testing.assert_array_equal(candidates[0, :, 1:], negatives)


def test_split_files_may_lose_users_with_few_interactions(tmp_path, monkeypatch):
    monkeypatch.setattr(interactions, "MINIMUM", 10)
    train, test, negatives = some_split(0)
    folder = write_split(tmp_path, "pinterest-20", train, test, negatives)
    rows = [sum(row[0] == user for row in train) for user in range(6)]
    kept = [user for user in range(6) if rows[user] + 1 >= 10]
    whole = interactions.load("pinterest-20", folder)
    data = interactions.load("pinterest-20", folder, remove_inactive=True)
    own = histories(train)
    # Repeated pairs count, and the test item.
    assert any(len(own[user]) + 1 < 10 for user in kept) and 9 in rows
    assert 0 < data.num_users == len(kept) < 6
    assert pairs(data) == [(n, i) for n, user in enumerate(kept) for i, _ in own[user]]
    np.testing.assert_array_equal(data.test_items, whole.test_items[kept])
    np.testing.assert_array_equal(data.negatives, whole.negatives[kept])
    assert data.counts["users with fewer than 20, removed"] == 6 - len(kept)
    monkeypatch.setattr(interactions, "MINIMUM", 12)
    with pytest.raises(InputError, match="no user has at least 12 interactions"):
        interactions.load("pinterest-20", folder, remove_inactive=True)


@pytest.mark.parametrize("name", ["ml-100k", "pinterest-20"])
def test_validation_holds_out_the_last_training_item(name, tmp_path):
    if name == "ml-100k":
        folder = write_raw(tmp_path, name, some_ratings(1))
    else:
        folder = write_split(tmp_path, name, *some_split(1))
    data = interactions.load(name, folder)
    held = interactions.hold_out(data)
    for user in range(data.num_users):
        items = data.train[data.train[:, 0] == user, 1].tolist()
        assert held.test_items[user] == items[-1]
        assert held.train[held.train[:, 0] == user, 1].tolist() == items[:-1]
    assert len(held.train) == len(data.train) - data.num_users
    assert held.negatives is None
    assert (held.num_users, held.num_items) == (data.num_users, data.num_items)
    with pytest.raises(InputError, match="no candidates of its own; draw them"):
        interactions.file_candidates(held)


def test_validation_needs_two_training_items_of_each_user(tmp_path):
    train, test, negatives = some_split(0)
    train = [row for row in train if row[0] != 3] + [(3, 1, 1, 0)]
    folder = write_split(tmp_path, "pinterest-20", train, test, negatives)
    data = interactions.load("pinterest-20", folder)
    with pytest.raises(InputError, match="user 3 has too few training items"):
        interactions.hold_out(data)


# ------------------------------------------------------------------ candidates


def few_users(*seen, items):
    """Users who have rated some first items each; the last of these is held out."""
    train = [(user, i) for user, number in enumerate(seen) for i in range(number - 1)]
    test = np.array(seen, np.int32) - 1
    train = np.array(train, np.int32)
    return interactions.Interactions("toy", len(seen), items, train, test, None, {})


@pytest.mark.parametrize("seed", range(3))
def test_candidates_are_the_test_item_and_99_that_the_user_has_not_met(seed, tmp_path):
    rows = some_ratings(seed, users=40, items=200)
    whole = interactions.load("ml-100k", write_raw(tmp_path, "ml-100k", rows))
    for data in (whole, interactions.hold_out(whole)):
        drawn = interactions.draw_candidates(data, seed, 3)
        assert drawn.shape == (3, data.num_users, 100) and drawn.dtype == np.int32
        for draw in drawn.tolist():
            for user, (first, *others) in enumerate(draw):
                own = set(data.train[data.train[:, 0] == user, 1].tolist())
                assert first == data.test_items[user]
                assert len(set(others)) == 99
                assert not set(others) & (own | {first})
                assert 0 <= min(others) and max(others) < data.num_items
        again = interactions.draw_candidates(data, seed, 2)
        np.testing.assert_array_equal(again, drawn[:2])
        assert not np.array_equal(drawn[0], drawn[1])
        assert not np.array_equal(
            drawn[0], interactions.draw_candidates(data, seed + 1, 1)[0]
        )


def test_every_unseen_item_is_drawn_equally_often(monkeypatch):
    monkeypatch.setattr(interactions, "NEGATIVES", 2)  # Few, to show a small bias.
    data = few_users(2, 4, 5, items=7)
    data.train[0, 1], data.train[1, 1] = 3, 6
    draws = 2000
    drawn = interactions.draw_candidates(data, 0, draws)
    for user in range(3):
        own = data.train[data.train[:, 0] == user, 1].tolist()
        unseen = np.setdiff1d(np.arange(7), [*own, data.test_items[user]])
        counts = np.bincount(drawn[:, user, 1:].ravel(), minlength=7)
        assert counts.sum() == counts[unseen].sum() == 2 * draws
        share = 2 / len(unseen)
        slack = 5 * (draws * share * (1 - share)) ** 0.5
        assert np.abs(counts[unseen] - draws * share).max() <= slack


def test_users_with_too_few_unseen_items_are_named():
    with pytest.raises(InputError, match="toy: user 1 has 98 unseen items"):
        interactions.draw_candidates(few_users(3, 22, items=120), 0, 1)
    with pytest.raises(InputError, match="seed .* must be at least 0; got -1"):
        interactions.draw_candidates(few_users(3, items=120), -1, 1)


# ------------------------------------------------------------------ statistics


def test_statistics_stand_beside_those_of_the_papers(tmp_path):
    folder = write_split(tmp_path, "pinterest-20", *some_split(0))
    text = interactions.statistics(interactions.load("pinterest-20", folder))
    cells = [[x.strip() for x in line.split("|")] for line in text.splitlines()]
    assert ["", "users", "6", "54,906", "-54,900", ""] in cells
    assert ["", "interactions", "55", "about 1,500,000", "-1,499,945", ""] in cells
    assert "users with the test item among the negatives: 1;" in text
