"""Draws docs/picture.png, the picture of the README.

    python docs/picture.py            # needs the extra `train`; half a minute on a CPU

Left: one constrained update on the sphere of one group, as the library computes it: the
gradient, its projection to the tangent plane, and the retraction to the captured norm.
The numbers are made up so that the steps can be told apart.

Right: a run with and without LAWN. It is the README's example: the 1,797 digits of
scikit-learn in one batch, a 64-64-10 ReLU network, `nnx.Rngs(0)`, Adam at rate 0.01,
and the same with `lawn.wrap(..., switch_step=50)`, for 1,000 updates instead of 300.
Neither is tuned. The picture shows what the method does to a run, not that it helps.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from matplotlib.patches import Arc, Wedge
from sklearn.datasets import load_digits

import lawn_optax as lawn

SWITCH, UPDATES = 50, 1_000
# Okabe and Ito's colours, distinct to colour-blind readers.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"


def train(tx):
    """Norm of all weights and median margin after each update."""
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        nnx.Linear(64, 64, rngs=rngs), nnx.relu, nnx.Linear(64, 10, rngs=rngs)
    )
    graph, params = nnx.split(model, nnx.Param)

    def loss_fn(params):
        logits = nnx.merge(graph, params)(images)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, jnp.median(lawn.metrics.multiclass_margin(logits, labels))

    def update(carry, _):
        params, state = carry
        grads, margin = jax.grad(loss_fn, has_aux=True)(params)
        updates, state = tx.update(grads, state, params)
        seen = optax.tree.norm(params), margin
        return (optax.apply_updates(params, updates), state), seen

    run = jax.jit(lambda carry: jax.lax.scan(update, carry, None, UPDATES)[1])
    return [np.asarray(x) for x in run((params, tx.init(params)))]


def arrow(axes, start, end, colour, **style):
    axes.annotate(
        "",
        xy=end,
        xytext=start,
        arrowprops={
            "arrowstyle": "-|>,head_width=0.35,head_length=0.7",
            "color": colour,
            "linewidth": 2.4,
            "shrinkA": 0,
            "shrinkB": 0,
            **style,
        },
    )


def draw_sphere(axes):
    """One update of weights w of norm c = 1, in the plane of w and the gradient."""
    turn = np.deg2rad(98)
    w = np.array([np.cos(turn), np.sin(turn)])
    tangent = np.array([w[1], -w[0]])
    step = 0.74 * tangent + 0.36 * w  # minus the gradient, times the learning rate
    projected = step - (step @ w) * w
    new = (w + projected) / np.linalg.norm(w + projected)

    axes.add_patch(Wedge((0, 0), 1, 32, 128, facecolor="#E3EEF6", edgecolor="none"))
    axes.add_patch(Arc((0, 0), 2, 2, theta1=32, theta2=128, color=BLUE, lw=2.5))
    axes.plot(*(w + np.outer([-0.42, 0.9], tangent)).T, color=GREY, lw=1.2, ls="--")
    axes.plot(*np.array([w + step, w + projected]).T, color=GREY, lw=1.6, ls=":")
    arrow(axes, (0, 0), w, "black")
    arrow(axes, (0, 0), new, BLUE)
    arrow(axes, w, w + step, ORANGE)
    arrow(axes, w, w + projected, GREEN)
    arrow(axes, w + projected, new, BLUE)
    axes.plot(0, 0, "o", color="black", ms=6)

    def text(at, label, colour, align="left"):
        axes.text(*at, label, color=colour, fontsize=15, ha=align, va="center")

    text(0.5 * w + [-0.04, 0], "$w$", "black", "right")
    text(0.5 * new + [0.06, -0.02], "next $w$", BLUE)
    text(w + step + [-0.02, 0.1], "1  gradient step", ORANGE, "center")
    text(w + projected + [0.07, 0.13], "2  projected to\n    the tangent", GREEN)
    text(new + [0.17, -0.04], "3  rescaled to\n    the norm $c$", BLUE)
    text((-0.62, 0.6), "$\\|w\\| = c$", BLUE, "right")
    axes.set(xlim=(-0.95, 1.3), ylim=(-0.06, 1.62), aspect="equal")
    axes.set_axis_off()


def draw_run(axes, adam, lawn_adam, title):
    steps = np.arange(UPDATES)
    axes.plot(steps, adam, color=ORANGE, lw=2.5)
    axes.plot(steps, lawn_adam, color=BLUE, lw=2.5)
    axes.axvline(SWITCH, color=GREY, lw=1.2, ls="--")
    axes.set_title(title, fontsize=14, loc="left")
    axes.tick_params(labelsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(0, UPDATES)


def main():
    adam = train(optax.adam(1e-2))
    wrapped = train(lawn.wrap(optax.adam(1e-2), switch_step=SWITCH))

    figure = plt.figure(figsize=(11, 4.6), layout="constrained", facecolor="white")
    left, right = figure.subfigures(1, 2, width_ratios=(1.05, 1))
    draw_sphere(left.subplots())
    norm, margin = right.subplots(2, 1, sharex=True)
    draw_run(norm, adam[0], wrapped[0], "norm of the weights")
    draw_run(margin, adam[1], wrapped[1], "median margin")
    right_edge = {"x": UPDATES, "fontsize": 14, "ha": "right"}
    norm.text(y=adam[0][-1] - 5.5, s="Adam", color=ORANGE, **right_edge)
    norm.text(y=wrapped[0][-1] + 1.2, s="Adam with LAWN", color=BLUE, **right_edge)
    norm.text(SWITCH + 12, 9.5, "switch", color=GREY, fontsize=13)
    margin.set_xlabel("update", fontsize=13)
    path = Path(__file__).with_name("picture.png")
    figure.savefig(path, dpi=150, metadata={"Software": None})
    for name, values in (("Adam", adam), ("Adam with LAWN", wrapped)):
        print(f"{name}: norm {values[0][-1]:.1f}, median margin {values[1][-1]:.1f}")


if __name__ == "__main__":
    main()
