"""The studies on CIFAR-10, with made-up images: data, training, theorems, reports."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from tests.support import image_files as images
from train.__main__ import main
from train.images import augmentation
from train.images import cifar_files as image_files
from train.shuffle import make_shuffle, shuffled
from train.studies import (
    cifar,
    exponential,
)
from train.studies import rayleigh_cifar as equilibrium

COUNT = 40  # Training images.
TINY = equilibrium.Choices(
    decay=0.08, drops=(0.5,), batch_size=8, steps=160, eval_every=10, width=2,
    stages=(1,),
)  # fmt: skip
SMALL = exponential.Config(
    weight_decay=0.02, steps=16, batch_size=8, channels=2, eval_every=4
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tables = images.some_tables("cifar10", count=COUNT // 5)
    return images.write_binary(tmp_path_factory.mktemp("cifar"), tables)


@pytest.fixture(scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar, "SIDE", 8)
        patch.setattr(cifar, "TESTS", 3)
        yield


def test_the_subset_is_the_first_images_halved(folder, monkeypatch):
    monkeypatch.setattr(cifar, "IMAGES", 11)
    monkeypatch.setattr(cifar, "SIDE", 16)
    monkeypatch.setattr(cifar, "TESTS", 3)
    found, source = (
        cifar.load(folder, False),
        image_files.read_folder("cifar10", folder),
    )
    assert found.images.shape == (11, 16, 16, 3) and found.images.dtype == np.uint8
    np.testing.assert_array_equal(found.labels, source.train.labels[:11])
    np.testing.assert_array_equal(found.test_labels, source.test.labels[:3])
    large = source.train.images.astype(float)
    for n, row, column in ((0, 0, 0), (10, 15, 3), (4, 7, 8)):
        block = large[n, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        mean = np.rint(block.mean((0, 1)))
        np.testing.assert_array_equal(found.images[n, row, column], mean)
    np.testing.assert_allclose(found.mean, found.images.mean((0, 1, 2)) / 255, 1e-5)
    whole = cifar.load(folder, True)
    np.testing.assert_array_equal(whole.images, source.train.images)
    np.testing.assert_array_equal(whole.test_images, source.test.images)


def reference(data, steps, rate, decay, shared, stretch, rescaled_at):
    """The same run in NumPy, except the gradients; the rate drops at `rescaled_at`."""
    model = models.ResNet18(stages=(1,), width=2)
    key = jax.random.key(0)
    init = jax.jit(partial(model.init, train=False))
    first = init(jax.random.fold_in(key, 0), jnp.zeros((1, 8, 8, 3)))
    statistics = first["batch_stats"]
    w = {k: np.asarray(x, float) for k, x in flat(first["params"]).items()}
    kernels = sorted(k for k, x in w.items() if x.ndim == 4)
    w |= {k: stretch * w[k] for k in kernels}

    @jax.jit
    def loss(params, pixels, labels):
        inputs = augmentation.normalise(pixels.astype(jnp.float32), data.mean)
        logits, _ = model.apply(
            {"params": params, "batch_stats": statistics}, inputs, train=True,
            mutable=["batch_stats"],
        )  # fmt: skip
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return -picked.mean(), logits

    slope = jax.jit(jax.value_and_grad(lambda *a: loss(*a)[0]))
    seen = []
    for t in range(steps):
        epoch, number = divmod(t, COUNT // 8)
        shuffle = make_shuffle(
            jax.random.fold_in(jax.random.fold_in(key, 1), epoch), COUNT
        )
        rows = shuffled(shuffle, 8 * number + jnp.arange(8), COUNT)
        value, g = slope(nested(w, first["params"]), data.images[rows],
                         data.labels[rows])  # fmt: skip
        g = {k: np.asarray(x, float) for k, x in flat(g).items()}
        drop = 5.0 if t >= rescaled_at else 1.0
        new = {}
        for k, x in w.items():
            if k in kernels:
                new[k] = x - rate / drop * (g[k] + decay * x)
                if t == rescaled_at - 1:
                    new[k] = new[k] / 5**0.25
            else:
                new[k] = x - shared / drop * g[k]
        angles = [angle(w[k], new[k]) for k in kernels]
        seen.append((value, angles, [np.linalg.norm(w[k]) for k in kernels]))
        w = new
    right, total = 0, 0.0
    for part in (slice(0, 25), slice(25, 40)):
        pixels, labels = data.test_images[part], data.test_labels[part]
        mean, logits = loss(nested(w, first["params"]), pixels, labels)
        right += np.sum(np.argmax(logits, -1) == labels)
        total += mean * len(labels)
    columns = [np.array(column) for column in zip(*seen, strict=True)]
    return columns, right / COUNT, total / COUNT


def flat(tree):
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in found}


def nested(leaves, like):
    values = [jnp.asarray(leaves[k], jnp.float32) for k in flat(like)]
    return jax.tree.unflatten(jax.tree.structure(like), values)


def angle(a, b):
    cosine = np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
    return np.arccos(min(cosine, 1.0))


@pytest.mark.slow
def test_training_is_sgd_of_two_parts(folder, small, monkeypatch):
    data = cifar.load(folder, False)
    # More test images, in two parts.
    data = data._replace(test_images=data.images, test_labels=data.labels)
    monkeypatch.setattr(cifar, "_AT_ONCE", 25)
    # The number of rates is that of the other tests, so that it compiles only once.
    choices = dataclasses.replace(TINY, drops=(6 / TINY.steps,))
    setting = equilibrium.Setting(0.3, 0.1, rescale=True, stretch=1.5)
    model = models.ResNet18(stages=(1,), width=2)
    task = cifar.make_task(model, data, 8, equilibrium.optimizer, False)
    train = cifar.trainer(task, data, 8, 4)
    found = train(equilibrium.make_trial(choices, setting), 1.5)
    (loss, angles, norms), right, test_loss = reference(
        data, 8, 0.3, 0.1, 0.5, 1.5, rescaled_at=6
    )
    # Eight updates with float32 gradients of a batch of 8. Rounding of the weights
    # moves a small angle as much as a large one.
    np.testing.assert_allclose(found.loss, loss, rtol=1e-4)
    np.testing.assert_allclose(found.norm, norms, rtol=1e-4)
    np.testing.assert_allclose(found.angle, angles, rtol=0, atol=5e-3 * angles.max())
    assert norms[6, 0] < 0.8 * norms[5, 0]
    np.testing.assert_allclose(found.accuracy[-1], right, rtol=1e-6)
    np.testing.assert_allclose(found.test_loss[-1], test_loss, rtol=1e-4)


@pytest.fixture(scope="module")
def rows(folder, small):
    return equilibrium.compute(TINY, folder, False)


def test_entries_are_of_the_updates_since_the_one_before(folder, small, monkeypatch):
    rng = np.random.default_rng(0)
    history = cifar.History(
        *(rng.random(shape) for shape in ((16,), (16, 3), (16, 3), (4,), (4,)))
    )
    monkeypatch.setattr(cifar, "trainer", lambda *_: lambda *_, **__: history)
    choices = dataclasses.replace(TINY, steps=16, eval_every=4)
    line = equilibrium.compute(choices, folder, False)[0][0]
    curves = exponential.cifar_trainer(SMALL, folder, False)(lambda t: 0.1 + t, 0.5)
    np.testing.assert_array_equal(line.accuracy, history.accuracy)
    np.testing.assert_array_equal(line.test_loss, history.test_loss)
    np.testing.assert_array_equal(curves.accuracy, history.accuracy)
    np.testing.assert_allclose(curves.rate, [3.1, 7.1, 11.1, 15.1], rtol=1e-6)
    np.testing.assert_array_equal(curves.decay, 0.5)
    for k in range(4):
        part, last = range(4 * k, 4 * k + 4), 4 * k + 3
        loss = sum(history.loss[t] for t in part) / 4
        squares = sum(history.angle[t] ** 2 for t in part) / 4
        np.testing.assert_allclose([line.loss[k], curves.loss[k]], loss)
        np.testing.assert_allclose(line.angle[k], np.sqrt(squares))
        np.testing.assert_allclose(curves.angle[k], np.sqrt(squares[0]))
        np.testing.assert_array_equal(line.norm[k], history.norm[last])
        assert curves.norm[k] == history.norm[last, 0]


def test_lines_are_means_over_the_trials(folder, small, monkeypatch):
    def train(trial, *_):
        value = 1.0 + int(trial["seed"])
        shapes = (16,), (16, 3), (16, 3), (4,), (4,)
        return cifar.History(*(np.full(shape, value) for shape in shapes))

    monkeypatch.setattr(cifar, "trainer", lambda *_: train)
    choices = dataclasses.replace(TINY, steps=16, eval_every=4, seed=2, trials=3)
    line = equilibrium.compute(choices, folder, False)[0][0]  # of 3, 4 and 5
    np.testing.assert_array_equal(line.loss, 4)
    np.testing.assert_array_equal(line.accuracy, 4)
    np.testing.assert_array_equal(line.norm, 4)
    np.testing.assert_allclose(line.angle, np.sqrt(50 / 3))
    assert "means of 3 trials" in choices.describe()


@pytest.mark.slow
def test_the_claims_of_figure_3(rows):
    (base, *exchanged), (_, rescaled), (_, longer, same) = rows
    end = TINY.steps // TINY.eval_every // 2  # entries before the drop
    for line in (base, *exchanged, rescaled, longer):
        want = [np.sqrt(2 * 0.5 * 0.08)] * end + [np.sqrt(2 * 0.1 * 0.08)] * end
        np.testing.assert_allclose(line.predicted, want, rtol=1e-5)
    # Forty updates of three kernels; the prediction is of first order in 0.04.
    settled = np.sqrt(np.mean(base.angle[end - 4 : end] ** 2))
    np.testing.assert_allclose(settled, base.predicted[0], rtol=0.15)
    # Another rate and decay take another path to the equilibrium.
    assert abs(exchanged[0].loss[0] / base.loss[0] - 1) > 1e-3
    # Corollary 3, in float32; longer weights turn less.
    np.testing.assert_allclose(same.loss[:2], base.loss[:2], rtol=1e-3)
    np.testing.assert_allclose(same.norm[:2], 10 * base.norm[:2], rtol=1e-3)
    assert np.all(longer.angle[0] < 0.1 * base.angle[0])
    # Rescaled weights turn at once by the angle of the new equilibrium, others less.
    np.testing.assert_array_equal(rescaled.loss[:end], base.loss[:end])
    after = rescaled.angle[end] / base.angle[end]
    assert np.all((1.3 < after) & (after < 2.5))
    np.testing.assert_allclose(np.median(rescaled.angle[end]), want[-1], rtol=0.3)


@pytest.mark.slow
def test_the_theorem_on_a_preresnet(folder, small, monkeypatch, tmp_path, capsys):
    train = exponential.cifar_trainer(SMALL, folder, False)
    runs = exponential.equivalents(SMALL)
    names = "step decay, weight decay", "exponential equivalent"
    decayed, growing = (train(*runs[name]) for name in names)
    # float32, 16 updates.
    np.testing.assert_allclose(growing.loss, decayed.loss, rtol=1e-4)
    np.testing.assert_allclose(growing.angle, decayed.angle, rtol=2e-3)
    np.testing.assert_allclose(growing.accuracy, decayed.accuracy, atol=1e-6)
    growth = np.exp(runs[names[1]][0].log_growth)
    ratio = growing.norm / decayed.norm
    np.testing.assert_allclose(ratio, growth[3::4], rtol=1e-4)
    assert growth[15] > 1.05
    np.testing.assert_allclose(decayed.rate, [0.1, 0.1, 0.01, 0.001], rtol=1e-6)
    # The command uses the same program.
    monkeypatch.setattr(exponential, "CIFAR", SMALL)
    monkeypatch.setattr(exponential, "cifar_trainer", lambda *arguments: train)
    command(capsys, "exponential", folder, tmp_path, ["exponential", "together"])


@pytest.mark.slow
def test_the_theorem_on_a_preresnet_in_float64(folder, small, x64, monkeypatch):
    runs = exponential.equivalents(SMALL)

    def pair(first, second):
        train = exponential.cifar_trainer(SMALL, folder, False)
        return train(*runs[first]), train(*runs[second])

    steps = "step decay, weight decay", "exponential equivalent"
    for names in (steps, ("cosine, weight decay", "exponential cosine")):
        decayed, growing = pair(*names)
        assert decayed.loss.dtype == np.float64
        np.testing.assert_allclose(growing.loss, decayed.loss, rtol=1e-10)
        np.testing.assert_allclose(growing.angle, decayed.angle, rtol=1e-8)
        np.testing.assert_array_equal(growing.accuracy, decayed.accuracy)
    # The usual epsilon of batch norm is not scaled with the kernels.
    usual = partial(models.PreResNet, depth=8, width=2, dtype=jnp.float64)
    monkeypatch.setattr(exponential.models, "PreResNet", lambda *_, **__: usual())
    decayed, growing = pair(*steps)
    assert abs(growing.loss[-1] / decayed.loss[-1] - 1) > 1e-8


def command(capsys, name, folder, out, figures, *flags):
    out = out / "run"
    arguments = ["study", name, f"--data-dir={folder}", f"--out={out}", *flags]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert str(folder) not in text
    assert sorted(path.stem for path in out.glob("*.png")) == figures
    options = json.loads((out / "config.json").read_text())["config"]
    assert options["real_data"] and options["full"] == bool(flags)
    return text


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--full",)])
def test_the_command_takes_real_data(
    flags, rows, folder, monkeypatch, tmp_path, capsys
):
    asked = []
    monkeypatch.setattr(equilibrium, "compute", lambda *a: asked.append(a[:3]) or rows)
    choices = dataclasses.replace(TINY, width=3)
    monkeypatch.setattr(equilibrium, "FULL" if flags else "Choices", choices)
    if not flags:
        monkeypatch.setattr(equilibrium, "Choices", lambda: choices)
    text = command(capsys, "rayleigh", folder, tmp_path, ["equilibrium"], *flags)
    assert asked == [(choices, folder, bool(flags))]
    what = "cropped and mirrored" if flags else "the first 2,048 training"
    assert what in text and "| a " in text and text.count("\n| c ") == 3


def test_full_size_is_the_paper_s(folder):
    full = equilibrium.FULL
    assert equilibrium.settings(full)[0].keys() >= {"rate 0.5, decay 0.001"}
    rates = equilibrium.make_trial(full, equilibrium.Setting(0.5, 1e-3))["rates"]
    drops = np.flatnonzero(np.diff(rates)) + 1
    np.testing.assert_array_equal(drops, [60 * 195, 120 * 195, 160 * 195])
    np.testing.assert_allclose(rates[drops], [0.1, 0.02, 0.004], rtol=1e-6)
    sizes = full.width, full.stages, full.batch_size, full.steps
    assert sizes == (64, (2, 2, 2, 2), 256, 200 * 195) and full.trials == 10
    # The images are augmented.
    data = cifar.load(folder, True)
    task = cifar.make_task(models.ResNet18(), data, 8, equilibrium.optimizer, True)
    assert task.degrees == 0.0 and task.side == 32
