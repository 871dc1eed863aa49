"""The image benchmark: its JAX arms, and the PyTorch arm where there is one."""

import numpy as np
import pytest
import scipy.stats

from benchmarks import arms
from benchmarks.throughput import images as image_throughput


@pytest.mark.slow
def test_the_jax_arms_alone_write_a_row_and_a_table(tmp_path, short_samples):
    out = tmp_path / "results" / "image.jsonl"
    options = "--jax-only --images 40 --batch-size 16 --rounds 2 --out"
    image_throughput.main([*options.split(), str(out)])
    (row,) = arms.read(out)
    assert row["samples_per_epoch"] == 32 and row["batch_size"] == 16
    for name in ("jax", "adam-lawn"):
        rates = row["samples_per_second"][name]
        assert len(rates) == 2 and min(rates) > 0
        assert 1 < row["first_epoch_loss"][name] < 4
    assert row["first_epoch_loss"]["jax"] != row["first_epoch_loss"]["adam-lawn"]
    lines = out.with_suffix(".md").read_text().splitlines()
    assert lines[-1].startswith("| cnn, float32 | 16 | ")


def test_shares_are_of_the_longer_step():
    def shares(*ours):
        rates = {"jax": [100] * len(ours), "adam-lawn": ours}
        return image_throughput.shares({"samples_per_second": rates})

    np.testing.assert_allclose(shares(80, 90, 100), [10, 0, 20])
    ours = np.random.default_rng(0).normal(90, 5, size=400)
    found = scipy.stats.bootstrap([100 - ours], np.median, method="percentile", rng=1)
    expected = np.median(100 - ours), *found.confidence_interval
    # A 90 % interval is 0.1 shorter at either end.
    np.testing.assert_allclose(shares(*ours), expected, atol=0.05)


def test_more_images_per_batch_than_there_are(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        image_throughput.main(["--batch-size=64", "--images=63", f"--out={tmp_path}"])
    assert "--images must be at least" in capsys.readouterr().err


def test_pytorch_has_the_same_networks_and_changes():
    torch = pytest.importorskip("torch")
    import jax

    import models
    from benchmarks.throughput import images_pytorch as image_pytorch

    for name, model in (("cnn", models.CNN()), ("vgg19", models.VGG19())):
        images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
        init = lambda x, model=model: model.init(jax.random.key(0), x, train=False)  # noqa: E731
        ours = jax.eval_shape(init, images)["params"]
        theirs = image_pytorch.make_model(name).parameters()
        assert sum(x.size for x in jax.tree.leaves(ours)) == sum(
            x.numel() for x in theirs
        )
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8) + 1
    torch.manual_seed(3)
    changed = image_pytorch.augment(images).numpy()
    border = np.pad(images.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)))
    for before, after in zip(border, changed, strict=True):
        crops = [before[:, i : i + 8, j : j + 8] for i in range(9) for j in range(9)]
        assert any(
            np.array_equal(after, x) or np.array_equal(after, x[..., ::-1])
            for x in crops
        )
