"""A decoder-only transformer over bytes or other small vocabularies."""

import dataclasses
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

ROTARY_BASE = 10_000.0


# Deviations times the root of the number of inputs: multiples of PyTorch's defaults.
SEARCHED: dict[str, float] = dict.fromkeys(("query", "key", "value"), 3**-0.5)
SEARCHED |= {"out": 1.25 * 3**-0.5, "up": 1.5 * 3**-0.5, "down": 3.0 * 3**-0.5}


@dataclasses.dataclass(frozen=True)
class Form:
    """What the parts of a block need to know of the `Transformer` around them."""

    depth: int
    heads: int
    norm: str
    positions: str
    qk_norm: bool
    activation: str
    attention_width: int | None
    dropout: float
    initialization: str
    output_scale: float
    dtype: DTypeLike | None


class Transformer(nn.Module):
    """Logits of the next token at each position.

    By default the form that is used today: RMSNorm before each part of a block, rotary
    positions, normed queries and keys, an MLP with squared ReLU, a head of its own.
    `nanogpt` has the form of nanoGPT.

    Leaves are named ``embedding/embedding``, ``block_0/attention/query/kernel``, ...,
    ``block_0/mlp/up/kernel``, ``final_norm/scale`` and ``head/kernel``; no layer has a
    bias. With `scanned`, the blocks are one module ``blocks`` whose leaves have a first
    axis for the depth.

    Attributes:
        vocabulary: Number of tokens.
        width: Numbers per position in the residual stream.
        depth: Number of blocks.
        heads: Number of heads of attention. The width of a head, `attention_width` /
            `heads`, must be whole, and even with rotary positions.
        block: Longest sequence; only learned positions depend on it.
        norm: ``rms`` or ``layer``, both with a gain; RMSNorm has epsilon 1e-6,
            LayerNorm 1e-5.
        positions: ``rotary`` or ``learned``.
        qk_norm: Whether queries and keys are normed within each head.
        activation: ``relu2`` (squared ReLU), ``relu`` or ``gelu``.
        attention_width: Numbers of all queries of a position; by default `width`.
        tied: Whether the head's kernel is the table of embeddings.
        dropout: Share of numbers that dropout sets to 0, after the embedding, in the
            attention and at the end of each part of a block.
        initialization: First weights. ``fan-in``: embeddings from N(0, 1), kernels from
            N(0, 1 / inputs). ``small``: all from N(0, 0.02²), as GPT-2's. In both, the
            variance of kernels that write to the residual stream is divided by 2
            `depth`. ``zero-out``: as ``fan-in``, but these kernels begin at 0.
            ``searched``: the deviations that modded-nanogpt's search (pull request
            267) chose for MuonH, in a block; `SEARCHED` has them.
        output_scale: Factor of the first weights that write to the residual stream.
        scanned: Whether one compiled block runs `depth` times.
        dtype: Type of the computation; weights, norms, softmax and logits are float32
            or wider.
    """

    vocabulary: int = 256
    width: int = 128
    depth: int = 4
    heads: int = 4
    block: int = 128
    norm: Literal["rms", "layer"] = "rms"
    positions: Literal["rotary", "learned"] = "rotary"
    qk_norm: bool = True
    activation: Literal["relu2", "relu", "gelu"] = "relu2"
    attention_width: int | None = None
    tied: bool = False
    dropout: float = 0.0
    initialization: Literal["fan-in", "small", "zero-out", "searched"] = "fan-in"
    output_scale: float = 1.0
    scanned: bool = False
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens, int ``[..., time]``, to logits ``[..., time, vocabulary]``.

        Args:
            tokens: Tokens, at most `block` of them in a sequence.
            train: Whether dropout is on; it needs random numbers named ``dropout``.
        """
        names = [field.name for field in dataclasses.fields(Form)]
        form = Form(**{name: getattr(self, name) for name in names})
        deviation = 0.02 if self.initialization == "small" else 1.0
        embed = embedding(self.vocabulary, self.width, deviation, "embedding")
        x = embed(tokens)
        if self.positions == "learned":
            places = embedding(self.block, self.width, 0.02, "positions")
            numbers = jnp.arange(tokens.shape[-1])
            x = x + places(jnp.broadcast_to(numbers, tokens.shape))
        x = x.astype(self.dtype or x.dtype)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.scanned:
            blocks = nn.scan(
                Block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType] (documented)
                length=self.depth,
            )
            x, _ = blocks(form, name="blocks")(x, train)
        else:
            for layer in range(self.depth):
                x, _ = Block(form, name=f"block_{layer}")(x, train)
        x = make_norm(form, "final_norm")(x)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.tied:
            return embed.attend(x)
        return dense(form, self.vocabulary, "head", dtype=None)(x)


nanogpt = partial(
    Transformer,
    norm="layer",
    positions="learned",
    qk_norm=False,
    activation="gelu",
    tied=True,
    initialization="small",
)
"""A `Transformer` in the form of nanoGPT, which is that of GPT-2 without biases."""


class Block(nn.Module):
    """Attention and MLP, each added to its input; the shape of a step of `nn.scan`.

    Attributes:
        form: Settings of the network.
    """

    form: Form

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, None]:
        x = x + Attention(self.form, name="attention")(
            make_norm(self.form, "attention_norm")(x), train
        )
        x = x + MLP(self.form, name="mlp")(make_norm(self.form, "mlp_norm")(x), train)
        return x, None


class Attention(nn.Module):
    """Causal attention with one matrix for each of query, key, value and output."""

    form: Form

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        form, width = self.form, x.shape[-1]
        inner = form.attention_width or width
        shape = (*x.shape[:-1], form.heads, inner // form.heads)
        query, key, value = (
            dense(form, inner, name)(x).reshape(shape)
            for name in ("query", "key", "value")
        )
        if form.qk_norm:
            query = make_norm(form, "query_norm")(query)
            key = make_norm(form, "key_norm")(key)
        if form.positions == "rotary":
            query, key = rotate(query), rotate(key)
        dropping = train and form.dropout > 0
        x = nn.dot_product_attention(
            query,
            key,
            value,
            mask=nn.make_causal_mask(x[..., 0]),
            dropout_rng=self.make_rng("dropout") if dropping else None,
            dropout_rate=form.dropout,
            broadcast_dropout=False,
            deterministic=not dropping,
            force_fp32_for_softmax=jnp.finfo(x.dtype).bits < 32,
        ).reshape(*x.shape[:-1], inner)
        x = dense(form, width, "out", writes=True)(x)
        return nn.Dropout(form.dropout, deterministic=not train)(x)


class MLP(nn.Module):
    """Four times as wide inside."""

    form: Form

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        form, width = self.form, x.shape[-1]
        x = dense(form, 4 * width, "up")(x)
        if form.activation == "gelu":
            x = nn.gelu(x, approximate=False)
        else:
            x = nn.relu(x) ** (2 if form.activation == "relu2" else 1)
        x = dense(form, width, "down", writes=True)(x)
        return nn.Dropout(form.dropout, deterministic=not train)(x)


def embedding(count: int, width: int, deviation: float, name: str) -> nn.Embed:
    """A table with a row for each token or position."""
    initial = nn.initializers.normal(deviation)
    return nn.Embed(count, width, embedding_init=initial, name=name)


def dense(
    form: Form, features: int, name: str, *, writes: bool = False, **options: Any
) -> nn.Dense:
    """A layer without a bias; `writes` says that it writes to the residual stream."""
    share = form.output_scale**2 if writes else 1.0
    if form.initialization == "searched":
        share *= SEARCHED.get(name, 1.0) ** 2
    elif writes:
        share /= 2 * form.depth
    if form.initialization == "small":
        initial = nn.initializers.normal(0.02 * share**0.5)
    elif form.initialization == "zero-out" and writes:
        initial = nn.initializers.zeros
    else:
        initial = nn.initializers.variance_scaling(share, "fan_in", "normal")
    options = {"dtype": form.dtype} | options
    return nn.Dense(features, use_bias=False, kernel_init=initial, name=name, **options)


def make_norm(form: Form, name: str) -> nn.Module:
    """A norm layer; its statistics are float32 or wider."""
    if form.norm == "layer":
        return nn.LayerNorm(1e-5, use_bias=False, dtype=form.dtype, name=name)
    return nn.RMSNorm(1e-6, dtype=form.dtype, name=name)


def rotate(x: jax.Array) -> jax.Array:
    """Turns pairs of features by angles that grow with the position (Su et al. 2021).

    Features i and i + n/2 of a head of width n are a pair; at position t it turns by
    t / 10,000^(2i/n).

    Args:
        x: Queries or keys, ``[..., time, heads, n]``, with n even.

    References:
        Su et al. 2021, "RoFormer", arXiv:2104.09864.
    """
    time, half = x.shape[-3], x.shape[-1] // 2
    wide = jnp.promote_types(x.dtype, jnp.float32)
    rates = ROTARY_BASE ** (-jnp.arange(half, dtype=wide) / half)
    angles = jnp.arange(time, dtype=wide)[:, None] * rates[None]
    shape = (*[1] * (x.ndim - 3), time, 1, half)
    cos, sin = (f(angles).reshape(shape) for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x.astype(wide), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
