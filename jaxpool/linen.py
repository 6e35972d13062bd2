"""Pooling as Flax Linen modules: each is a function of `jaxpool` with its arguments stored.

Write `import jaxpool.linen as jpl`; `import jaxpool` alone does not load Flax.

Classes have their function's arguments, with the same names and defaults, and `__call__(x, where)`
is one call of that function: what the arguments mean, and what happens at NaN, ties, padding and
empty windows, is written there. What is data goes to the call: the mask `where`, which blurs,
unpoolings and polyphase poolings lack, `indices` and `phase`. `GatedPool` and
`LearnedPolyphasePool` have parameters of their own, and no function.
Lists and arrays are stored as tuples, so that modules compare and hash.

`LSEPool`, `SoftmaxPool`, `LpPool`, `GeMPool` and their global and adaptive forms (GeM has no
adaptive one) may learn their `temperature` or their `p`:

- `learn=None` keeps the number fixed, `learn="layer"` learns one for the whole layer,
  `learn="channel"` one per channel.
- `temperature` (or `p`) is where learning starts: one number, or one per channel.
- The parameter is `log_temperature` (or `raw_p`), of shape () or (channels,), in
  `param_dtype`, float32 unless told. T = exp(log_temperature), and p = 1 + softplus(raw_p): T stays
  between 2e-9 and 5e8, and p between 1 and 1000, wherever an optimizer takes the parameter.
- The channels are the last axis of x that is not pooled, in both layouts; `channel_axis` names
  another. A one-dimensional `temperature` or `p`, learned or not, lies along that axis.

So may `MixedPool` its `alpha`, from 0 to 1: alpha = sigmoid(logit_alpha).

`FractionalMaxPool`, `StochasticPool`, `LearnedPolyphasePool`, and `MixedPool` with
`alpha="random"`, draw from the random stream `rng_collection`, "pool" unless told;
`rng_collection="dropout"` shares that of Flax's Dropout. `deterministic`, which the first lacks, is
Dropout's too: an argument of the module or of the call.

The same classes for NNX are in `jaxpool.nnx`.
"""

from dataclasses import KW_ONLY, fields

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike

import jaxpool
from jaxpool._adaptive import OutputShape
from jaxpool._geometry import Axes, Levels, Padding, PerAxis, Ratio, flag
from jaxpool._mixed import gated_pool
from jaxpool._modules import (
    ALPHA,
    POWER,
    TEMPERATURE,
    Learn,
    along,
    arguments,
    channel_axis,
    check_alpha,
    check_gate,
    check_learn,
    initial,
    kernel_shape,
    learned,
    plain,
    random_alpha,
    size,
)
from jaxpool._polyphase import learned_polyphase, mean_score

__all__ = [
    "AdaptiveAvgPool",
    "AdaptiveLSEPool",
    "AdaptiveLpPool",
    "AdaptiveMaxPool",
    "AdaptiveMaxPoolWithIndices",
    "AdaptiveMinPool",
    "AdaptiveSoftmaxPool",
    "AdaptiveSumPool",
    "AvgPool",
    "BlurPool",
    "FractionalMaxPool",
    "GatedPool",
    "GeMPool",
    "GlobalAvgPool",
    "GlobalGeMPool",
    "GlobalLSEPool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "GlobalMinPool",
    "GlobalSoftmaxPool",
    "GlobalSumPool",
    "LSEPool",
    "LearnedPolyphasePool",
    "LpPool",
    "MaxBlurPool",
    "MaxPool",
    "MaxPoolWithIndices",
    "MaxUnpool",
    "MinPool",
    "MinPoolWithIndices",
    "MixedPool",
    "PolyphasePool",
    "PolyphaseUnpool",
    "SoftmaxPool",
    "SpatialPyramidPool",
    "StochasticPool",
    "SumPool",
]


class _Pool(nn.Module):
    """The base of all: arguments are stored as plain numbers and tuples."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name not in ("parent", "name"):
                value = getattr(self, field.name)
                setattr(self, field.name, plain(value, (np.ndarray, np.generic, jax.Array)))
        super().__post_init__()


class _Windowed(_Pool):
    """The arguments of a pooling with a window."""

    window_shape: PerAxis
    strides: PerAxis | None = None
    padding: Padding = "VALID"
    _: KW_ONLY
    window_dilation: PerAxis = 1
    ceil_mode: bool = False
    axis: Axes | None = None


class _Global(_Pool, kw_only=True):
    """The arguments of a pooling over whole axes."""

    axis: Axes | None = None
    keepdims: bool = False


class _Adaptive(_Pool):
    """The arguments of a pooling into a given number of bins."""

    output_shape: OutputShape
    _: KW_ONLY
    axis: Axes | None = None


class _Output(_Pool):
    """The arguments of an unpooling."""

    output_shape: PerAxis
    _: KW_ONLY
    axis: Axes | None = None


class _Learning(_Pool, kw_only=True):
    """A number, fixed or learned: the field that `_scalar` names."""

    _scalar = TEMPERATURE

    learn: Learn = None
    channel_axis: int | None = None
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_learn(self, self._scalar)

    def _number(self, x: ArrayLike) -> ArrayLike:
        scalar, axis = self._scalar, channel_axis(self, x)
        if self.learn is None:
            return along(self, scalar, getattr(self, scalar.name), x, axis)
        channels = np.shape(x)[axis] if self.learn == "channel" else None
        parameter = self.param(scalar.parameter, lambda key: initial(self, scalar, channels))
        return along(self, scalar, learned(scalar, parameter), x, axis)


class _Tempered(_Learning, kw_only=True):
    """A temperature, fixed or learned."""

    temperature: ArrayLike | tuple[float, ...] = 1.0


class _Random(_Pool, kw_only=True):
    """A key for every call, None where deterministic."""

    deterministic: bool | None = None
    rng_collection: str = "pool"

    def _key(self, deterministic: bool | None) -> jax.Array | None:
        given = nn.merge_param("deterministic", self.deterministic, deterministic)
        if flag(type(self).__name__, "deterministic", given):
            return None
        return self.make_rng(self.rng_collection)


class _Powered(_Learning, kw_only=True):
    """A power, fixed or learned."""

    _scalar = POWER

    p: ArrayLike | tuple[float, ...] = 2.0


class _GeM(_Powered, kw_only=True):
    """The power and the least element of a generalized mean."""

    p: ArrayLike | tuple[float, ...] = 3.0
    eps: float = 1e-6


class MaxPool(_Windowed, kw_only=True):
    """Take the maximum of each window: `jaxpool.max_pool` as a module.

        out[i] = max of x over window i
        [*batch, *space, channels] -> [*batch, *out, channels]

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpl.MaxPool((2, 2)).apply({}, x)[0, :, :, 0]
    Array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.max_pool(x, **arguments(self), where=where)


class MinPool(_Windowed, kw_only=True):
    """Take the minimum of each window: `jaxpool.min_pool` as a module.

        out[i] = min of x over window i
        [*batch, *space, channels] -> [*batch, *out, channels]

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpl.MinPool((2, 2)).apply({}, x)[0, :, :, 0]
    Array([[ 0.,  2.],
           [ 8., 10.]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.min_pool(x, **arguments(self), where=where)


class SumPool(_Windowed, kw_only=True):
    """Add up each window: `jaxpool.sum_pool` as a module.

        out[i] = sum of x over window i
        [*batch, *space, channels] -> [*batch, *out, channels]

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpl.SumPool((2, 2)).apply({}, x)[0, :, :, 0]
    Array([[10., 18.],
           [42., 50.]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.sum_pool(x, **arguments(self), where=where)


class AvgPool(_Windowed, kw_only=True):
    """Average each window: `jaxpool.avg_pool` as a module.

        out[i] = (sum of x over window i) / n[i]
        [*batch, *space, channels] -> [*batch, *out, channels]

    n[i] counts padding too (`count_include_pad=True`, as in Flax and PyTorch), or only the elements
    of x (as in Keras), or is `divisor_override`.

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpl.AvgPool((2, 2)).apply({}, x)[0, :, :, 0]
    Array([[ 2.5,  4.5],
           [10.5, 12.5]], dtype=float32)
    """

    count_include_pad: bool = True
    divisor_override: float | None = None

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.avg_pool(x, **arguments(self), where=where)


class LSEPool(_Tempered, _Windowed, kw_only=True):
    """Take the log-sum-exp of each window: `jaxpool.lse_pool`, T learnable.

        out[i] = T log(mean of exp(x / T) over window i)
        [*batch, *space, channels] -> [*batch, *out, channels]

    T -> 0 is the maximum and T -> infinity the mean; `normalize=False` sums instead of averaging
    (Pinheiro and Collobert, 2015).
    How T is learned (`learn`, `channel_axis`) is written at the top of `jaxpool.linen`.

    >>> import jax, jax.numpy as jnp, jaxpool.linen as jpl
    >>> pool = jpl.LSEPool((2, 2), temperature=0.5, learn="channel")
    >>> variables = pool.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    >>> jnp.exp(variables["params"]["log_temperature"])
    Array([0.5, 0.5, 0.5], dtype=float32)
    >>> pool.apply(variables, jnp.ones((1, 4, 4, 3))).shape
    (1, 2, 2, 3)
    """

    normalize: bool = True

    @nn.compact
    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        t = self._number(x)
        return jaxpool.lse_pool(x, **arguments(self), temperature=t, where=where)


class SoftmaxPool(_Tempered, _Windowed, kw_only=True):
    """Weigh each window by its own softmax: `jaxpool.softmax_pool`, T learnable.

        out[i] = sum of softmax(x / T) x over window i
        [*batch, *space, channels] -> [*batch, *out, channels]

    T -> 0 is the maximum, T -> infinity the mean, and T = 1 "SoftPool" (Stergiou, Poppe and
    Kalliatakis, 2021). How T is learned (`learn`, `channel_axis`) is written at the top of
    `jaxpool.linen`.

    >>> import jax, jax.numpy as jnp, jaxpool.linen as jpl
    >>> pool = jpl.SoftmaxPool((2, 2), temperature=2.0, learn="layer")
    >>> variables = pool.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    >>> jnp.exp(variables["params"]["log_temperature"])
    Array(2., dtype=float32)
    >>> pool.apply(variables, jnp.ones((1, 4, 4, 3))).shape
    (1, 2, 2, 3)
    """

    @nn.compact
    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        t = self._number(x)
        return jaxpool.softmax_pool(x, **arguments(self), temperature=t, where=where)


class LpPool(_Powered, _Windowed, kw_only=True):
    """Take the p-norm of each window: `jaxpool.lp_pool`, p learnable.

        out[i] = (sum of |x|^p over window i)^(1/p)
        [*batch, *space, channels] -> [*batch, *out, channels]

    p = 1 is the sum and p = inf the maximum of |x|; with `normalize=True`, p = 1 is the average.
    How p is learned is written at the top of `jaxpool.linen` (Gulcehre, Cho, Pascanu and Bengio,
    2014).

    >>> import jax, jax.numpy as jnp, jaxpool.linen as jpl
    >>> pool = jpl.LpPool((2, 2), learn="channel")
    >>> y, variables = pool.init_with_output(jax.random.key(0), jnp.ones((1, 4, 4, 3)))
    >>> y.shape, variables["params"]["raw_p"].shape
    ((1, 2, 2, 3), (3,))
    """

    normalize: bool = False

    @nn.compact
    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        p = self._number(x)
        return jaxpool.lp_pool(x, **arguments(self), p=p, where=where)


class GeMPool(_GeM, _Windowed, kw_only=True):
    """Take the generalized mean of each window: `jaxpool.gem_pool`, p learnable.

        out[i] = (mean of max(x, eps)^p over window i)^(1/p)
        [*batch, *space, channels] -> [*batch, *out, channels]

    How p is learned is written at the top of `jaxpool.linen` (Radenovic, Tolias and Chum, 2018).

    >>> import jax, jax.numpy as jnp, jaxpool.linen as jpl
    >>> pool = jpl.GeMPool((2, 2), learn="layer")
    >>> y, variables = pool.init_with_output(jax.random.key(0), jnp.ones((1, 4, 4, 3)))
    >>> y.shape, variables["params"]["raw_p"].shape
    ((1, 2, 2, 3), ())
    """

    @nn.compact
    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        p = self._number(x)
        return jaxpool.gem_pool(x, **arguments(self), p=p, where=where)


class GlobalMaxPool(_Global, kw_only=True):
    """Take the maximum over whole axes: `jaxpool.global_max_pool` as a module.

        out = max of x over all positions
        [batch, *space, channels] -> [batch, channels]

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> jpl.GlobalMaxPool().apply({}, jnp.arange(8.0).reshape(1, 2, 2, 2))
    Array([[6., 7.]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.global_max_pool(x, **arguments(self), where=where)


class GlobalMinPool(_Global, kw_only=True):
    """Take the minimum over whole axes: `jaxpool.global_min_pool` as a module.

        out = min of x over all positions
        [batch, *space, channels] -> [batch, channels]

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> jpl.GlobalMinPool().apply({}, jnp.arange(8.0).reshape(1, 2, 2, 2))
    Array([[0., 1.]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.global_min_pool(x, **arguments(self), where=where)


class GlobalSumPool(_Global, kw_only=True):
    """Add up whole axes: `jaxpool.global_sum_pool` as a module.

        out = sum of x over all positions
        [batch, *space, channels] -> [batch, channels]

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> jpl.GlobalSumPool().apply({}, jnp.arange(8.0).reshape(1, 2, 2, 2))
    Array([[12., 16.]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.global_sum_pool(x, **arguments(self), where=where)


class GlobalAvgPool(_Global, kw_only=True):
    """Average whole axes: `jaxpool.global_avg_pool` as a module (Lin, Chen and Yan, 2014).

        out = mean of x over all positions
        [batch, *space, channels] -> [batch, channels]

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> jpl.GlobalAvgPool().apply({}, jnp.arange(8.0).reshape(1, 2, 2, 2))
    Array([[3., 4.]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.global_avg_pool(x, **arguments(self), where=where)


class GlobalLSEPool(_Tempered, _Global, kw_only=True):
    """Take the log-sum-exp over whole axes: `jaxpool.global_lse_pool`, T learnable.

        out = T log(mean of exp(x / T) over all positions)
        [batch, *space, channels] -> [batch, channels]

    `temperature`, `normalize` and how T is learned: see `LSEPool` (Pinheiro and Collobert, 2015).

    >>> import jax, jax.numpy as jnp, jaxpool.linen as jpl
    >>> pool = jpl.GlobalLSEPool(learn="channel")
    >>> y, variables = pool.init_with_output(jax.random.key(0), jnp.ones((1, 2, 2, 2)))
    >>> y.shape, variables["params"]["log_temperature"].shape
    ((1, 2), (2,))
    """

    normalize: bool = True

    @nn.compact
    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        t = self._number(x)
        return jaxpool.global_lse_pool(x, **arguments(self), temperature=t, where=where)


class GlobalSoftmaxPool(_Tempered, _Global, kw_only=True):
    """Weigh whole axes by their softmax: `jaxpool.global_softmax_pool`, T learnable.

        out = sum of softmax(x / T) x over all positions
        [batch, *space, channels] -> [batch, channels]

    `temperature` and how T is learned: see `SoftmaxPool`.

    >>> import jax, jax.numpy as jnp, jaxpool.linen as jpl
    >>> pool = jpl.GlobalSoftmaxPool(learn="channel")
    >>> y, variables = pool.init_with_output(jax.random.key(0), jnp.ones((1, 2, 2, 2)))
    >>> y.shape, variables["params"]["log_temperature"].shape
    ((1, 2), (2,))
    """

    @nn.compact
    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        t = self._number(x)
        return jaxpool.global_softmax_pool(x, **arguments(self), temperature=t, where=where)


class GlobalLpPool(_Powered, _Global, kw_only=True):
    """Take the p-norm over whole axes: `jaxpool.global_lp_pool`, p learnable.

        out = (sum of |x|^p over all positions)^(1/p)
        [batch, *space, channels] -> [batch, channels]

    `p`, `normalize` and how p is learned: see `LpPool`.

    >>> import jax, jax.numpy as jnp, jaxpool.linen as jpl
    >>> pool = jpl.GlobalLpPool(learn="layer")
    >>> y, variables = pool.init_with_output(jax.random.key(0), jnp.ones((1, 2, 2, 3)))
    >>> y.shape, variables["params"]["raw_p"].shape
    ((1, 3), ())
    """

    normalize: bool = False

    @nn.compact
    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        p = self._number(x)
        return jaxpool.global_lp_pool(x, **arguments(self), p=p, where=where)


class GlobalGeMPool(_GeM, _Global, kw_only=True):
    """Take the generalized mean over whole axes: `jaxpool.global_gem_pool`, p learnable.

        out = (mean of max(x, eps)^p over all positions)^(1/p)
        [batch, *space, channels] -> [batch, channels]

    The image descriptor of Radenovic, Tolias and Chum (2018). `p`, `eps` and how p is learned: see
    `GeMPool`.

    >>> import jax, jax.numpy as jnp, jaxpool.linen as jpl
    >>> pool = jpl.GlobalGeMPool(learn="layer")
    >>> y, variables = pool.init_with_output(jax.random.key(0), jnp.ones((1, 2, 2, 3)))
    >>> y.shape, variables["params"]["raw_p"].shape
    ((1, 3), ())
    """

    @nn.compact
    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        p = self._number(x)
        return jaxpool.global_gem_pool(x, **arguments(self), p=p, where=where)


class MaxPoolWithIndices(_Windowed, kw_only=True):
    """Take the largest element of each window, and say where: `jaxpool.max_pool_with_indices`.

        out[i], index[i] = max and argmax of x over window i
        [*batch, *space, channels] -> twice [*batch, *out, channels]

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpl.MaxPoolWithIndices((2, 2)).apply({}, x)[1][0, :, :, 0]
    Array([[ 5,  7],
           [13, 15]], dtype=int32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]:
        return jaxpool.max_pool_with_indices(x, **arguments(self), where=where)


class MinPoolWithIndices(_Windowed, kw_only=True):
    """Take the smallest element of each window, and say where: `jaxpool.min_pool_with_indices`.

        out[i], index[i] = min and argmin of x over window i
        [*batch, *space, channels] -> twice [*batch, *out, channels]

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpl.MinPoolWithIndices((2, 2)).apply({}, x)[1][0, :, :, 0]
    Array([[ 0,  2],
           [ 8, 10]], dtype=int32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]:
        return jaxpool.min_pool_with_indices(x, **arguments(self), where=where)


class AdaptiveMaxPool(_Adaptive, kw_only=True):
    """Take the maximum of each bin: `jaxpool.adaptive_max_pool` as a module.

        out[i] = max of x over bin i
        [*batch, *space, channels] -> [*batch, *output_shape, channels]

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpl.AdaptiveMaxPool((1, 1)).apply({}, x)
    Array([[[[15.]]]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.adaptive_max_pool(x, **arguments(self), where=where)


class AdaptiveMinPool(_Adaptive, kw_only=True):
    """Take the minimum of each bin: `jaxpool.adaptive_min_pool` as a module.

        out[i] = min of x over bin i
        [*batch, *space, channels] -> [*batch, *output_shape, channels]

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpl.AdaptiveMinPool((1, 1)).apply({}, x)
    Array([[[[0.]]]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.adaptive_min_pool(x, **arguments(self), where=where)


class AdaptiveSumPool(_Adaptive, kw_only=True):
    """Add up the elements of each bin: `jaxpool.adaptive_sum_pool` as a module.

        out[i] = sum of x over bin i
        [*batch, *space, channels] -> [*batch, *output_shape, channels]

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpl.AdaptiveSumPool((1, 1)).apply({}, x)
    Array([[[[120.]]]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.adaptive_sum_pool(x, **arguments(self), where=where)


class AdaptiveAvgPool(_Adaptive, kw_only=True):
    """Take the average of each bin: `jaxpool.adaptive_avg_pool` as a module.

        out[i] = mean of x over bin i
        [*batch, *space, channels] -> [*batch, *output_shape, channels]

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpl.AdaptiveAvgPool((1, 1)).apply({}, x)
    Array([[[[7.5]]]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.adaptive_avg_pool(x, **arguments(self), where=where)


class AdaptiveLSEPool(_Tempered, _Adaptive, kw_only=True):
    """Take the log-sum-exp of each bin: `jaxpool.adaptive_lse_pool`, T learnable.

        out[i] = T log(mean of exp(x / T) over bin i)
        [*batch, *space, channels] -> [*batch, *output_shape, channels]

    `temperature`, `normalize` and how T is learned: see `LSEPool`.

    >>> import jax, jax.numpy as jnp, jaxpool.linen as jpl
    >>> pool = jpl.AdaptiveLSEPool((3, 3), learn="channel")
    >>> y, variables = pool.init_with_output(jax.random.key(0), jnp.ones((1, 4, 4, 2)))
    >>> y.shape, variables["params"]["log_temperature"].shape
    ((1, 3, 3, 2), (2,))
    """

    normalize: bool = True

    @nn.compact
    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        t = self._number(x)
        return jaxpool.adaptive_lse_pool(x, **arguments(self), temperature=t, where=where)


class AdaptiveSoftmaxPool(_Tempered, _Adaptive, kw_only=True):
    """Take the softmax-weighted mean of each bin: `jaxpool.adaptive_softmax_pool`, T learnable.

        out[i] = sum of softmax(x / T) x over bin i
        [*batch, *space, channels] -> [*batch, *output_shape, channels]

    `temperature` and how T is learned: see `SoftmaxPool`.

    >>> import jax, jax.numpy as jnp, jaxpool.linen as jpl
    >>> pool = jpl.AdaptiveSoftmaxPool((3, 3), learn="channel")
    >>> y, variables = pool.init_with_output(jax.random.key(0), jnp.ones((1, 4, 4, 2)))
    >>> y.shape, variables["params"]["log_temperature"].shape
    ((1, 3, 3, 2), (2,))
    """

    @nn.compact
    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        t = self._number(x)
        return jaxpool.adaptive_softmax_pool(x, **arguments(self), temperature=t, where=where)


class AdaptiveLpPool(_Powered, _Adaptive, kw_only=True):
    """Take the p-norm of each bin: `jaxpool.adaptive_lp_pool`, p learnable.

        out[i] = (sum of |x|^p over bin i)^(1/p)
        [*batch, *space, channels] -> [*batch, *output_shape, channels]

    `p`, `normalize` and how p is learned: see `LpPool`.

    >>> import jax, jax.numpy as jnp, jaxpool.linen as jpl
    >>> pool = jpl.AdaptiveLpPool((3, 3), learn="channel")
    >>> y, variables = pool.init_with_output(jax.random.key(0), jnp.ones((1, 4, 4, 3)))
    >>> y.shape, variables["params"]["raw_p"].shape
    ((1, 3, 3, 3), (3,))
    """

    normalize: bool = False

    @nn.compact
    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        p = self._number(x)
        return jaxpool.adaptive_lp_pool(x, **arguments(self), p=p, where=where)


class AdaptiveMaxPoolWithIndices(_Adaptive, kw_only=True):
    """Take the maximum of each bin, and say where: `jaxpool.adaptive_max_pool_with_indices`.

        out[i], index[i] = max and argmax of x over bin i
        [*batch, *space, channels] -> twice [*batch, *output_shape, channels]

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpl.AdaptiveMaxPoolWithIndices((1, 1)).apply({}, x)[1]
    Array([[[[15]]]], dtype=int32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]:
        return jaxpool.adaptive_max_pool_with_indices(x, **arguments(self), where=where)


class MaxUnpool(_Output, kw_only=True):
    """Put pooled values back where they came from: `jaxpool.max_unpool` as a module.

        out[index[i]] = x[i]
        twice [*batch, *space, channels] -> [*batch, *output_shape, channels]

    (Zeiler and Fergus, 2014.)

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.array([1.0, 5, 2, 3]).reshape(1, 4, 1)
    >>> y, indices = jpl.MaxPoolWithIndices((2,)).apply({}, x)
    >>> jpl.MaxUnpool((4,)).apply({}, y, indices)[0, :, 0]
    Array([0., 5., 0., 3.], dtype=float32)
    """

    def __call__(self, x: ArrayLike, indices: ArrayLike) -> jax.Array:
        return jaxpool.max_unpool(x, indices, **arguments(self))


class FractionalMaxPool(_Pool):
    """Take the maximum of windows that lie at random: `jaxpool.fractional_max_pool` as a module.

        out[i] = max of x[start[i] : start[i] + k]
        [*batch, *space, channels] -> [*batch, *out, channels]

    Every call draws its windows anew, from the random stream `rng_collection` (Graham, 2014).

    >>> import jax, jax.numpy as jnp, jaxpool.linen as jpl
    >>> pool = jpl.FractionalMaxPool((2, 2), output_ratio=0.7)
    >>> pool.apply({}, jnp.ones((1, 10, 10, 1)), rngs={"pool": jax.random.key(0)}).shape
    (1, 7, 7, 1)
    """

    window_shape: PerAxis
    _: KW_ONLY
    output_shape: PerAxis | None = None
    output_ratio: Ratio | None = None
    axis: Axes | None = None
    sequence: str = "pseudorandom"
    overlapping: bool = True
    rng_collection: str = "pool"

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        key = self.make_rng(self.rng_collection)
        return jaxpool.fractional_max_pool(key, x, **arguments(self), where=where)


class SpatialPyramidPool(_Pool):
    """Pool into bins of several sizes, in one vector: `jaxpool.spatial_pyramid_pool` as a module.

        out = concat over levels l of flatten(adaptive_pool(x, (l, l)))
        [batch, *space, channels] -> [batch, bins * channels]

    (He, Zhang, Ren and Sun, 2014.)

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> jpl.SpatialPyramidPool((1, 2)).apply({}, jnp.ones((8, 13, 13, 4))).shape
    (8, 20)
    """

    levels: Levels = (1, 2, 4)
    _: KW_ONLY
    pool: str = "max"
    axis: Axes | None = None

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.spatial_pyramid_pool(x, **arguments(self), where=where)


class BlurPool(_Pool):
    """Blur, then keep every s-th element: `jaxpool.blur_pool` as a module (Zhang, 2019).

        out[i] = sum over j of h[j] x[i*s + j - lo], h binomial
        [batch, *space, channels] -> [batch, *out, channels]

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> jpl.BlurPool().apply({}, jnp.ones((1, 4, 4, 1))).shape
    (1, 2, 2, 1)
    """

    strides: PerAxis = 2
    _: KW_ONLY
    filter_size: PerAxis = 3
    padding: Padding = "REFLECT"
    axis: Axes | None = None

    def __call__(self, x: ArrayLike) -> jax.Array:
        return jaxpool.blur_pool(x, **arguments(self))


class MaxBlurPool(_Pool):
    """Take the maximum at stride 1, blur, and keep every s-th: `jaxpool.max_blur_pool` as a module.

        out = blur_pool(max_pool(x, window_shape, strides=1, padding="SAME"), strides)
        [*batch, *space, channels] -> [*batch, *out, channels]

    (Zhang, 2019.)

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> jpl.MaxBlurPool((2, 2)).apply({}, jnp.ones((1, 4, 4, 1))).shape
    (1, 2, 2, 1)
    """

    window_shape: PerAxis
    strides: PerAxis = 2
    _: KW_ONLY
    filter_size: PerAxis = 3
    padding: Padding = "REFLECT"
    axis: Axes | None = None

    def __call__(self, x: ArrayLike) -> jax.Array:
        return jaxpool.max_blur_pool(x, **arguments(self))


class StochasticPool(_Random, _Windowed, kw_only=True):
    """Draw an element of each window by its size: `jaxpool.stochastic_pool` as a module.

        out[i] = a[j] with probability a[j] / sum a over window i,    a = max(x, 0)
        [*batch, *space, channels] -> [*batch, *out, channels]

    Every call draws anew; where `deterministic`, the expectation is taken instead (Zeiler and
    Fergus, 2013). Streams and `deterministic`: see the top of `jaxpool.linen`.

    >>> import jax, jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.array([1.0, 3.0, 0.0, 2.0]).reshape(1, 4, 1)
    >>> jpl.StochasticPool((2,), deterministic=True).apply({}, x)[0, :, 0]
    Array([2.5, 2. ], dtype=float32)
    >>> pool = jpl.StochasticPool((2,))
    >>> pool.apply({}, x, deterministic=False, rngs={"pool": jax.random.key(0)}).shape
    (1, 2, 1)
    """

    def __call__(
        self, x: ArrayLike, where: ArrayLike | None = None, deterministic: bool | None = None
    ) -> jax.Array:
        key = self._key(deterministic)
        how = {"where": where, "deterministic": key is None}
        return jaxpool.stochastic_pool(key, x, **arguments(self), **how)


class MixedPool(_Learning, _Random, _Windowed, kw_only=True):
    """Blend the maximum and the average of each window: `jaxpool.mixed_pool`, alpha learnable.

        out[i] = alpha max + (1 - alpha) mean of x over window i
        [*batch, *space, channels] -> [*batch, *out, channels]

    How alpha is learned (`learn`, `channel_axis`) is written at the top of `jaxpool.linen` (Lee,
    Gallagher and Tu, 2016). `alpha="random"` draws 0 or 1 at even odds, anew for every call, one
    for the whole layer (Yu and others, 2014); where `deterministic`, it is their mean, 1/2. (Yu
    tests with whichever was drawn more often, which is chance.)

    >>> import jax, jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.array([0.0, 4.0, 6.0, 6.0]).reshape(1, 4, 1)
    >>> jpl.MixedPool((2,), alpha=0.25).apply({}, x)[0, :, 0]
    Array([2.5, 6. ], dtype=float32)
    >>> pool = jpl.MixedPool((2,), learn="channel")
    >>> pool.init(jax.random.key(0), x)["params"]["logit_alpha"]
    Array([0.], dtype=float32)
    """

    _scalar = ALPHA

    count_include_pad: bool = False
    alpha: ArrayLike | tuple[float, ...] | str = 0.5

    def __post_init__(self) -> None:
        check_alpha(self)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: ArrayLike, where: ArrayLike | None = None, deterministic: bool | None = None
    ) -> jax.Array:
        drawn = isinstance(self.alpha, str)
        alpha = random_alpha(self._key(deterministic)) if drawn else self._number(x)
        return jaxpool.mixed_pool(x, **arguments(self), alpha=alpha, where=where)


class GatedPool(_Windowed, kw_only=True):
    """Blend the maximum and the average as each window asks: `jaxpool.mixed_pool` behind a gate.

        out[i] = alpha[i] max + (1 - alpha[i]) mean of x over window i
        alpha[i] = sigmoid(sum of kernel * x over window i)
        [*batch, *space, channels] -> [*batch, *out, channels]

    The parameter is `kernel`, of the shape of the window, one for all channels (`learn="layer"`,
    the paper's choice) or with a last axis of one per channel (`learn="channel"`). It starts at 0,
    which is alpha = 1/2, unless `kernel_init` says otherwise. Elements that are padding or masked
    add nothing to the gate. `count_include_pad`: as for `jaxpool.mixed_pool`; `channel_axis`: see
    the top of `jaxpool.linen` (Lee, Gallagher and Tu, 2016).

    >>> import jax, jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.array([0.0, 4.0, 6.0, 6.0]).reshape(1, 4, 1)
    >>> y, variables = jpl.GatedPool((2,)).init_with_output(jax.random.key(0), x)
    >>> y[0, :, 0], variables["params"]["kernel"].shape
    (Array([3., 6.], dtype=float32), (2,))
    """

    count_include_pad: bool = False
    learn: Learn = "layer"
    channel_axis: int | None = None
    param_dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.zeros

    def __post_init__(self) -> None:
        super().__post_init__()
        check_gate(self)

    @nn.compact
    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        axis = channel_axis(self, x)
        shape = kernel_shape(self, np.shape(x)[axis] if self.learn == "channel" else None)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        return gated_pool(x, kernel, **arguments(self), where=where, channel_axis=axis)


class PolyphasePool(_Pool):
    """Subsample at the phase of the largest norm: `jaxpool.polyphase_pool` as a module.

        out[i] = x[i*s + p],    p = argmax over phases q of ||x[q], x[q + s], ...||
        [batch, *space, channels] -> [batch, *out, channels]

    A phase to take instead, another map's, is data and goes to the call.

    (Chaman and Dokmanic, 2021.)

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.array([1.0, 5, 2, 6]).reshape(1, 4, 1)
    >>> jpl.PolyphasePool().apply({}, x)[0, :, 0]
    Array([5., 6.], dtype=float32)
    """

    strides: PerAxis = 2
    _: KW_ONLY
    order: float = 2
    axis: Axes | None = None
    return_phase: bool = False
    strict: bool = False

    def __call__(
        self, x: ArrayLike, phase: ArrayLike | None = None
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        return jaxpool.polyphase_pool(x, **arguments(self), phase=phase)


class PolyphaseUnpool(_Pool):
    """Put a map back at its phase, with zeros elsewhere: `jaxpool.polyphase_unpool` as a module.

        out[i*s + p] = x[i]
        [batch, *space, channels] -> [batch, *output_shape, channels]

    (Chaman and Dokmanic, 2021.)

    >>> import jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.array([1.0, 5, 2, 6]).reshape(1, 4, 1)
    >>> y, phase = jpl.PolyphasePool(return_phase=True).apply({}, x)
    >>> jpl.PolyphaseUnpool().apply({}, y, phase)[0, :, 0]
    Array([0., 5., 0., 6.], dtype=float32)
    """

    strides: PerAxis = 2
    _: KW_ONLY
    output_shape: PerAxis | None = None
    axis: Axes | None = None

    def __call__(self, x: ArrayLike, phase: ArrayLike) -> jax.Array:
        return jaxpool.polyphase_unpool(x, phase, **arguments(self))


class LearnedPolyphasePool(_Random):
    """Subsample at the phase that a small network likes best.

        score[q] = dense(mean(relu(conv3x3(phase q of x))))    one network for all phases
        out = phase q of x,  q = argmax score                                 deterministic
        out = sum of w[q] * phase q of x,  w = softmax((score + g) / T)       in training

    with g of a Gumbel distribution, drawn anew for every call, phase and example: a mixture through
    which the scores learn, and the nearer to one phase the lower `temperature` T. Deterministic, it
    shifts with the map as `jaxpool.polyphase_pool` does, but for scores so near that rounding
    decides; what `strides`, `axis` and `strict` mean, and which axes share a phase,
    is written there. To share the choice between two maps, join their channels before, and split
    them after.

    Args:
      strides: the distance of the elements to take, an int or one per axis. Default: (2, 2).
      hidden: channels of the convolution, whose border is circular. Default: 16.
      temperature: T, one number above 0. Default: 1. Lower it in the course of training.
      axis, strict: as for `jaxpool.polyphase_pool`.
      deterministic: whether to take the best phase. This and streams: see the top of
        `jaxpool.linen`.

    (Rojas-Gomez, Lim, Schwing, Do and Yeh: Learnable Polyphase Sampling for Shift Invariant and
    Equivariant Convolutional Networks, 2022.)

    >>> import jax, jax.numpy as jnp, jaxpool.linen as jpl
    >>> x = jnp.arange(32.0).reshape(1, 4, 4, 2)
    >>> pool = jpl.LearnedPolyphasePool()
    >>> y, variables = pool.init_with_output(jax.random.key(0), x, deterministic=True)
    >>> y.shape
    (1, 2, 2, 2)
    >>> pool.apply(variables, x, deterministic=False, rngs={"pool": jax.random.key(1)}).shape
    (1, 2, 2, 2)
    """

    strides: PerAxis = (2, 2)
    _: KW_ONLY
    hidden: int = 16
    temperature: float = 1.0
    axis: Axes | None = None
    strict: bool = False

    @nn.compact
    def __call__(self, x: ArrayLike, deterministic: bool | None = None) -> jax.Array:
        def score(phases: jax.Array) -> jax.Array:
            conv = nn.Conv(size(self, "hidden"), (3,) * (phases.ndim - 2), padding="CIRCULAR")
            return mean_score(conv, nn.Dense(1, use_bias=False), phases)

        return learned_polyphase(self, x, score, self._key(deterministic))
