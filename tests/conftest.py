"""What all tests share: eight CPU devices, one compilation cache, strict settings."""

import atexit
import collections
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

# Shells start background jobs with Ctrl-C ignored, which processes would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # The workers of pytest-xdist and the processes that tests start inherit it: equal
    # programs compile once.
    CACHE = tempfile.mkdtemp(prefix="lawn-compiled-")
    atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax  # noqa: E402
import pytest  # noqa: E402

from tests.support import compilation  # noqa: E402


def _without_flax() -> list[str]:
    """The test files that cannot run here, because the trainer is not installed."""
    if importlib.util.find_spec("flax"):
        return []
    needs = re.compile(r"^(import|from) (flax|orbax|models|train)\b", re.MULTILINE)
    here = Path(__file__).parent
    of_library = (here / "lawn_optax").rglob("test_*.py")
    found = [str(path) for path in of_library if needs.search(path.read_text())]
    return [*found, *(str(here / name) for name in ("benchmarks", "models", "train"))]


collect_ignore = _without_flax()


def pytest_report_header(config):
    if collect_ignore:
        names = ", ".join(os.path.relpath(path) for path in collect_ignore)
        return f"not collected, because Flax is not installed: {names}"
    return None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """One more than there are cores: some tests wait for processes of their own."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests of one file stay together, so that its fixtures are made once."""
    if config.getvalue("dist") != "load":  # which is what `-n auto` means
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


SLOW = Path(__file__).parent / "slow.txt"
SECONDS = 1.0  # From which a test is slow, on two cores that run three tests.
durations = collections.Counter()


def pytest_addoption(parser):
    parser.addoption(
        "--add-slow", action="store_true", help=f"add slow tests to tests/{SLOW.name}"
    )


def pytest_collection_modifyitems(items):
    slow = set(SLOW.read_text().splitlines())
    for item in items:
        if item.nodeid in slow:
            item.add_marker(pytest.mark.slow)


def _compiles_fast(item) -> bool:
    """Whether this is a test that does not ask for programs as users have them."""
    here = Path(__file__).parent in item.path.parents
    return here and not item.get_closest_marker("usual_compilation")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    fast = _compiles_fast(item)
    with compilation.fast() if fast else contextlib.nullcontext():
        report = yield
    if nextitem and _compiles_fast(nextitem) != fast:
        jax.clear_caches()  # so that it does not meet programs of the other kind
    return report


def pytest_runtest_logreport(report):
    durations[report.nodeid] += report.duration


def pytest_sessionfinish(session):
    config = session.config
    if not config.getoption("--add-slow") or hasattr(config, "workerinput"):
        return
    found = {name for name, seconds in durations.items() if seconds >= SECONDS}
    names = sorted(found | set(SLOW.read_text().splitlines()))
    SLOW.write_text("".join(f"{name}\n" for name in names))


@pytest.fixture(autouse=True)
def no_rank_promotion():
    """Strict in `tests/` only: the documentation's examples are ordinary code."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    """Runs a test with 64-bit types."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
