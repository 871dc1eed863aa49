"""The layers that the image models share, with PyTorch's numbers.

The papers' code was PyTorch: batch norm has epsilon 1e-5 and keeps 0.9 of the running
statistics, and a kernel of size k is padded by k // 2 on every side (Flax's ``SAME``
puts the padding of a stride of 2 on the other side).
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

Layer = Callable[..., nn.Module]
Fan = Literal["fan_in", "fan_out"]


def convolution(
    features: int,
    size: int = 3,
    stride: int = 1,
    *,
    name: str,
    fan: Fan = "fan_out",
    dtype: DTypeLike | None = None,
) -> nn.Conv:
    """A convolution without bias, which the norm layer after it would cancel.

    Args:
        features: Channels of the output.
        size: Height and width of the kernel, odd.
        stride: Step in both directions.
        name: Name among the parameters.
        fan: ``fan_out`` or ``fan_in``: whether the weights are drawn from
            N(0, 2 / (size² · outputs)) or N(0, 2 / (size² · inputs)) (He et al. 2015,
            arXiv:1502.01852).
        dtype: Of the computation; that of inputs and parameters by default.
    """
    return nn.Conv(
        features,
        (size, size),
        stride,
        padding=size // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, fan, "normal"),
        name=name,
    )


def batch_norm(
    *,
    name: str,
    train: bool,
    dtype: DTypeLike | None = None,
    axis_name: str | None = None,
) -> nn.BatchNorm:
    """Batch norm whose statistics are those of the whole batch, in float32 or wider.

    Scales start at 1 and biases at 0. The running variance is that of the batch, not
    PyTorch's unbiased estimate.

    Args:
        name: Name among the parameters and the statistics.
        train: Whether to normalise by the batch, and to update the running statistics;
            else these normalise.
        dtype: Of the output; that of inputs and parameters by default.
        axis_name: The axis that splits the batch, under `jax.pmap` or `jax.shard_map`.
            Under `jax.jit` with sharded arrays the batch is one array: leave it out.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        axis_name=axis_name,
        name=name,
    )


def pool_and_classify(
    features: jax.Array,
    classes: int,
    kernel_init: nn.initializers.Initializer | None = None,
    bias_init: nn.initializers.Initializer | None = None,
) -> jax.Array:
    """The mean over each image, then a dense layer named ``head``.

    Both are computed in float32 whatever narrower type the features have: margins and
    calibration would see logits rounded to bfloat16, and the layer costs nothing.

    Args:
        features: ``[..., height, width, channels]``.
        classes: Number of logits.
        kernel_init: PyTorch's default, uniform within 1/sqrt(channels), if None.
        bias_init: The same.

    Returns:
        Logits ``[..., classes]``, float32 (float64 where features or parameters are).
    """
    features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    default = torch_uniform(features.shape[-1])
    head = nn.Dense(
        classes,
        kernel_init=kernel_init or default,
        bias_init=bias_init or default,
        name="head",
    )
    return head(features.mean(axis=(-3, -2)))


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for kernels and biases: uniform within 1/sqrt(fan-in)."""
    bound = fan_in**-0.5

    def draw(key, shape, dtype=jnp.float32, **_):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw
