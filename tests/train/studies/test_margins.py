"""The study of margins: its network, training and noise against NumPy; small runs."""

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

from tests.support import image_files
from tests.support.findings import reported
from train.studies import cifar
from train.studies import margins as study
from train.studies import margins_network as homogeneous
from train.studies import margins_noise as perturbed


@pytest.fixture(scope="module")
def data():
    return homogeneous.digits()


def kernels_of(widths=(5, 4), seed=3):
    start = homogeneous.initial(widths, seed, homogeneous.digits())
    return start, [np.asarray(w, np.float64) for _, w in sorted(start.items())]


def forward(ws, x):
    """The outputs of all layers after their ReLU, and the scores."""
    hidden = [x]
    for w in ws[:-1]:
        hidden.append(np.maximum(hidden[-1] @ w, 0))
    return hidden, hidden[-1] @ ws[-1]


def softmax(scores):
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def entropy(scores, labels):
    return -np.mean(np.log(softmax(scores)[np.arange(len(labels)), labels]))


def test_inputs_end_with_a_constant_and_scores_scale_with_every_layer(data):
    assert data.inputs.shape == (898, 65) and data.test_inputs.shape == (450, 65)
    assert np.all(data.inputs[:, -1] == 1) and np.all(data.test_inputs[:, -1] == 1)
    start, ws = kernels_of()
    x = data.inputs[:9]
    scores = homogeneous.logits_of(start, x)
    # float32, sums of 65 terms.
    np.testing.assert_allclose(scores, forward(ws, x)[1], rtol=1e-4, atol=1e-5)
    for layer in start:
        scaled = {**start, layer: 2 * start[layer]}
        np.testing.assert_array_equal(homogeneous.logits_of(scaled, x), 2 * scores)


def test_updates_are_those_of_sgd_with_momentum_on_the_first_inputs(data):
    # There is only one input to draw, so every batch consists of it.
    start, ws = kernels_of()
    x, y = np.asarray(data.inputs[:1], np.float64), int(data.labels[0])
    speed = [np.zeros_like(w) for w in ws]
    for _ in range(3):
        hidden, scores = forward(ws, x)
        back = softmax(scores) - np.eye(10)[y]
        for k in reversed(range(3)):
            gradient = hidden[k].T @ back
            back = (back @ ws[k].T) * (hidden[k] > 0)
            speed[k] = 0.9 * speed[k] + gradient
        ws = [w - 0.1 * v for w, v in zip(ws, speed, strict=True)]
    stack = lambda x: jnp.asarray(x)[None]  # noqa: E731
    trained = homogeneous.train(
        homogeneous.Training(
            jax.tree.map(stack, start),
            stack(data.labels),
            stack(1),
            stack(0),
            data.inputs.at[1:].set(jnp.nan),
            0.1,
            0.9,
        ),
        steps=3,
        batch_size=7,
    )
    for (_, found), w in zip(sorted(trained.items()), ws, strict=True):
        np.testing.assert_allclose(found[0], w, rtol=1e-4, atol=1e-6)
    # The fifth input is drawn, too.
    poisoned = homogeneous.train(
        homogeneous.Training(
            jax.tree.map(stack, start),
            stack(data.labels),
            stack(5),
            stack(0),
            data.inputs.at[4].set(jnp.nan),
            0.1,
            0.9,
        ),
        steps=3,
        batch_size=7,
    )
    assert np.isnan(poisoned["dense_0"]).any()


def test_random_labels_replace_a_share(data):
    for share in (0.0, 0.5, 1.0):
        labels = homogeneous.randomised(data.labels, share, 0)
        # One in ten draws repeats the old label; four standard deviations of 898.
        changed = np.mean(labels != data.labels)
        assert abs(changed - 0.9 * share) <= 4 * np.sqrt(0.25 * share / 898)
        assert labels.dtype == data.labels.dtype and set(np.asarray(labels)) <= set(
            range(10)
        )


def test_an_outcome_is_what_dense_algebra_says(data):
    start, ws = kernels_of()
    one = homogeneous.outcome(start, data.labels, 50, data, share=0.5, stretch=2.0)
    assert (one.size, one.share, one.stretch) == (50, 0.5, 2.0)
    y, test_y = np.asarray(data.labels[:50]), np.asarray(data.test_labels)
    units = [w / np.linalg.norm(w) for w in ws]
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4)  # noqa: E731
    close(one.product, np.prod([np.linalg.norm(w) for w in ws]))
    for weights, margins, loss, test_loss in (
        (ws, one.margins, one.training_loss, one.test_loss),
        (units, one.normalized, one.normalized_loss, one.normalized_test_loss),
    ):
        scores = forward(weights, np.asarray(data.inputs[:50], np.float64))[1]
        test = forward(weights, np.asarray(data.test_inputs, np.float64))[1]
        others = np.where(np.eye(10)[y] > 0, -np.inf, scores).max(-1)
        expected = np.sort(scores[np.arange(50), y] - others)
        np.testing.assert_allclose(margins, expected, rtol=1e-3, atol=1e-5)
        close(loss, entropy(scores, y))
        close(test_loss, entropy(test, test_y))
        close(one.training_error, np.mean(scores.argmax(-1) != y))
        close(one.test_error, np.mean(test.argmax(-1) != test_y))


KICKS = perturbed.Kicks(hidden=(8, 8), size=50, every=3, blocks=(2, 4, 6))


def test_noise_comes_in_its_blocks_and_has_the_size_of_the_layers(data):
    # Without training, only noise changes the weights.
    still = dataclasses.replace(KICKS, rate=0.0)
    found = perturbed.perturbed(still, data)
    np.testing.assert_array_equal(found.updates, [3, 6, 9, 12, 15, 18])
    ws = kernels_of((8, 8), 0)[1]
    norm = np.sqrt(sum(np.sum(w**2) for w in ws))
    np.testing.assert_allclose(found.norm[0], norm, rtol=1e-5)
    np.testing.assert_allclose(found.norm[1, :2], norm, rtol=1e-5)
    # 664 weights of mean nearly 0: each noise adds a sixteenth of their square.
    np.testing.assert_allclose(found.norm[1, 2] / norm, 17**0.5 / 4, rtol=0.03)
    np.testing.assert_allclose(found.norm[1, 3:] / norm, 17 / 16, rtol=0.04)
    assert np.ptp(found.norm[1, 3:]) == 0
    scores = forward(ws, np.asarray(data.inputs[:50], np.float64))[1]
    test = forward(ws, np.asarray(data.test_inputs, np.float64))[1]
    y, test_y = np.asarray(data.labels[:50]), np.asarray(data.test_labels)
    np.testing.assert_allclose(found.training_loss[0], entropy(scores, y), rtol=1e-5)
    np.testing.assert_allclose(found.test_loss[0], entropy(test, test_y), rtol=1e-5)
    error = np.mean(test.argmax(-1) != test_y)
    np.testing.assert_allclose(found.test_error[0], error, rtol=1e-5)


def test_noise_between_updates_is_trained_away(data):
    kicks = perturbed.Kicks(hidden=(16, 16), size=50, every=150, blocks=(3, 6, 8))
    found = perturbed.perturbed(kicks, data)
    np.testing.assert_array_equal(*found.norm[:, :3])
    assert np.all(found.training_loss[:, -1] < 0.01)
    assert found.norm[1, -1] > 1.1 * found.norm[0, -1]


SMALL = study.Config(
    hidden=(24, 24),
    steps=400,
    batch_size=30,
    sizes=(30, 60),
    shares=(0.0, 1.0),
    stretches=(2.0,),
    widths=(4, 8),
    width_size=40,
    width_seeds=2,
    kicks=KICKS,
)


@pytest.mark.slow
@pytest.mark.usefixtures("all_work_is_reported")
def test_small_runs_are_reported_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "Config", lambda: SMALL)
    kept = []
    monkeypatch.setattr(
        study,
        "findings",
        lambda *parts, say=study.findings: kept.append(parts) or say(*parts),
    )
    text = reported(tmp_path, study.report())
    parts = kept[0]
    trained, wide = parts[1:3]
    order = [(one.size, one.share, one.stretch) for one in trained]
    assert order == [(30, 0, 1), (60, 0, 1), (30, 1, 1), (60, 1, 1), (60, 0, 2)]
    assert all(one.training_error == 0 for one in trained)
    assert {one.margins.dtype for one in trained} == {np.dtype(np.float64)}
    true, random, stretched = trained[1], trained[3], trained[4]
    assert true.test_error < 0.4 and random.test_error > 0.8
    # Margins have one size before normalisation, but not after it.
    ratio = lambda key: np.median(getattr(true, key)) / np.median(getattr(random, key))  # noqa: E731
    assert ratio("margins") < 2 < ratio("normalized")
    assert stretched.product > 1.5 * true.product
    assert [*wide] == [65 * 4 + 16 + 40, 65 * 8 + 64 + 80]
    assert all(len(ones) == 2 for ones in wide.values())
    assert "| 60     | 100%   | 1     | 0.0 " in text and "means over 2 seeds" in text
    assert matplotlib.image.imread(tmp_path / "margins.png").shape[:2] == (880, 1760)
    # On other data there are the same tables, and no verdict.
    real = study.findings(*parts[:4], "some images")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(row in real for row in rows) and "on some images" in real
    assert "yes" in text and "yes" not in real and "not here" not in real


# --- CIFAR-10 -------------------------------------------------------------------------


def convolved(images, w, stride):
    """A 3x3 convolution whose output has as many rows as there are strides."""
    side = images.shape[1]
    out = -(-side // stride)
    needed = (out - 1) * stride + 3 - side
    before = needed // 2
    wide = np.pad(images, ((0, 0), (before, needed - before), (before, needed), (0, 0)))
    found = np.zeros((len(images), out, out, w.shape[-1]))
    for row in range(out):
        for column in range(out):
            part = wide[:, stride * row :, stride * column :][:, :3, :3]
            found[:, row, column] = np.einsum("nijc,ijcd->nd", part, w)
    return found


def test_the_network_of_the_paper_is_convolutions_without_pooling():
    rng = np.random.default_rng(0)
    images = np.float32(rng.normal(size=(2, 6, 6, 4)))
    data = homogeneous.Data(images, None, None, None)
    kernels = homogeneous.initial((3, 5), 0, data)
    first, second, dense = (np.asarray(kernels[k], np.float64) for k in sorted(kernels))
    hidden = np.maximum(convolved(images, first, 2), 0)
    hidden = np.maximum(convolved(hidden, second, 1), 0).reshape(2, -1)
    scores = homogeneous.logits_of(kernels, images)
    np.testing.assert_allclose(scores, hidden @ dense, rtol=1e-4, atol=1e-5)
    full = data._replace(inputs=np.zeros((1, 32, 32, 4), np.float32))
    sizes = [w.size for w in homogeneous.initial(study.FULL.hidden, 0, full).values()]
    # "Approximately 10,000 parameters", and those of the constant channel.
    assert sizes == [576, 2304, 2304, 2304, 2560]


def test_the_images_of_cifar_10_get_a_constant(tmp_path, monkeypatch):
    folder = image_files.write_binary(
        tmp_path, image_files.some_tables("cifar10", count=4)
    )
    monkeypatch.setattr(cifar, "IMAGES", 7)
    asked = []

    def stop(config, data, progress):
        asked.append((config, data))
        raise InterruptedError

    monkeypatch.setattr(study, "sizes_and_labels", stop)
    for full in (False, True):
        with pytest.raises(InterruptedError):
            study.report(folder, full)
    (small, vectors), (large, images) = asked
    assert (small, large) == (study.CIFAR, study.FULL)
    assert vectors.inputs.shape == (7, 769) and images.inputs.shape == (20, 32, 32, 4)
    np.testing.assert_array_equal(vectors.inputs[:, -1], 1)
    np.testing.assert_array_equal(images.inputs[..., -1], 1)
    pixels = np.asarray(images.inputs[..., :3])
    np.testing.assert_allclose(pixels.mean((0, 1, 2)), 0, atol=1e-6)
    assert 0.9 < np.ptp(pixels) < 1.1
    assert vectors.test_inputs.shape[1] == 769
