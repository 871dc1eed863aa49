"""Tiny recommenders: made-up data, tasks, and an epoch in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from models import NCF
from tests.support import rating_files as ratings
from train.recommenders import programs as recommender
from train.recommenders import sampling
from train.recommenders.data import Interactions
from train.recommenders.programs import Data, Task
from train.shuffle import make_shuffle

USERS, ITEMS, OWN, DRAWS = 12, 60, 10, 2
TRIAL = {"seed": np.uint32(7)}


def interactions(seed=0):
    """Ten training items of each user."""
    rng = np.random.default_rng(seed)
    own = np.stack([rng.permutation(ITEMS)[: OWN + 1] for _ in range(USERS)])
    users = np.repeat(np.arange(USERS), OWN)
    train = np.stack([users, own[:, :OWN].ravel()], axis=1).astype(np.int32)
    test = own[:, OWN].astype(np.int32)
    return Interactions("ml-100k", USERS, ITEMS, train, test, None, {})


def device_data(data, seed=0):
    """Candidates drawn with replacement: ties, training items, the test item again."""
    rng = np.random.default_rng(seed)
    candidates = rng.integers(ITEMS, size=(DRAWS, USERS, 100))
    candidates[:, :, 0] = data.test_items
    probes = data.train[::OWN, 1]
    arrays = (jnp.asarray(x, jnp.int32) for x in (candidates, probes))
    return Data(sampling.positives(data), *arrays)


def make_task(optimizer, loss, batch_size=250, parts=1, init="torch", **options):
    """Without `options`, on one device."""
    model = NCF(USERS, ITEMS, initialization=init)
    return Task(
        model=model,
        num_positives=USERS * OWN,
        batch_size=batch_size,
        parts=parts,
        optimizer=lambda trial: optimizer,
        loss=loss,
        **options,
    )


def start(task, trial=TRIAL):
    """The initial state in NumPy; in float64 under x64."""
    state = jax.jit(lambda: recommender.start(task, trial))()
    x64 = jax.config.read("jax_enable_x64")
    wide = lambda x: x.astype("float64") if x64 and x.dtype == "float32" else x  # noqa: E731
    return jax.tree.map(lambda x: wide(np.asarray(x)), state)


def batches(task, data, epoch, trial=TRIAL):
    """The samples of each step, without padding: users, items, labels."""
    size, steps = task.epoch_size, task.steps_per_epoch
    key = jax.random.fold_in(jax.random.key(trial["seed"]), 1)
    key = jax.random.fold_in(key, epoch)
    shuffle = make_shuffle(jax.random.fold_in(key, steps), size)
    bits = [
        jax.random.bits(jax.random.fold_in(key, i), (task.batch_size,), jnp.uint32)
        for i in range(steps)
    ]
    whole = jax.jit(sampling.samples, static_argnums=4)(
        data.train,
        shuffle,
        jnp.arange(size, dtype=jnp.int32),
        jnp.concatenate(bits)[:size],
        ITEMS,
    )
    ends = range(task.batch_size, size, task.batch_size)
    return list(zip(*(np.split(np.asarray(x), ends) for x in whole), strict=True))


def logits(params, users, items):
    """The 3-layer tower in NumPy."""
    return _forward(params, users, items)[0]


def _forward(params, users, items):
    tables = [params[f"{x}_embedding"]["embedding"] for x in ("user", "item")]
    inputs = [np.concatenate([tables[0][users], tables[1][items]], axis=-1)]
    for i in range(3):
        layer = params[f"dense_{i}"]
        output = inputs[-1] @ layer["kernel"] + layer["bias"]
        inputs.append(np.maximum(output, 0))
    return output[..., 0], inputs


def gradient(params, users, items, slopes):
    """Gradient of the sum of logits times `slopes`, by backpropagation in NumPy."""
    _, inputs = _forward(params, users, items)
    grads, back = {}, slopes[:, None]
    for i in (2, 1, 0):
        grads[f"dense_{i}"] = {"kernel": inputs[i].T @ back, "bias": back.sum(0)}
        back = back @ params[f"dense_{i}"]["kernel"].T
        back = back * (inputs[i] > 0) if i else back
    for name, rows, part in zip(
        ("user", "item"), (users, items), np.split(back, 2, axis=1), strict=True
    ):
        table = np.zeros_like(params[f"{name}_embedding"]["embedding"])
        np.add.at(table, rows, part)
        grads[f"{name}_embedding"] = {"embedding": table}
    return grads


def write_ratings(folder, seed=0):
    """Thirty users with 25 of 150 items each, three in four from their half."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(30):
        chances = np.where(np.arange(150) % 2 == user % 2, 3.0, 1.0)
        items = rng.choice(150, 25, replace=False, p=chances / chances.sum())
        rows += [(user + 1, item + 1, 3, time) for time, item in enumerate(items)]
    return ratings.write_raw(folder, "ml-100k", rows)
