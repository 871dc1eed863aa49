"""The layers that the image models share, with the constants of PyTorch.

The papers' code was PyTorch: batch norm has epsilon 1e-5 and keeps 0.9 of the running
statistics, and a kernel of size k has padding k // 2 on each side (with a stride of 2,
Flax's ``SAME`` pads the other side).
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
    """A convolution without a bias: the norm layer after it would cancel the bias.

    Args:
        features: Channels of the output.
        size: Height and width of the kernel, odd.
        stride: Step in both directions.
        name: Name among the parameters.
        fan: ``fan_out`` draws the weights from N(0, 2 / (size² · outputs)), ``fan_in``
            from N(0, 2 / (size² · inputs)) (He et al. 2015, arXiv:1502.01852).
        dtype: Type of the computation; by default that of inputs and parameters.
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
    epsilon: float = 1e-5,
    dtype: DTypeLike | None = None,
    axis_name: str | None = None,
) -> nn.BatchNorm:
    """Batch norm with the statistics of the whole batch, in float32 or wider.

    Scales start at 1 and biases at 0. The running variance is that of the batch, not
    PyTorch's unbiased estimate.

    Args:
        name: Name among the parameters and the statistics.
        train: Whether to normalise by the statistics of the batch and update the
            running ones. Otherwise the running statistics normalise.
        epsilon: What is added to the variance. If it is not 0, the scale of the layer
            before matters a little; with 0, a constant channel gives NaN.
        dtype: Type of the output; by default that of inputs and parameters.
        axis_name: Name of the axis that splits the batch, under `jax.pmap` or
            `jax.shard_map`. Under `jax.jit` with sharded arrays the batch is one array:
            leave it out.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=epsilon,
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
    """Takes the mean over each image, then applies a dense layer named ``head``.

    Features of a narrower type are converted to float32 first: logits in bfloat16 would
    be too coarse for margins and calibration, and this layer costs little.

    Args:
        features: ``[..., height, width, channels]``.
        classes: Number of logits.
        kernel_init: Initializer of the kernel; None for PyTorch's default, uniform
            within 1/sqrt(channels).
        bias_init: Initializer of the bias; None for the same.

    Returns:
        Logits ``[..., classes]``, float32 (float64 if features or parameters are).
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
