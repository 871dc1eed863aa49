"""A slow, obvious reference in NumPy float64, written from the papers alone.

"Alg. n" is an algorithm of Gupta et al. 2021, arXiv:2108.05839; "sub." is "LAWN, ICLR
submission". Each group is gathered into one vector w (Appendix C: weight and bias of a
layer "as a whole"), goes through the listing on its own, and is scattered back.
"""

from collections.abc import Callable, Mapping

import numpy as np

Leaves = dict[str, np.ndarray]
# Leaves that share one norm, or (leaves, axes kept): one norm per index of those axes.
Groups = Mapping[str, list[str] | tuple[list[str], int | tuple[int, ...]]]
# (state, group name, w, g, constrained?, lambda) -> r; the step is w - eta * r.
Direction = Callable[
    ["Reference", str, np.ndarray, np.ndarray, bool, float], np.ndarray
]


def float64(tree: Leaves) -> Leaves:
    """A copy in float64; what would lose digits or an imaginary part is refused."""
    return {k: np.asarray(x).astype(float, casting="safe") for k, x in tree.items()}


def norm(x: np.ndarray) -> float:
    """Euclidean norm; infinite where the sum of squares overflows."""
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.sum(x * x)))


def project(d: np.ndarray, w: np.ndarray) -> np.ndarray:
    """sub. eq. 3 (Alg. 3 divides by c^2: the same while ||w|| = c)."""
    return d - np.sum(w * d) / np.sum(w * w) * w


def update_weights(r: np.ndarray, w: np.ndarray, lam: float) -> np.ndarray:
    """Alg. 5; lam is 0 from the switch on."""
    return r + lam * w if lam else r


class Reference:
    """One optimizer and its state; made by `sgd`, `adam` or `lamb` below.

    Attributes: count, updates made so far; t, the papers' t (restarts with
    reset="restart"); m and v, group -> moment vector; norms, group -> captured norm c,
    None before the switch and for a free group; free, the listed groups found free at
    the switch. Slices of group "a" are named "a[0]", "a[1]", ... ("a[0,1]" for two
    axes kept). The dictionaries are filled by the first step.
    """

    def __init__(
        self,
        learning_rate: float | Callable[[int], float],
        direction: Direction,
        weight_decay: float,
        switch_step: int,
        reset: str | None,
        groups: Groups,
    ):
        if reset not in ("restart", "moments", None):
            raise ValueError(f"reset must be 'restart', 'moments' or None: {reset!r}")
        self.learning_rate, self.direction = learning_rate, direction
        self.weight_decay, self.switch_step = weight_decay, switch_step
        self.reset, self.groups = reset, groups
        self.count = self.t = 0
        self.m: Leaves = {}
        self.v: Leaves = {}
        self.norms: dict[str, float | None] = {}
        self.free: set[str] = set()
        self.pieces: dict[str, list[tuple[str, tuple]]] = {}

    def step(self, params: Leaves, grads: Leaves) -> Leaves:
        """One update; returns new parameters, changes neither argument."""
        params, grads = float64(params), float64(grads)
        if self.count == 0:
            self._lay_out(params)
        if self.count == self.switch_step:  # k = switch_step + 1
            self._switch(params)  # Alg. 7 and 9, lines 5-7
        self.t += 1
        rate = self.learning_rate
        eta = rate(self.count) if callable(rate) else rate
        lam = self.weight_decay if self.count < self.switch_step else 0.0
        new = {k: x.copy() for k, x in params.items()}
        for name in self.pieces:
            w, g = self._gather(params, name), self._gather(grads, name)
            c = self.norms.get(name)  # None: still free, or free for good
            r = self.direction(self, name, w, g, c is not None, lam)
            w = w - eta * r  # sub. Alg. 1 line 10; Alg. 7, 9 line 15
            if c is not None:
                w = c / norm(w) * w  # Alg. 4; sub. Alg. 1 line 11
            self._scatter(new, name, w)
        self.count += 1
        return new

    def _lay_out(self, params: Leaves) -> None:
        """Fixes which pieces of which leaves make up each group."""
        split = {
            k: (g, ()) if isinstance(g, list) else g for k, g in self.groups.items()
        }
        listed = [leaf for leaves, _ in split.values() for leaf in leaves]
        if len(set(listed)) != len(listed) or not set(listed) <= set(params):
            raise ValueError(f"list leaves of {sorted(params)} once each: {listed}")
        for name, (leaves, axes) in split.items():
            axes = (axes,) if isinstance(axes, int) else axes
            kept = {tuple(params[leaf].shape[a] for a in axes) for leaf in leaves}
            if len(kept) != 1:
                raise ValueError(f"{leaves}: sizes along axes {axes} differ: {kept}")
            for index in np.ndindex(*kept.pop()):  # one empty index if no axis is kept
                label = f"{name}[{','.join(map(str, index))}]" if axes else name
                self.pieces[label] = []
                for leaf in leaves:
                    where: list = [slice(None)] * params[leaf].ndim
                    for axis, i in zip(axes, index, strict=True):
                        where[axis] = i
                    self.pieces[label].append((leaf, (*where, ...)))
        self.norms = dict.fromkeys(self.pieces)
        for leaf in params:  # what is not listed is free, each leaf a group of its own
            if leaf not in listed:
                self.pieces[f"unlisted {leaf}"] = [(leaf, (...,))]
        for name in self.pieces:  # Alg. 6-9, line 2
            self.m[name] = np.zeros_like(self._gather(params, name))
            self.v[name] = np.zeros_like(self._gather(params, name))

    def _switch(self, params: Leaves) -> None:
        """Captures c = ||w|| (sub. eq. 1) and resets the moments (Alg. 2)."""
        for name in self.norms:
            w = self._gather(params, name)
            if w.size > 1 and norm(w) > 0 and np.isfinite(norm(w)):
                self.norms[name] = norm(w)
            else:  # there is no tangent direction: free for good
                self.free.add(name)
        if self.reset is not None:
            for name in self.pieces:
                self.m[name] = np.zeros_like(self.m[name])
                self.v[name] = np.zeros_like(self.v[name])
        if self.reset == "restart":  # sub. Alg. 1: t = 1..T counts constrained steps
            self.t = 0

    def _gather(self, tree: Leaves, name: str) -> np.ndarray:
        return np.concatenate([tree[k][i].ravel() for k, i in self.pieces[name]])

    def _scatter(self, tree: Leaves, name: str, w: np.ndarray) -> None:
        for leaf, where in self.pieces[name]:
            part, w = np.split(w, [tree[leaf][where].size])
            tree[leaf][where] = part.reshape(tree[leaf][where].shape)


def sgd(
    learning_rate: float | Callable[[int], float],
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    switch_step: int = 0,
    reset: str | None = "restart",
    *,
    groups: Groups,
) -> Reference:
    """SGD-LAWN: arXiv §3 and the figure in Appendix C (no listing)."""

    def direction(state, name, w, g, constrained, lam):
        if constrained:
            g = project(g, w)
        g = update_weights(g, w, lam)
        m = state.m[name] = g + momentum * state.m[name]
        r = g + momentum * m if nesterov else m
        return project(r, w) if constrained else r

    return Reference(learning_rate, direction, weight_decay, switch_step, reset, groups)


def _adam_r(state, name, g, b1, b2, eps) -> np.ndarray:
    """Alg. 6 lines 6-9, Alg. 8, sub. Alg. 1 lines 5-8; epsilon outside the root."""
    m = state.m[name] = b1 * state.m[name] + (1 - b1) * g
    v = state.v[name] = b2 * state.v[name] + (1 - b2) * g**2
    m_hat, v_hat = m / (1 - b1**state.t), v / (1 - b2**state.t)
    return m_hat / (np.sqrt(v_hat) + eps)


def adam(
    learning_rate: float | Callable[[int], float],
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    switch_step: int = 0,
    reset: str | None = "restart",
    projections: int = 2,
    *,
    groups: Groups,
) -> Reference:
    """Adam-LAWN: Alg. 6 while free, then Alg. 7 with the projections of sub. Alg. 1."""
    if projections not in (1, 2):
        raise ValueError(f"projections must be 1 or 2, got {projections!r}")

    def direction(state, name, w, g, constrained, lam):
        if constrained:
            g = project(g, w)  # Alg. 7 line 9; sub. Alg. 1 line 4
        r = _adam_r(state, name, g, b1, b2, eps)
        if constrained and projections == 2:
            r = project(r, w)  # sub. Alg. 1 line 9
        return update_weights(r, w, lam)  # Alg. 6 line 10; Alg. 7 line 14

    return Reference(learning_rate, direction, weight_decay, switch_step, reset, groups)


def lamb(
    learning_rate: float | Callable[[int], float],
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    switch_step: int = 0,
    reset: str | None = "restart",
    cap: float | None = None,
    phi: Callable[[float], float] = lambda x: x,
    *,
    groups: Groups,
) -> Reference:
    """LAMB-LAWN: Alg. 8 while free, then Alg. 9; cap=1.0 is LAMB+ (Appendix D.4.3)."""

    def direction(state, name, w, g, constrained, lam):
        if constrained:
            g = project(g, w)  # Alg. 9 line 9
        r = _adam_r(state, name, g, b1, b2, eps)
        if constrained:
            r = project(r, w)  # Alg. 9 line 13
        r = update_weights(r, w, lam)  # Alg. 8 line 9; Alg. 9 line 14
        ratio = 1.0
        if norm(w) != 0 and norm(r) != 0:
            ratio = phi(norm(w)) / norm(
                r
            )  # Alg. 8 line 10, Alg. 9 line 15: w is w_{t-1}
        if cap is not None:
            ratio = min(ratio, cap)
        return ratio * r

    return Reference(learning_rate, direction, weight_decay, switch_step, reset, groups)
