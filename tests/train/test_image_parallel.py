"""Image classifiers in two processes give the numbers of one."""

import images
import pytest
from processes import one_and_two
from runs import close

from train.parallel import MODES

OPTIONS = "image --optimizer adam-lawn --learning-rate 0.01 --batch-size 16 --epochs 4"
OPTIONS += " --free-epochs 1 --warmup-epochs 1 --eval-every 2 --quiet"


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_give_the_metrics_of_one(mode, tmp_path, compilation_cache):
    tables = images.some_tables("cifar10", count=12)
    files = images.write_binary(tmp_path / "data", tables)
    command = f"{OPTIONS} --parallel {mode} --data-dir {files}"
    first, second = one_and_two(command.split(), tmp_path, compilation_cache)
    assert [row["constrained"] for row in second] == [1, 1]
    for one, two in zip(first, second, strict=True):
        assert one.keys() == two.keys()
        # One image may change sides: of four, and of sixty.
        loose = {"accuracy": 0.26, "ece": 0.26, "train_accuracy": 0.02}
        for name in one:
            close(two[name], one[name], rtol=1e-4, atol=loose.get(name, 1e-4))
