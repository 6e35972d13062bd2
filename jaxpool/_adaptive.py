"""Adaptive pooling: the output size is given, the windows follow."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxpool import _bins, _power, _prepare, _softmax
from jaxpool._geometry import Axes
from jaxpool._linear import of_alike
from jaxpool._prepare import Binned

Size = int | None
OutputShape = Size | Sequence[Size]


def adaptive_max_pool(
    x: ArrayLike,
    output_shape: OutputShape,
    *,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Take the largest element of every bin, whatever the size of x.

        out[i] = max of x[floor(i*L/o) : ceil((i+1)*L/o)]

    along each pooled axis of L elements and o bins (PyTorch's rule). Neighbouring bins share an
    element where o does not divide L; where it does, they are windows of L/o side by side. o = 1
    is the whole axis, o = L is x itself, and there may be more bins than elements.

    Args:
      x: array [*batch, *space, channels], any real dtype, or any layout with `axis`.
      output_shape: bins o, one entry per pooled axis; None keeps an axis as it is. One int needs
        `axis`.
      axis: the axes to pool, an int or several; `output_shape` follows its order. Default: the
        `len(output_shape)` axes before the last one (channels last).
      where: boolean mask that broadcasts to x; elements where it is False do not exist.

    Returns:
      The pooled array [*batch, *output_shape, channels], with the dtype of x. A bin with a NaN is
      NaN. A bin that `where` leaves empty is -inf, or an integer dtype's lowest value.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    Differentiates as `jaxpool.max_pool` does: the first winner of a bin gets its whole gradient,
    and an element that wins several bins the sum of theirs.

    >>> import jax.numpy as jnp
    >>> from jaxpool import adaptive_max_pool
    >>> adaptive_max_pool(jnp.arange(10.0), 4, axis=0)  # bins [0, 3), [2, 5), [5, 8), [7, 10)
    Array([2., 4., 7., 9.], dtype=float32)
    >>> adaptive_max_pool(jnp.ones((8, 10, 9, 3)), (None, 7)).shape
    (8, 10, 7, 3)
    """
    call = _prepare.adaptive("adaptive_max_pool", x, output_shape, axis, where)
    return _extremum("adaptive_max_pool", call, largest=True)


def adaptive_min_pool(
    x: ArrayLike,
    output_shape: OutputShape,
    *,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Take the smallest element of every bin, whatever the size of x.

        out[i] = min of x[floor(i*L/o) : ceil((i+1)*L/o)]

    Args:
      x: array [*batch, *space, channels], any real dtype, or any layout with `axis`.
      output_shape, axis, where: as for `jaxpool.adaptive_max_pool`.

    Returns:
      The pooled array, with the dtype of x. A bin with a NaN is NaN. A bin that `where` leaves
      empty is +inf, or an integer dtype's highest value.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    Differentiates as `jaxpool.min_pool` does.

    >>> import jax.numpy as jnp
    >>> from jaxpool import adaptive_min_pool
    >>> adaptive_min_pool(jnp.arange(10.0), 4, axis=0)
    Array([0., 2., 5., 7.], dtype=float32)
    """
    call = _prepare.adaptive("adaptive_min_pool", x, output_shape, axis, where)
    return _extremum("adaptive_min_pool", call, largest=False)


def adaptive_sum_pool(
    x: ArrayLike,
    output_shape: OutputShape,
    *,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Add up the elements of every bin, whatever the size of x.

        out[i] = sum of x[floor(i*L/o) : ceil((i+1)*L/o)]

    Args:
      x: array [*batch, *space, channels], any dtype, or any layout with `axis`.
      output_shape, axis, where: as for `jaxpool.adaptive_max_pool`.

    Returns:
      The pooled array; dtype, NaN and derivatives as for `jaxpool.sum_pool`. A bin that `where`
      leaves empty is 0.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    >>> import jax.numpy as jnp
    >>> from jaxpool import adaptive_sum_pool
    >>> adaptive_sum_pool(jnp.arange(10.0), 4, axis=0)
    Array([ 3.,  9., 18., 24.], dtype=float32)
    """
    call = _prepare.adaptive("adaptive_sum_pool", x, output_shape, axis, where)
    return _linear("adaptive_sum_pool", call, mean=False)


def adaptive_avg_pool(
    x: ArrayLike,
    output_shape: OutputShape,
    *,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Average the elements of every bin, whatever the size of x.

        out[i] = mean of x[floor(i*L/o) : ceil((i+1)*L/o)]

    Args:
      x: array [*batch, *space, channels], any dtype, or any layout with `axis`.
      output_shape, axis, where: as for `jaxpool.adaptive_max_pool`.

    Returns:
      The pooled array; dtype, NaN and derivatives as for `jaxpool.avg_pool`. A bin that `where`
      leaves empty is 0.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    >>> import jax.numpy as jnp
    >>> from jaxpool import adaptive_avg_pool
    >>> adaptive_avg_pool(jnp.arange(10.0), 4, axis=0)
    Array([1., 3., 6., 8.], dtype=float32)
    >>> adaptive_avg_pool(jnp.array([1.0, 2.0, 3.0]), 5, axis=0)
    Array([1. , 1.5, 2. , 2.5, 3. ], dtype=float32)
    """
    call = _prepare.adaptive("adaptive_avg_pool", x, output_shape, axis, where)
    return _linear("adaptive_avg_pool", call, mean=True)


def adaptive_lse_pool(
    x: ArrayLike,
    output_shape: OutputShape,
    *,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    normalize: bool = True,
) -> jax.Array:
    """Take the log-sum-exp of every bin, whatever the size of x.

        out[i] = T*log(mean of exp(x/T) over bin i),    normalize=False: the sum

    Args:
      x: array [*batch, *space, channels] of floats, or any layout with `axis`.
      output_shape, axis, where: as for `jaxpool.adaptive_max_pool`.
      temperature, normalize: as for `jaxpool.lse_pool`.

    Returns:
      The pooled array; dtype, NaN, empty bins and derivatives as for `jaxpool.lse_pool`.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    >>> import jax.numpy as jnp
    >>> from jaxpool import adaptive_lse_pool
    >>> adaptive_lse_pool(jnp.zeros(10), 4, axis=0, normalize=False).round(4)  # log(3)
    Array([1.0986, 1.0986, 1.0986, 1.0986], dtype=float32)
    """
    call = _prepare.adaptive("adaptive_lse_pool", x, output_shape, axis, where)
    kind = _softmax.kind_of("adaptive_lse_pool", normalize)
    return _softmax.pool("adaptive_lse_pool", call, temperature, kind=kind)


def adaptive_softmax_pool(
    x: ArrayLike,
    output_shape: OutputShape,
    *,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
) -> jax.Array:
    """Average every bin with the softmax of its own elements as weights, whatever the size of x.

        out[i] = sum of softmax(x/T)*x over bin i

    Args:
      x: array [*batch, *space, channels] of floats, or any layout with `axis`.
      output_shape, axis, where: as for `jaxpool.adaptive_max_pool`.
      temperature: as for `jaxpool.lse_pool`.

    Returns:
      The pooled array; dtype, NaN, empty bins and derivatives as for `jaxpool.softmax_pool`.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    >>> import jax.numpy as jnp
    >>> from jaxpool import adaptive_softmax_pool
    >>> adaptive_softmax_pool(jnp.array([1.0, 1.0, 2.0]), 2, axis=0).round(4)
    Array([1.    , 1.7311], dtype=float32)
    """
    call = _prepare.adaptive("adaptive_softmax_pool", x, output_shape, axis, where)
    return _softmax.pool("adaptive_softmax_pool", call, temperature, kind="softmax")


def adaptive_lp_pool(
    x: ArrayLike,
    output_shape: OutputShape,
    *,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
    p: ArrayLike = 2.0,
    normalize: bool = False,
) -> jax.Array:
    """Take the p-norm of every bin, whatever the size of x.

        out[i] = (sum of |x|^p over bin i)^(1/p),    normalize=True: the mean

    Args:
      x: array [*batch, *space, channels] of floats, or any layout with `axis`.
      output_shape, axis, where: as for `jaxpool.adaptive_max_pool`.
      p, normalize: as for `jaxpool.lp_pool`.

    Returns:
      The pooled array; dtype, NaN, empty bins and derivatives as for `jaxpool.lp_pool`.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    >>> import jax.numpy as jnp
    >>> from jaxpool import adaptive_lp_pool
    >>> adaptive_lp_pool(jnp.array([3.0, 4.0, 12.0]), 2, axis=0).round(4)  # bins [3, 4], [4, 12]
    Array([ 5.    , 12.6491], dtype=float32)
    """
    call = _prepare.adaptive("adaptive_lp_pool", x, output_shape, axis, where)
    return _power.pool("adaptive_lp_pool", call, p, normalize=normalize)


def _extremum(name: str, call: Binned, **how: Any) -> jax.Array:
    _prepare.real_numbers(name, call)
    with jax.named_scope(name):
        return _jitted(*call, **how)


@partial(jax.jit, static_argnames=("axes", "largest"))
@of_alike
def _jitted(x, where, axes, *, largest):
    return _bins.extremum(x, axes, largest, where)


@partial(jax.jit, static_argnames=("axes",))
@of_alike
def _jitted_sum(x, where, axes):
    return _bins.total(x, axes, mask=where)


@partial(jax.jit, static_argnames=("axes",))
@of_alike
def _jitted_mean(x, where, axes):
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(jnp.float32)
    wide = _prepare.wide(x.dtype)
    n = _bins.count(where, axes, x.ndim, jnp.finfo(wide).dtype)
    return _bins.total(x, axes, jnp.maximum(n, 1).astype(wide), where)


def _linear(name: str, call: Binned, mean: bool) -> jax.Array:
    with jax.named_scope(name):
        return (_jitted_mean if mean else _jitted_sum)(*call)


# What may become of a bin, by name.
POOLS: dict[str, Callable[[str, Binned], jax.Array]] = {
    "max": partial(_extremum, largest=True),
    "min": partial(_extremum, largest=False),
    "avg": partial(_linear, mean=True),
    "sum": partial(_linear, mean=False),
    "lp": partial(_power.pool, p=2.0, normalize=False),
    "lse": partial(_softmax.pool, temperature=1.0, kind="mean"),
    "softmax": partial(_softmax.pool, temperature=1.0, kind="softmax"),
}
