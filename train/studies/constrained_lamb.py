"""LAMB on separable data: without weight decay the norm grows exponentially.

After Gupta et al. 2021, arXiv:2108.05839, Appendix D.4.3, which has no numbers. The
data are random.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lawn_optax as lawn
from train.report import markdown
from train.runs.progress import QUIET, ProgressReport

RATE, UPDATES = 0.05, 300
_lamb = partial(lawn.lamb, RATE, switch_step=UPDATES)  # no constrained phase
OPTIMIZERS = {
    "LAMB": _lamb(),
    "LAMB+": lawn.lamb_plus(RATE, switch_step=UPDATES),
    "LAMB, weight decay 0.01": _lamb(weight_decay=0.01),
    "LAMB-LAWN": _lamb(switch_step=0),
}


class Curves(NamedTuple):
    """One optimizer, update by update."""

    norm: np.ndarray  # float64[UPDATES + 1]; of the weights
    length: np.ndarray  # float64[UPDATES]; of an update, as a share of the norm
    gradient: np.ndarray  # float64[UPDATES]; norm


def curves(progress: ProgressReport = QUIET) -> dict[str, Curves]:
    """The curves of all optimizers, by name. An optimizer is one unit of progress."""
    found = {}
    for name, tx in OPTIMIZERS.items():
        with progress.part(name), jax.enable_x64(True):
            found[name] = _curves(tx)
    return found


def _curves(tx: optax.GradientTransformation) -> Curves:
    # Points times their labels, separable through the origin with room.
    x = np.random.default_rng(0).normal(size=(50, 4))
    score = x @ np.array([1.0, -1.0, 0.5, 0.2])
    z = jnp.asarray((x * np.sign(score)[:, None])[np.abs(score) > 0.3])

    def body(carry, _):
        w, state = carry
        g = jax.grad(lambda w: jnp.mean(jax.nn.softplus(-z @ w)))(w)
        step, state = tx.update(g, state, w)
        norms = (jnp.linalg.norm(x) for x in (w + step, step, g))
        return (w + step, state), tuple(norms)

    w = jnp.asarray([0.3, 0.4, -0.2, 0.1])
    run = jax.jit(lambda w: jax.lax.scan(body, (w, tx.init(w)), length=UPDATES)[1])
    norm, length, gradient = map(np.asarray, run(w))
    norm = np.append(np.linalg.norm(w), norm)
    return Curves(norm, length / norm[:-1], gradient)


def report(progress: ProgressReport) -> str:
    """The findings."""
    rows = [
        [
            name,
            f"{run.norm[-1]:,.{0 if run.norm[-1] > 100 else 1}f}",
            f"{100 * run.length[-1]:.1f}",
            f"{run.gradient[-1]:.2g}",
        ]
        for name, run in curves(progress).items()
    ]
    header = ["optimizer", "norm of the weights", "update, % of it", "gradient"]
    return (
        "The LAWN paper (arXiv, D.4.3) calls LAMB unstable without weight decay, as its"
        " trust ratio can grow, and caps the ratio at 1 (LAMB+). Separable data, the"
        f" logistic loss, four weights, norm 0.55 at first, rate {RATE:g}, in float64,"
        f" after {UPDATES} updates:\n\n{markdown.table(header, rows)}"
    )
