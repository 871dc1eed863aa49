"""Thousands of simulated trials of the noisy Rayleigh quotient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lawn_optax import nrq

# The angle is 3% of a radian in equilibrium and a gradient step contracts by about 1%,
# so that first order and differential equation are good to about 1%.
DIM, SIGMA, RATE, DECAY = 8, 1.0, 0.1, 5e-3
ANGLE = np.sqrt(2 * DECAY * RATE)
NORM = (RATE * (DIM - 1) * SIGMA**2 / (2 * DECAY)) ** 0.25
NOISE = np.sqrt(DIM - 1) * SIGMA
TRIALS, STEPS, EVERY = 2000, 1000, 5
TIMES = np.arange(0, STEPS, EVERY)
LEVELS = np.array([0.5] + [2.5] * 7)  # two of them, 2 apart
MANY = np.array([0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 4.5, 4.5])
LAW = SIGMA, RATE, DECAY


@functools.partial(jax.jit, static_argnums=2)
def _simulate(x0, spectrum, steps):
    step = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE))
    key = jax.random.key(0)
    return nrq.simulate(step, x0, spectrum, SIGMA, steps, key=key, every=EVERY)[1]


@functools.cache
def simulated(name, f0, norm0, steps=STEPS):
    """Norms, alignments and angles; the rest of x lies along the second axis."""
    x = np.zeros(DIM)
    x[:2] = np.sqrt(f0), np.sqrt(1 - f0)
    spectrum = {"levels": LEVELS, "many": MANY}[name]
    x0 = jnp.asarray(np.tile(norm0 * x, (TRIALS, 1)))
    return jax.tree.map(np.asarray, _simulate(x0, jnp.asarray(spectrum), steps))


def in_equilibrium():
    seen = simulated("levels", 0.98, NORM)
    return jax.tree.map(lambda a: a[80:], seen)  # from 10 relaxations of f on


def risk(seen):
    return 1 - seen.alignment.mean(axis=1)
