"""Pooling as Flax NNX modules: each is a function of `jaxpool` with its arguments stored.

Write `import jaxpool.nnx as jpn`; `import jaxpool` alone does not load Flax.

Classes have their function's arguments, with the same names and defaults, and `__call__(x, where)`
is one call of that function: what the arguments mean, and what happens at NaN, ties, padding and
empty windows, is written there. What is data goes to the call: the mask `where`, which blurs,
unpoolings and polyphase poolings lack, `indices` and `phase`. `GatedPool` and
`LearnedPolyphasePool` have parameters of their own, and no function.
Lists and NumPy arrays are stored as tuples, which NNX takes as static; a `temperature` or `p` given
as a jax.Array is data to NNX, so it may change between two calls of a compiled function.

`LSEPool`, `SoftmaxPool`, `LpPool`, `GeMPool` and their global and adaptive forms (GeM has no
adaptive one) may learn their `temperature` or their `p`:

- `learn=None` keeps the number fixed, `learn="layer"` learns one for the whole layer,
  `learn="channel"` one per channel.
- `temperature` (or `p`) is where learning starts: one number, or one per channel.
- `features` says how many channels there are: NNX makes its parameters before it sees any x. Only
  `learn="channel"` needs it, and only where the start is one number.
- The parameter is `log_temperature` (or `raw_p`), an `nnx.Param` of shape () or (features,), in
  `param_dtype`, float32 unless told. T = exp(log_temperature), and p = 1 + softplus(raw_p): T stays
  between 2e-9 and 5e8, and p between 1 and 1000, wherever an optimizer takes the parameter.
- The channels are the last axis of x that is not pooled, in both layouts; `channel_axis` names
  another. A one-dimensional `temperature` or `p`, learned or not, lies along that axis.

So may `MixedPool` its `alpha`, from 0 to 1: alpha = sigmoid(logit_alpha).

`FractionalMaxPool`, `StochasticPool`, `LearnedPolyphasePool`, and `MixedPool` with
`alpha="random"`, draw from the stream `rng_collection`, "pool" unless told, of `rngs`: the module's
or the call's, which may be that stream itself. From its own a module forks another when it is made,
as Flax's Dropout does; `rng_collection="dropout"` names that of Dropout. `deterministic`, which the
first lacks, is Dropout's too: an argument of the module (default False) or of the call, and what
`train()`, `eval()` and `nnx.view` set.

The same classes for Linen are in `jaxpool.linen`.
"""

from contextlib import suppress
from dataclasses import KW_ONLY, InitVar
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
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

Streams = nnx.Rngs | nnx.RngStream | None


class _Pool(nnx.Module):
    """The base of all: lists and NumPy arrays are stored as tuples, which are static to NNX."""

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, plain(value))


@nnx.dataclass(eq=False)
class _Windowed(_Pool):
    """The arguments of a pooling with a window."""

    window_shape: PerAxis
    strides: PerAxis | None = None
    padding: Padding = "VALID"
    _: KW_ONLY
    window_dilation: PerAxis = 1
    ceil_mode: bool = False
    axis: Axes | None = None


@nnx.dataclass(eq=False, kw_only=True)
class _Global(_Pool):
    """The arguments of a pooling over whole axes."""

    axis: Axes | None = None
    keepdims: bool = False


@nnx.dataclass(eq=False)
class _Adaptive(_Pool):
    """The arguments of a pooling into a given number of bins."""

    output_shape: OutputShape
    _: KW_ONLY
    axis: Axes | None = None


@nnx.dataclass(eq=False)
class _Output(_Pool):
    """The arguments of an unpooling."""

    output_shape: PerAxis
    _: KW_ONLY
    axis: Axes | None = None


@nnx.dataclass(eq=False, kw_only=True)
class _Learning(_Pool):
    """A number, fixed or learned: the field that `_scalar` names."""

    _scalar = TEMPERATURE

    learn: Learn = None
    features: int | None = None
    channel_axis: int | None = None
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        scalar = self._scalar
        check_learn(self, scalar)
        if self.learn is not None:
            start = plain(getattr(self, scalar.name), (jax.Array,))  # no longer data
            setattr(self, scalar.name, start)
            setattr(self, scalar.parameter, nnx.Param(initial(self, scalar, self._channels())))

    def _channels(self) -> int | None:
        """Return how many numbers to learn; None: one for the layer."""
        start = getattr(self, self._scalar.name)
        if self.learn == "channel" and self.features is None and np.ndim(start) > 0:
            return np.size(start)
        return _channels(self)

    def _number(self, x: ArrayLike) -> ArrayLike:
        scalar, axis = self._scalar, channel_axis(self, x)
        if self.learn is None:
            return along(self, scalar, getattr(self, scalar.name), x, axis)
        number = learned(scalar, getattr(self, scalar.parameter)[...])
        _check_channels(self, number, x, axis)
        return along(self, scalar, number, x, axis)


def _check_channels(module: Any, number: jax.Array, x: ArrayLike, axis: int) -> None:
    """Refuse numbers for other channels than x has; one would do for all, and silently."""
    shape, of = np.shape(x), module._scalar.name
    if number.ndim and number.shape[0] != shape[axis]:
        raise ValueError(
            f"{type(module).__name__}: {of} is learned for features={number.shape[0]}, but axis "
            f"{axis} of x of shape {shape} has {shape[axis]}. Write features={shape[axis]}, or "
            "learn='layer'."
        )


def _channels(module: Any) -> int | None:
    """Return how many channels to learn for; None: the layer learns as one."""
    if module.learn == "channel" and module.features is None:
        raise ValueError(
            f"{type(module).__name__}: learn='channel' needs the number of channels, which NNX "
            "cannot read off x. Write features=64 (your number), or learn='layer'."
        )
    return size(module, "features") if module.learn == "channel" else None


@nnx.dataclass(eq=False, kw_only=True)
class _Tempered(_Learning):
    """A temperature, fixed or learned."""

    temperature: ArrayLike | tuple[float, ...] = 1.0


@nnx.dataclass(eq=False, kw_only=True)
class _Drawing(_Pool):
    """A stream of its own, as Dropout's: two modules that are given the same `rngs` draw apart even
    where each is copied, as `jax.jit` does."""

    rng_collection: str = "pool"
    rngs: Streams = None

    def __post_init__(self) -> None:
        stream = _stream(self.rngs, self.rng_collection)
        if stream is not None:
            self.rngs = stream.fork()

    def _drawn(self, rngs: Streams) -> jax.Array:
        """Return a new key, of the call's `rngs` or of its own."""
        return _draw(self, self.rngs if rngs is None else rngs, self.rng_collection)


@nnx.dataclass(eq=False, kw_only=True)
class _Random(_Drawing):
    """A key for every call, None where deterministic."""

    deterministic: bool = False

    def _key(self, deterministic: bool | None, rngs: Streams) -> jax.Array | None:
        given = self.deterministic if deterministic is None else deterministic
        if flag(type(self).__name__, "deterministic", given):
            return None
        return self._drawn(rngs)

    def set_view(self, deterministic: bool | None = None) -> None:
        """Set `deterministic`, for `nnx.view`."""
        if deterministic is not None:
            self.deterministic = deterministic


def _stream(rngs: Any, name: str) -> nnx.RngStream | None:
    """Return the stream of this name, or the one that `rngs` is."""
    if isinstance(rngs, nnx.Rngs):
        with suppress(KeyError):
            return rngs[name]
    return rngs if isinstance(rngs, nnx.RngStream) else None


def _draw(module: Any, rngs: Streams, name: str) -> jax.Array:
    """Return a new key of the stream of this name."""
    stream = _stream(rngs, name)
    if stream is None:
        raise ValueError(
            f"{type(module).__name__}: {_given(rngs)} has no stream {name!r}. Write "
            f"rngs=nnx.Rngs({name}=0), for the module or for the call."
        )
    return stream()


def _given(rngs: Any) -> str:
    return "rngs=None" if rngs is None else f"rngs of type {type(rngs).__name__}"


@nnx.dataclass(eq=False, kw_only=True)
class _Powered(_Learning):
    """A power, fixed or learned."""

    _scalar = POWER

    p: ArrayLike | tuple[float, ...] = 2.0


@nnx.dataclass(eq=False, kw_only=True)
class _GeM(_Powered):
    """The power and the least element of a generalized mean."""

    p: ArrayLike | tuple[float, ...] = 3.0
    eps: float = 1e-6


@nnx.dataclass(eq=False)
class MaxPool(_Windowed):
    """Take the maximum of each window: `jaxpool.max_pool` as a module.

        out[i] = max of x over window i
        [*batch, *space, channels] -> [*batch, *out, channels]

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpn.MaxPool((2, 2))(x)[0, :, :, 0]
    Array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.max_pool(x, **arguments(self), where=where)


@nnx.dataclass(eq=False)
class MinPool(_Windowed):
    """Take the minimum of each window: `jaxpool.min_pool` as a module.

        out[i] = min of x over window i
        [*batch, *space, channels] -> [*batch, *out, channels]

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpn.MinPool((2, 2))(x)[0, :, :, 0]
    Array([[ 0.,  2.],
           [ 8., 10.]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.min_pool(x, **arguments(self), where=where)


@nnx.dataclass(eq=False)
class SumPool(_Windowed):
    """Add up each window: `jaxpool.sum_pool` as a module.

        out[i] = sum of x over window i
        [*batch, *space, channels] -> [*batch, *out, channels]

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpn.SumPool((2, 2))(x)[0, :, :, 0]
    Array([[10., 18.],
           [42., 50.]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.sum_pool(x, **arguments(self), where=where)


@nnx.dataclass(eq=False, kw_only=True)
class AvgPool(_Windowed):
    """Average each window: `jaxpool.avg_pool` as a module.

        out[i] = (sum of x over window i) / n[i]
        [*batch, *space, channels] -> [*batch, *out, channels]

    n[i] counts padding too (`count_include_pad=True`, as in Flax and PyTorch), or only the elements
    of x (as in Keras), or is `divisor_override`.

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpn.AvgPool((2, 2))(x)[0, :, :, 0]
    Array([[ 2.5,  4.5],
           [10.5, 12.5]], dtype=float32)
    """

    count_include_pad: bool = True
    divisor_override: float | None = None

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.avg_pool(x, **arguments(self), where=where)


@nnx.dataclass(eq=False, kw_only=True)
class LSEPool(_Tempered, _Windowed):
    """Take the log-sum-exp of each window: `jaxpool.lse_pool`, T learnable.

        out[i] = T log(mean of exp(x / T) over window i)
        [*batch, *space, channels] -> [*batch, *out, channels]

    T -> 0 is the maximum and T -> infinity the mean; `normalize=False` sums instead of averaging
    (Pinheiro and Collobert, 2015).
    How T is learned (`learn`, `features`, `channel_axis`) is written at the top of `jaxpool.nnx`.

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> pool = jpn.LSEPool((2, 2), temperature=0.5, learn="channel", features=3)
    >>> jnp.exp(pool.log_temperature[...])
    Array([0.5, 0.5, 0.5], dtype=float32)
    >>> pool(jnp.ones((1, 4, 4, 3))).shape
    (1, 2, 2, 3)
    """

    normalize: bool = True

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        t = self._number(x)
        return jaxpool.lse_pool(x, **arguments(self), temperature=t, where=where)


@nnx.dataclass(eq=False, kw_only=True)
class SoftmaxPool(_Tempered, _Windowed):
    """Weigh each window by its own softmax: `jaxpool.softmax_pool`, T learnable.

        out[i] = sum of softmax(x / T) x over window i
        [*batch, *space, channels] -> [*batch, *out, channels]

    T -> 0 is the maximum, T -> infinity the mean, and T = 1 "SoftPool" (Stergiou, Poppe and
    Kalliatakis, 2021). How T is learned (`learn`, `features`, `channel_axis`) is written at the top
    of `jaxpool.nnx`.

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> pool = jpn.SoftmaxPool((2, 2), temperature=2.0, learn="layer")
    >>> jnp.exp(pool.log_temperature[...])
    Array(2., dtype=float32)
    >>> pool(jnp.ones((1, 4, 4, 3))).shape
    (1, 2, 2, 3)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        t = self._number(x)
        return jaxpool.softmax_pool(x, **arguments(self), temperature=t, where=where)


@nnx.dataclass(eq=False, kw_only=True)
class LpPool(_Powered, _Windowed):
    """Take the p-norm of each window: `jaxpool.lp_pool`, p learnable.

        out[i] = (sum of |x|^p over window i)^(1/p)
        [*batch, *space, channels] -> [*batch, *out, channels]

    p = 1 is the sum and p = inf the maximum of |x|; with `normalize=True`, p = 1 is the average.
    How p is learned is written at the top of `jaxpool.nnx` (Gulcehre, Cho, Pascanu and Bengio,
    2014).

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> pool = jpn.LpPool((2, 2), learn="channel", features=3)
    >>> pool(jnp.ones((1, 4, 4, 3))).shape
    (1, 2, 2, 3)
    >>> pool.raw_p.shape
    (3,)
    """

    normalize: bool = False

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        p = self._number(x)
        return jaxpool.lp_pool(x, **arguments(self), p=p, where=where)


@nnx.dataclass(eq=False, kw_only=True)
class GeMPool(_GeM, _Windowed):
    """Take the generalized mean of each window: `jaxpool.gem_pool`, p learnable.

        out[i] = (mean of max(x, eps)^p over window i)^(1/p)
        [*batch, *space, channels] -> [*batch, *out, channels]

    How p is learned is written at the top of `jaxpool.nnx` (Radenovic, Tolias and Chum, 2018).

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> pool = jpn.GeMPool((2, 2), learn="layer")
    >>> pool(jnp.ones((1, 4, 4, 3))).shape
    (1, 2, 2, 3)
    >>> pool.raw_p.shape
    ()
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        p = self._number(x)
        return jaxpool.gem_pool(x, **arguments(self), p=p, where=where)


@nnx.dataclass(eq=False)
class GlobalMaxPool(_Global):
    """Take the maximum over whole axes: `jaxpool.global_max_pool` as a module.

        out = max of x over all positions
        [batch, *space, channels] -> [batch, channels]

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> jpn.GlobalMaxPool()(jnp.arange(8.0).reshape(1, 2, 2, 2))
    Array([[6., 7.]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.global_max_pool(x, **arguments(self), where=where)


@nnx.dataclass(eq=False)
class GlobalMinPool(_Global):
    """Take the minimum over whole axes: `jaxpool.global_min_pool` as a module.

        out = min of x over all positions
        [batch, *space, channels] -> [batch, channels]

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> jpn.GlobalMinPool()(jnp.arange(8.0).reshape(1, 2, 2, 2))
    Array([[0., 1.]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.global_min_pool(x, **arguments(self), where=where)


@nnx.dataclass(eq=False)
class GlobalSumPool(_Global):
    """Add up whole axes: `jaxpool.global_sum_pool` as a module.

        out = sum of x over all positions
        [batch, *space, channels] -> [batch, channels]

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> jpn.GlobalSumPool()(jnp.arange(8.0).reshape(1, 2, 2, 2))
    Array([[12., 16.]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.global_sum_pool(x, **arguments(self), where=where)


@nnx.dataclass(eq=False)
class GlobalAvgPool(_Global):
    """Average whole axes: `jaxpool.global_avg_pool` as a module (Lin, Chen and Yan, 2014).

        out = mean of x over all positions
        [batch, *space, channels] -> [batch, channels]

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> jpn.GlobalAvgPool()(jnp.arange(8.0).reshape(1, 2, 2, 2))
    Array([[3., 4.]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.global_avg_pool(x, **arguments(self), where=where)


@nnx.dataclass(eq=False, kw_only=True)
class GlobalLSEPool(_Tempered, _Global):
    """Take the log-sum-exp over whole axes: `jaxpool.global_lse_pool`, T learnable.

        out = T log(mean of exp(x / T) over all positions)
        [batch, *space, channels] -> [batch, channels]

    `temperature`, `normalize` and how T is learned: see `LSEPool` (Pinheiro and Collobert, 2015).

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> pool = jpn.GlobalLSEPool(learn="channel", features=2)
    >>> pool(jnp.ones((1, 2, 2, 2))).shape, pool.log_temperature.shape
    ((1, 2), (2,))
    """

    normalize: bool = True

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        t = self._number(x)
        return jaxpool.global_lse_pool(x, **arguments(self), temperature=t, where=where)


@nnx.dataclass(eq=False, kw_only=True)
class GlobalSoftmaxPool(_Tempered, _Global):
    """Weigh whole axes by their softmax: `jaxpool.global_softmax_pool`, T learnable.

        out = sum of softmax(x / T) x over all positions
        [batch, *space, channels] -> [batch, channels]

    `temperature` and how T is learned: see `SoftmaxPool`.

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> pool = jpn.GlobalSoftmaxPool(learn="channel", features=2)
    >>> pool(jnp.ones((1, 2, 2, 2))).shape, pool.log_temperature.shape
    ((1, 2), (2,))
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        t = self._number(x)
        return jaxpool.global_softmax_pool(x, **arguments(self), temperature=t, where=where)


@nnx.dataclass(eq=False, kw_only=True)
class GlobalLpPool(_Powered, _Global):
    """Take the p-norm over whole axes: `jaxpool.global_lp_pool`, p learnable.

        out = (sum of |x|^p over all positions)^(1/p)
        [batch, *space, channels] -> [batch, channels]

    `p`, `normalize` and how p is learned: see `LpPool`.

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> pool = jpn.GlobalLpPool(learn="layer")
    >>> pool(jnp.ones((1, 2, 2, 3))).shape
    (1, 3)
    >>> pool.raw_p.shape
    ()
    """

    normalize: bool = False

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        p = self._number(x)
        return jaxpool.global_lp_pool(x, **arguments(self), p=p, where=where)


@nnx.dataclass(eq=False, kw_only=True)
class GlobalGeMPool(_GeM, _Global):
    """Take the generalized mean over whole axes: `jaxpool.global_gem_pool`, p learnable.

        out = (mean of max(x, eps)^p over all positions)^(1/p)
        [batch, *space, channels] -> [batch, channels]

    The image descriptor of Radenovic, Tolias and Chum (2018). `p`, `eps` and how p is learned: see
    `GeMPool`.

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> pool = jpn.GlobalGeMPool(learn="layer")
    >>> pool(jnp.ones((1, 2, 2, 3))).shape
    (1, 3)
    >>> pool.raw_p.shape
    ()
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        p = self._number(x)
        return jaxpool.global_gem_pool(x, **arguments(self), p=p, where=where)


@nnx.dataclass(eq=False)
class MaxPoolWithIndices(_Windowed):
    """Take the largest element of each window, and say where: `jaxpool.max_pool_with_indices`.

        out[i], index[i] = max and argmax of x over window i
        [*batch, *space, channels] -> twice [*batch, *out, channels]

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpn.MaxPoolWithIndices((2, 2))(x)[1][0, :, :, 0]
    Array([[ 5,  7],
           [13, 15]], dtype=int32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]:
        return jaxpool.max_pool_with_indices(x, **arguments(self), where=where)


@nnx.dataclass(eq=False)
class MinPoolWithIndices(_Windowed):
    """Take the smallest element of each window, and say where: `jaxpool.min_pool_with_indices`.

        out[i], index[i] = min and argmin of x over window i
        [*batch, *space, channels] -> twice [*batch, *out, channels]

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpn.MinPoolWithIndices((2, 2))(x)[1][0, :, :, 0]
    Array([[ 0,  2],
           [ 8, 10]], dtype=int32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]:
        return jaxpool.min_pool_with_indices(x, **arguments(self), where=where)


@nnx.dataclass(eq=False)
class AdaptiveMaxPool(_Adaptive):
    """Take the maximum of each bin: `jaxpool.adaptive_max_pool` as a module.

        out[i] = max of x over bin i
        [*batch, *space, channels] -> [*batch, *output_shape, channels]

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpn.AdaptiveMaxPool((1, 1))(x)
    Array([[[[15.]]]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.adaptive_max_pool(x, **arguments(self), where=where)


@nnx.dataclass(eq=False)
class AdaptiveMinPool(_Adaptive):
    """Take the minimum of each bin: `jaxpool.adaptive_min_pool` as a module.

        out[i] = min of x over bin i
        [*batch, *space, channels] -> [*batch, *output_shape, channels]

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpn.AdaptiveMinPool((1, 1))(x)
    Array([[[[0.]]]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.adaptive_min_pool(x, **arguments(self), where=where)


@nnx.dataclass(eq=False)
class AdaptiveSumPool(_Adaptive):
    """Add up the elements of each bin: `jaxpool.adaptive_sum_pool` as a module.

        out[i] = sum of x over bin i
        [*batch, *space, channels] -> [*batch, *output_shape, channels]

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpn.AdaptiveSumPool((1, 1))(x)
    Array([[[[120.]]]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.adaptive_sum_pool(x, **arguments(self), where=where)


@nnx.dataclass(eq=False)
class AdaptiveAvgPool(_Adaptive):
    """Take the average of each bin: `jaxpool.adaptive_avg_pool` as a module.

        out[i] = mean of x over bin i
        [*batch, *space, channels] -> [*batch, *output_shape, channels]

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpn.AdaptiveAvgPool((1, 1))(x)
    Array([[[[7.5]]]], dtype=float32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.adaptive_avg_pool(x, **arguments(self), where=where)


@nnx.dataclass(eq=False, kw_only=True)
class AdaptiveLSEPool(_Tempered, _Adaptive):
    """Take the log-sum-exp of each bin: `jaxpool.adaptive_lse_pool`, T learnable.

        out[i] = T log(mean of exp(x / T) over bin i)
        [*batch, *space, channels] -> [*batch, *output_shape, channels]

    `temperature`, `normalize` and how T is learned: see `LSEPool`.

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> pool = jpn.AdaptiveLSEPool((3, 3), learn="channel", features=2)
    >>> pool(jnp.ones((1, 4, 4, 2))).shape, pool.log_temperature.shape
    ((1, 3, 3, 2), (2,))
    """

    normalize: bool = True

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        t = self._number(x)
        return jaxpool.adaptive_lse_pool(x, **arguments(self), temperature=t, where=where)


@nnx.dataclass(eq=False, kw_only=True)
class AdaptiveSoftmaxPool(_Tempered, _Adaptive):
    """Take the softmax-weighted mean of each bin: `jaxpool.adaptive_softmax_pool`, T learnable.

        out[i] = sum of softmax(x / T) x over bin i
        [*batch, *space, channels] -> [*batch, *output_shape, channels]

    `temperature` and how T is learned: see `SoftmaxPool`.

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> pool = jpn.AdaptiveSoftmaxPool((3, 3), learn="channel", features=2)
    >>> pool(jnp.ones((1, 4, 4, 2))).shape, pool.log_temperature.shape
    ((1, 3, 3, 2), (2,))
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        t = self._number(x)
        return jaxpool.adaptive_softmax_pool(x, **arguments(self), temperature=t, where=where)


@nnx.dataclass(eq=False, kw_only=True)
class AdaptiveLpPool(_Powered, _Adaptive):
    """Take the p-norm of each bin: `jaxpool.adaptive_lp_pool`, p learnable.

        out[i] = (sum of |x|^p over bin i)^(1/p)
        [*batch, *space, channels] -> [*batch, *output_shape, channels]

    `p`, `normalize` and how p is learned: see `LpPool`.

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> pool = jpn.AdaptiveLpPool((3, 3), learn="channel", features=3)
    >>> pool(jnp.ones((1, 4, 4, 3))).shape
    (1, 3, 3, 3)
    >>> pool.raw_p.shape
    (3,)
    """

    normalize: bool = False

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        p = self._number(x)
        return jaxpool.adaptive_lp_pool(x, **arguments(self), p=p, where=where)


@nnx.dataclass(eq=False)
class AdaptiveMaxPoolWithIndices(_Adaptive):
    """Take the maximum of each bin, and say where: `jaxpool.adaptive_max_pool_with_indices`.

        out[i], index[i] = max and argmax of x over bin i
        [*batch, *space, channels] -> twice [*batch, *output_shape, channels]

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> jpn.AdaptiveMaxPoolWithIndices((1, 1))(x)[1]
    Array([[[[15]]]], dtype=int32)
    """

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]:
        return jaxpool.adaptive_max_pool_with_indices(x, **arguments(self), where=where)


@nnx.dataclass(eq=False)
class MaxUnpool(_Output):
    """Put pooled values back where they came from: `jaxpool.max_unpool` as a module.

        out[index[i]] = x[i]
        twice [*batch, *space, channels] -> [*batch, *output_shape, channels]

    (Zeiler and Fergus, 2014.)

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> x = jnp.array([1.0, 5, 2, 3]).reshape(1, 4, 1)
    >>> y, indices = jpn.MaxPoolWithIndices((2,))(x)
    >>> jpn.MaxUnpool((4,))(y, indices)[0, :, 0]
    Array([0., 5., 0., 3.], dtype=float32)
    """

    def __call__(self, x: ArrayLike, indices: ArrayLike) -> jax.Array:
        return jaxpool.max_unpool(x, indices, **arguments(self))


@nnx.dataclass(eq=False)
class FractionalMaxPool(_Drawing):
    """Take the maximum of windows that lie at random: `jaxpool.fractional_max_pool` as a module.

        out[i] = max of x[start[i] : start[i] + k]
        [*batch, *space, channels] -> [*batch, *out, channels]

    Every call draws its windows anew, from the stream `rng_collection` of `rngs`, the module's or
    the call's (Graham, 2014).

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> from flax import nnx
    >>> pool = jpn.FractionalMaxPool((2, 2), output_ratio=0.7, rngs=nnx.Rngs(pool=0))
    >>> pool(jnp.ones((1, 10, 10, 1))).shape
    (1, 7, 7, 1)
    """

    window_shape: PerAxis
    _: KW_ONLY
    output_shape: PerAxis | None = None
    output_ratio: Ratio | None = None
    axis: Axes | None = None
    sequence: str = "pseudorandom"
    overlapping: bool = True

    def __call__(
        self, x: ArrayLike, where: ArrayLike | None = None, *, rngs: Streams = None
    ) -> jax.Array:
        return jaxpool.fractional_max_pool(self._drawn(rngs), x, **arguments(self), where=where)


@nnx.dataclass(eq=False)
class SpatialPyramidPool(_Pool):
    """Pool into bins of several sizes, in one vector: `jaxpool.spatial_pyramid_pool` as a module.

        out = concat over levels l of flatten(adaptive_pool(x, (l, l)))
        [batch, *space, channels] -> [batch, bins * channels]

    (He, Zhang, Ren and Sun, 2014.)

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> jpn.SpatialPyramidPool((1, 2))(jnp.ones((8, 13, 13, 4))).shape
    (8, 20)
    """

    levels: Levels = (1, 2, 4)
    _: KW_ONLY
    pool: str = "max"
    axis: Axes | None = None

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        return jaxpool.spatial_pyramid_pool(x, **arguments(self), where=where)


@nnx.dataclass(eq=False)
class BlurPool(_Pool):
    """Blur, then keep every s-th element: `jaxpool.blur_pool` as a module (Zhang, 2019).

        out[i] = sum over j of h[j] x[i*s + j - lo], h binomial
        [batch, *space, channels] -> [batch, *out, channels]

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> jpn.BlurPool()(jnp.ones((1, 4, 4, 1))).shape
    (1, 2, 2, 1)
    """

    strides: PerAxis = 2
    _: KW_ONLY
    filter_size: PerAxis = 3
    padding: Padding = "REFLECT"
    axis: Axes | None = None

    def __call__(self, x: ArrayLike) -> jax.Array:
        return jaxpool.blur_pool(x, **arguments(self))


@nnx.dataclass(eq=False)
class MaxBlurPool(_Pool):
    """Take the maximum at stride 1, blur, and keep every s-th: `jaxpool.max_blur_pool` as a module.

        out = blur_pool(max_pool(x, window_shape, strides=1, padding="SAME"), strides)
        [*batch, *space, channels] -> [*batch, *out, channels]

    (Zhang, 2019.)

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> jpn.MaxBlurPool((2, 2))(jnp.ones((1, 4, 4, 1))).shape
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


@nnx.dataclass(eq=False, kw_only=True)
class StochasticPool(_Random, _Windowed):
    """Draw an element of each window by its size: `jaxpool.stochastic_pool` as a module.

        out[i] = a[j] with probability a[j] / sum a over window i,    a = max(x, 0)
        [*batch, *space, channels] -> [*batch, *out, channels]

    Every call draws anew; where `deterministic`, the expectation is taken instead (Zeiler and
    Fergus, 2013). Streams and `deterministic`: see the top of `jaxpool.nnx`.

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> from flax import nnx
    >>> x = jnp.array([1.0, 3.0, 0.0, 2.0]).reshape(1, 4, 1)
    >>> jpn.StochasticPool((2,), deterministic=True)(x)[0, :, 0]
    Array([2.5, 2. ], dtype=float32)
    >>> jpn.StochasticPool((2,), rngs=nnx.Rngs(pool=0))(x).shape
    (1, 2, 1)
    """

    def __call__(
        self,
        x: ArrayLike,
        where: ArrayLike | None = None,
        *,
        deterministic: bool | None = None,
        rngs: Streams = None,
    ) -> jax.Array:
        key = self._key(deterministic, rngs)
        how = {"where": where, "deterministic": key is None}
        return jaxpool.stochastic_pool(key, x, **arguments(self), **how)


@nnx.dataclass(eq=False, kw_only=True)
class MixedPool(_Learning, _Random, _Windowed):
    """Blend the maximum and the average of each window: `jaxpool.mixed_pool`, alpha learnable.

        out[i] = alpha max + (1 - alpha) mean of x over window i
        [*batch, *space, channels] -> [*batch, *out, channels]

    How alpha is learned (`learn`, `features`, `channel_axis`) is written at the top of
    `jaxpool.nnx` (Lee, Gallagher and Tu, 2016). `alpha="random"` draws 0 or 1 at even odds, anew
    for every call, one for the whole layer (Yu and others, 2014); where `deterministic`, it is
    their mean, 1/2. (Yu tests with whichever was drawn more often, which is chance.)

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> x = jnp.array([0.0, 4.0, 6.0, 6.0]).reshape(1, 4, 1)
    >>> jpn.MixedPool((2,), alpha=0.25)(x)[0, :, 0]
    Array([2.5, 6. ], dtype=float32)
    >>> jpn.MixedPool((2,), learn="channel", features=1).logit_alpha[...]
    Array([0.], dtype=float32)
    """

    _scalar = ALPHA

    count_include_pad: bool = False
    alpha: ArrayLike | tuple[float, ...] | str = 0.5

    def __post_init__(self) -> None:
        check_alpha(self)
        _Learning.__post_init__(self)
        _Random.__post_init__(self)

    def __call__(
        self,
        x: ArrayLike,
        where: ArrayLike | None = None,
        *,
        deterministic: bool | None = None,
        rngs: Streams = None,
    ) -> jax.Array:
        drawn = isinstance(self.alpha, str)
        alpha = random_alpha(self._key(deterministic, rngs)) if drawn else self._number(x)
        return jaxpool.mixed_pool(x, **arguments(self), alpha=alpha, where=where)


@nnx.dataclass(eq=False, kw_only=True)
class GatedPool(_Windowed):
    """Blend the maximum and the average as each window asks: `jaxpool.mixed_pool` behind a gate.

        out[i] = alpha[i] max + (1 - alpha[i]) mean of x over window i
        alpha[i] = sigmoid(sum of kernel * x over window i)
        [*batch, *space, channels] -> [*batch, *out, channels]

    The parameter is `kernel`, of the shape of the window, one for all channels (`learn="layer"`,
    the paper's choice) or with a last axis of one per channel (`learn="channel"`, which needs
    `features`). It starts at 0, which is alpha = 1/2, unless `kernel_init` says otherwise, with a
    key of the stream "params" of `rngs`. Elements that are padding or masked add nothing to the
    gate. `count_include_pad`: as for `jaxpool.mixed_pool`; `channel_axis`: see the top of
    `jaxpool.nnx` (Lee, Gallagher and Tu, 2016).

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> x = jnp.array([0.0, 4.0, 6.0, 6.0]).reshape(1, 4, 1)
    >>> pool = jpn.GatedPool((2,))
    >>> pool(x)[0, :, 0], pool.kernel.shape
    (Array([3., 6.], dtype=float32), (2,))
    """

    count_include_pad: bool = False
    learn: Learn = "layer"
    features: int | None = None
    channel_axis: int | None = None
    param_dtype: DTypeLike = jnp.float32
    kernel_init: nnx.initializers.Initializer = nnx.initializers.zeros
    rngs: InitVar[nnx.Rngs | None] = None

    def __post_init__(self, rngs: nnx.Rngs | None) -> None:
        check_gate(self)
        if rngs is None and self.kernel_init is not nnx.initializers.zeros:
            raise ValueError(
                "GatedPool: rngs=None has no key for kernel_init. Write rngs=nnx.Rngs(0)."
            )
        zeros = self.kernel_init is nnx.initializers.zeros  # which need no key
        key = jax.random.key(0) if zeros else _draw(self, rngs, "params")
        shape = kernel_shape(self, _channels(self))
        self.kernel = nnx.Param(self.kernel_init(key, shape, self.param_dtype))

    def __call__(self, x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
        how = {"where": where, "channel_axis": channel_axis(self, x)}
        return gated_pool(x, self.kernel[...], **arguments(self), **how)


@nnx.dataclass(eq=False)
class PolyphasePool(_Pool):
    """Subsample at the phase of the largest norm: `jaxpool.polyphase_pool` as a module.

        out[i] = x[i*s + p],    p = argmax over phases q of ||x[q], x[q + s], ...||
        [batch, *space, channels] -> [batch, *out, channels]

    A phase to take instead, another map's, is data and goes to the call.

    (Chaman and Dokmanic, 2021.)

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> x = jnp.array([1.0, 5, 2, 6]).reshape(1, 4, 1)
    >>> jpn.PolyphasePool()(x)[0, :, 0]
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


@nnx.dataclass(eq=False)
class PolyphaseUnpool(_Pool):
    """Put a map back at its phase, with zeros elsewhere: `jaxpool.polyphase_unpool` as a module.

        out[i*s + p] = x[i]
        [batch, *space, channels] -> [batch, *output_shape, channels]

    (Chaman and Dokmanic, 2021.)

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> x = jnp.array([1.0, 5, 2, 6]).reshape(1, 4, 1)
    >>> y, phase = jpn.PolyphasePool(return_phase=True)(x)
    >>> jpn.PolyphaseUnpool()(y, phase)[0, :, 0]
    Array([0., 5., 0., 6.], dtype=float32)
    """

    strides: PerAxis = 2
    _: KW_ONLY
    output_shape: PerAxis | None = None
    axis: Axes | None = None

    def __call__(self, x: ArrayLike, phase: ArrayLike) -> jax.Array:
        return jaxpool.polyphase_unpool(x, phase, **arguments(self))


@nnx.dataclass(eq=False)
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
      strides: the distance of the elements to take, one per axis, or an int with `axis`. Default:
        (2, 2).
      hidden: channels of the convolution, whose border is circular. Default: 16.
      temperature: T, one number above 0. Default: 1. Lower it in the course of training.
      axis, strict: as for `jaxpool.polyphase_pool`.
      deterministic: whether to take the best phase. This and streams: see the top of
        `jaxpool.nnx`.
      features: the number of channels of x, which NNX has to know before it sees any.
      rngs: where the parameters and g come from.

    (Rojas-Gomez, Lim, Schwing, Do and Yeh: Learnable Polyphase Sampling for Shift Invariant and
    Equivariant Convolutional Networks, 2022.)

    >>> import jax.numpy as jnp, jaxpool.nnx as jpn
    >>> from flax import nnx
    >>> pool = jpn.LearnedPolyphasePool(features=2, rngs=nnx.Rngs(0))
    >>> x = jnp.arange(32.0).reshape(1, 4, 4, 2)
    >>> pool(x).shape, pool(x, deterministic=True).shape
    ((1, 2, 2, 2), (1, 2, 2, 2))
    """

    strides: PerAxis = (2, 2)
    _: KW_ONLY
    features: int
    hidden: int = 16
    temperature: float = 1.0
    axis: Axes | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.rngs, nnx.Rngs):
            raise ValueError(
                f"LearnedPolyphasePool: {_given(self.rngs)} has no key for its parameters. Write"
                " rngs=nnx.Rngs(0)."
            )
        kernel = (3,) * self._axes()
        features, hidden = size(self, "features"), size(self, "hidden")
        self.conv = nnx.Conv(features, hidden, kernel, padding="CIRCULAR", rngs=self.rngs)
        self.dense = nnx.Linear(hidden, 1, use_bias=False, rngs=self.rngs)
        super().__post_init__()

    def _axes(self) -> int:
        """Return how many axes are pooled."""
        for given in (self.strides, self.axis):
            if isinstance(given, tuple):
                return len(given)
        if self.axis is not None:
            return 1
        raise ValueError(
            f"LearnedPolyphasePool: strides={self.strides} does not say how many axes are pooled,"
            " which NNX cannot read off x. Write strides=(2, 2) for images."
        )

    def __call__(
        self, x: ArrayLike, *, deterministic: bool | None = None, rngs: Streams = None
    ) -> jax.Array:
        return learned_polyphase(self, x, self._score, self._key(deterministic, rngs))

    def _score(self, phases: jax.Array) -> jax.Array:
        if phases.shape[-1] != self.features:
            raise ValueError(
                f"LearnedPolyphasePool: features={self.features}, but x has {phases.shape[-1]} "
                f"channels. Write features={phases.shape[-1]}."
            )
        return mean_score(self.conv, self.dense, phases)
