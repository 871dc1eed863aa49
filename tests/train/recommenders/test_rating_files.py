"""Rating files: every fault is one line with the file and the row."""

import pytest

from tests.support.rating_files import (
    lines,
    refused,
    same,
    some_split,
    write_split,
)
from train.devices import Devices
from train.recommenders import data as interactions
from train.recommenders import experiment, options


@pytest.mark.parametrize(
    "old, new, parts",
    [
        ("\t2\t1\t", "\t2\t", ["row 3: expected user, item", "got '1\\t2\\t", "again"]),
        ("\t2\t1\t", "\t2\t1\t8\t", ["row 3:"]),
        ("\t2\t1\t", "\tx\t1\t", ["row 3:"]),
        ("\t2\t1\t", "\t2.5\t1\t", ["row 3:"]),
        ("\t2\t1\t", "\t-2\t1\t", ["row 3:"]),
        ("\t2\t1\t", "\t\t1\t", ["row 3:"]),
        ("\t2\t1\t", "\t2147483648\t1\t", ["row 3:", "from 0 to 2147483647"]),
        ("\t2\t1\t", "\t9999999999999999999999\t1\t", ["row 3:"]),
        ("\t2\t1\t", "\n\t2\t1\t", ["row 3:", "got '1'"]),
        ("\t2\t1\t", "\t2\t1\t0\n\n1\t40\t1\t", ["row 4:", "got ''"]),
        ("\t2\t1\t", "\udce9\t2\t1\t", ["row 3:"]),
        ("\t2\t1\t2\n", "\t2\t1\t2# a note\n", ["row 3:"]),
        ("\t2\t1\t2\n", "\t2\t1\t2\n\n", ["row 4:", "got ''"]),
        ("\t2\t1\t", "\t2\tx.0\t", ["row 3:"]),
        ("\t2\t1\t2\n", "\t2\t1\t2.0\n", ["row 3:"]),
        ("*", "", ["u.data is empty"]),
        ("*", "\n \n", ["u.data is empty"]),
    ],
)
def test_bad_rows_are_named(old, new, parts, tmp_path):
    text = lines([(1, i, 1, i) for i in range(20)])
    assert old == "*" or text.count(old) == 1
    text = new if old == "*" else text.replace(old, new)
    (tmp_path / "u.data").write_text(text, errors="surrogateescape", newline="")
    refused(lambda: interactions.load("ml-100k", tmp_path), "u.data", *parts)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.removesuffix("\n"),
        lambda text: text + "\n \n\n",
        lambda text: text.replace("\t2\t1\t", "\t2\t1.0\t"),
        lambda text: text.replace("\t2\t1\t", "\t2\t3.5\t"),
    ],
    ids=["mark", "no last end", "blank last lines", "decimals", "half a star"],
)
def test_what_is_harmless_is_read(change, tmp_path):
    text = lines([(1, i, 1, i) for i in range(20)])
    same(
        *(
            interactions.load("ml-100k", write(tmp_path / name, content))
            for name, content in (("as it was", text), ("changed", change(text)))
        )
    )


def write(folder, text):
    folder.mkdir()
    (folder / "u.data").write_text(text, encoding="utf-8")
    return folder


def test_lines_may_end_as_on_windows(tmp_path):
    text = lines([(1, i, 1, i) for i in range(20)])
    (tmp_path / "u.data").write_text(text, newline="\r\n")
    assert interactions.load("ml-100k", tmp_path).num_items == 20
    (tmp_path / "u.data").write_text(text.replace("\t2\t", "\t-2\t"), newline="\r\n")
    refused(lambda: interactions.load("ml-100k", tmp_path), "u.data, row 3:")


@pytest.mark.parametrize(
    "change, parts",
    [
        (lambda a, b, c: c[2].pop(), [".test.negative, row 3: expected (user,item)"]),
        (lambda a, b, c: c[2].append(1), [".test.negative, row 3:"]),
        (lambda a, b, c: b.append(b[0]) or c.append(c[0]), ["row 7: this user has a"]),
        (
            lambda a, b, c: a.insert(4, (6, 1, 1, 0)),
            [".train.rating, row 5: this user"],
        ),
        (
            lambda a, b, c: b.append((6, 1, 1, 1)) or c.append(c[0]),
            [".test.rating, row 7: this user has no row in", ".train.rating"],
        ),
        (
            lambda a, b, c: (
                a.append((8, 1, 1, 1)) or b.append((8, 1, 1, 1)) or c.append(c[0])
            ),
            [".test.rating, row 7: the 7 users must have the numbers from 0"],
        ),
    ],
)
def test_split_files_that_do_not_fit_together_are_refused(change, parts, tmp_path):
    tables = some_split(0)
    change(*tables)
    folder = write_split(tmp_path, "ml-1m-ncf", *tables)
    refused(lambda: interactions.load("ml-1m-ncf", folder), *parts, "again")


@pytest.mark.parametrize(
    "old, new, parts",
    [
        ("(3,", "(2,", ["row 4: not the user and item of that row of"]),
        ("(3,", "3,", ["row 4: expected (user,item) and 99"]),
        ("(3,", "(", ["row 4: expected (user,item) and 99"]),
    ],
)
def test_first_field_of_the_negatives_is_checked(old, new, parts, tmp_path):
    folder = write_split(tmp_path, "ml-1m-ncf", *some_split(0))
    path = folder / "ml-1m.test.negative"
    path.write_text(path.read_text().replace(old, new))
    refused(lambda: interactions.load("ml-1m-ncf", folder), path.name, *parts)


def test_a_cut_negative_file_is_refused(tmp_path):
    folder = write_split(tmp_path, "ml-1m-ncf", *some_split(0))
    path = folder / "ml-1m.test.negative"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    parts = "ml-1m.test.negative has 4 rows and ml-1m.test.rating has 6"
    refused(lambda: interactions.load("ml-1m-ncf", folder), parts)


def test_item_numbers_that_no_memory_holds_are_refused(tmp_path):
    train, *others = some_split(0)
    train.append((0, 10**9, 3, 0))
    folder = write_split(tmp_path, "ml-1m-ncf", train, *others)
    data = interactions.load("ml-1m-ncf", folder)
    config = options.resolve(options.Config(dataset="ml-1m-ncf", data_dir=folder))
    message = "embeddings of 6 users and 1,000,000,001 items need about 2,384 GiB"
    refused(lambda: experiment.make_task(config, data, Devices(limit=1)), message)


# --------------------------------------------------------------------- folders


def test_the_folder_or_the_one_around_it_is_found(tmp_path):
    tables = some_split(0)
    write_split(tmp_path / "b", "pinterest-20", *tables)
    direct = interactions.load("pinterest-20", tmp_path / "b")
    same(interactions.load("pinterest-20", tmp_path), direct)
    write_split(tmp_path / "a", "pinterest-20", *tables)
    refused(
        lambda: interactions.load("pinterest-20", tmp_path),
        "has several folders with",
        ": a, b; give --data-dir one of them",
    )
    (tmp_path / "a").rename(tmp_path / "pinterest-20")
    write_split(tmp_path / "b", "pinterest-20", *some_split(1))
    same(interactions.load("pinterest-20", tmp_path), direct)


def test_missing_folders_and_files_are_named(tmp_path):
    load = interactions.load
    refused(lambda: load("ml-10k", tmp_path), "no data set 'ml-10k'; choose from: ml-")
    refused(lambda: load("ml-1m", tmp_path / "no"), "no is not a folder")
    refused(lambda: load("ml-1m", tmp_path), "lacks ratings.dat; --data-dir for ml-1m")
    folder = write_split(tmp_path / "part", "ml-1m-ncf", *some_split(0))
    (folder / "ml-1m.test.negative").unlink()
    refused(lambda: load("ml-1m-ncf", tmp_path), "part lacks ml-1m.test.negative;")
