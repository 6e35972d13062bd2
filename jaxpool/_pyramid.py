"""Spatial pyramid pooling: adaptive pools of several sizes, in one vector."""

from math import prod

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxpool import _geometry, _prepare
from jaxpool._adaptive import POOLS
from jaxpool._geometry import Axes, Levels, fail


def spatial_pyramid_pool(
    x: ArrayLike,
    levels: Levels = (1, 2, 4),
    *,
    pool: str = "max",
    axis: Axes | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Pool into l bins per axis for every level l, and write all bins into one vector.

        out = concat over l of flatten(adaptive_pool(x, (l, l)))

    Its length, sum of l^n * channels over n axes, does not depend on the size of x, so that a dense
    layer can follow maps of any size.

    Args:
      x: array [batch, *space, channels] of a dtype that the pool takes, or any layout with `axis`.
      levels: bins per axis, one entry per level: an int, or one int per pooled axis. Default
        (1, 2, 4): 21 bins for images.
      pool: what becomes of a bin: "max" (the default, the paper's), "min", "avg", "sum", "lp",
        "lse" or "softmax", as by `jaxpool.adaptive_max_pool` and its sisters, with the numbers
        that these have by default.
      axis: the axes to pool. Default: all but the first and the last.
      where: boolean mask that broadcasts to x; elements where it is False do not exist.

    Returns:
      Array [*others, sum of bins * channels], others being the axes that are neither pooled nor
      channels, and channels the last axis that is not pooled. Levels follow one another; within
      one, bins are in row-major order of the array's axes, and all channels of a bin are together.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    Dtype, NaN, empty bins and derivatives: as for the adaptive pool.

    He, Zhang, Ren, Sun: Spatial Pyramid Pooling in Deep Convolutional Networks, 2014.

    >>> import jax.numpy as jnp
    >>> from jaxpool import spatial_pyramid_pool
    >>> spatial_pyramid_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), (1, 2))
    Array([[15.,  5.,  7., 13., 15.]], dtype=float32)
    >>> [spatial_pyramid_pool(jnp.ones((8, n, n, 256))).shape for n in (10, 13)]
    [(8, 5376), (8, 5376)]
    """
    name = "spatial_pyramid_pool"
    x = _prepare.array(name, x)
    if not isinstance(pool, str) or pool not in POOLS:
        known = ", ".join(f'"{word}"' for word in POOLS)
        fail(name, f"pool={pool!r} is not known", f"one of {known}")
    axes, bins = _geometry.pyramid(name, x.shape, levels, axis)
    others = [a for a in range(x.ndim) if a not in axes]
    if others:  # channels and bins become one axis
        _prepare.not_split(name, x, others[-1])
    parts = []
    for level in bins:
        y = POOLS[pool](name, _prepare.adaptive(name, x, level, axes, where))
        y = lax.transpose(y, [*others[:-1], *axes, *others[-1:]])
        lead = len(others[:-1])
        parts.append(y.reshape(*y.shape[:lead], prod(y.shape[lead:])))
    return jnp.concatenate(parts, -1)
