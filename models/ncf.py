"""The multilayer perceptron of neural collaborative filtering (NCF)."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.layers import torch_uniform

# The paper's "3-layer MLP" with "units in each layer 256-128-64-1" (Gupta et al. 2021,
# arXiv:2108.05839, section 4.2 and Appendix D.3) can mean either.
TOWERS = {"3-layer": (128, 64, 1), "4-layer": (256, 128, 64, 1)}
INITIALIZATIONS = ("small", "torch")


class NCF(nn.Module):
    """Scores a user and an item by an MLP on their concatenated embeddings.

    The parameters are ``user_embedding``, ``item_embedding`` and ``dense_0``,
    ``dense_1``, ... from input to output; with the default groups of `lawn_optax`
    each has one norm.

    The first dense layer is linear in the embeddings, so it can be applied once per
    step to the two tables instead of to each sample: `project_tables`, then
    `score_projected` on the sum of a user's and an item's row. This is the same
    function as `__call__`, and much less work where a batch has more samples than
    there are users and items.

    Attributes:
        num_users: Rows of the user embedding.
        num_items: Rows of the item embedding.
        features: Widths of the dense layers; the last is 1.
        embedding: Width of each embedding.
        initialization: ``small`` (as He et al. 2017, arXiv:1708.05031: embeddings of
            standard deviation 0.01, Glorot uniform kernels, zero biases) or ``torch``
            (PyTorch's defaults: embeddings of standard deviation 1, kernels and biases
            uniform within 1/sqrt(fan-in)).
    """

    num_users: int
    num_items: int
    features: Sequence[int] = TOWERS["3-layer"]
    embedding: int = 128
    initialization: str = "small"

    def setup(self):
        if self.initialization not in INITIALIZATIONS:
            raise ValueError(
                f"`initialization` must be one of {', '.join(INITIALIZATIONS)};"
                f" got {self.initialization!r}."
            )
        small = self.initialization == "small"
        table = nn.initializers.normal(0.01 if small else 1.0)
        self.user_embedding = nn.Embed(
            self.num_users, self.embedding, embedding_init=table
        )
        self.item_embedding = nn.Embed(
            self.num_items, self.embedding, embedding_init=table
        )
        widths = (2 * self.embedding, *self.features)
        self.dense = [
            nn.Dense(
                outputs,
                kernel_init=nn.initializers.glorot_uniform()
                if small
                else torch_uniform(inputs),
                bias_init=nn.initializers.zeros if small else torch_uniform(inputs),
            )
            for inputs, outputs in itertools.pairwise(widths)
        ]

    def __call__(self, users: jax.Array, items: jax.Array) -> jax.Array:
        """Maps int32[...] users and items to logits, float32[...]."""
        pairs = [self.user_embedding(users), self.item_embedding(items)]
        return self.tower(jnp.concatenate(pairs, axis=-1))

    def embeddings(self) -> tuple[jax.Array, jax.Array]:
        """The tables, ``[num_users, embedding]`` and ``[num_items, embedding]``."""
        return self.user_embedding.embedding, self.item_embedding.embedding

    def tower(self, pairs: jax.Array) -> jax.Array:
        """Maps concatenated embeddings ``[..., 2 embedding]`` to logits ``[...]``."""
        return self.score_projected(self.dense[0](pairs))

    def project_tables(self) -> tuple[jax.Array, jax.Array]:
        """Applies the first dense layer to the user and the item table.

        Returns:
            The contribution of each user and of each item to the layer's output:
            ``[num_users, features[0]]``, with the bias, and
            ``[num_items, features[0]]``.
        """
        layer = self.dense[0].variables["params"]
        of_user, of_item = jnp.split(layer["kernel"], 2)
        users = self.user_embedding.embedding @ of_user + layer["bias"][None, :]
        return users, self.item_embedding.embedding @ of_item

    def score_projected(self, hidden: jax.Array) -> jax.Array:
        """Maps first outputs ``[..., features[0]]`` to logits ``[...]``."""
        for layer in self.dense[1:]:
            hidden = layer(nn.relu(hidden))
        return hidden[..., 0]
