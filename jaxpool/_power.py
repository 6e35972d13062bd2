"""Power means: between average and max of |x|, by the power."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxpool import _bins, _norm, _prepare
from jaxpool._geometry import Axes, Padding, PerAxis, fail, flag, show, traced
from jaxpool._linear import of_alike
from jaxpool._prepare import Binned, Call


def lp_pool(
    x: ArrayLike,
    window_shape: PerAxis,
    strides: PerAxis | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: PerAxis = 1,
    ceil_mode: bool = False,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
    p: ArrayLike = 2.0,
    normalize: bool = False,
) -> jax.Array:
    """Take the p-norm of every window.

        out = (sum |x|^p)^(1/p),    with normalize=True: (mean |x|^p)^(1/p), the power mean

    The power mean runs from the average of |x| (p = 1) to its maximum (p = inf) and never leaves
    their interval; the norm runs from the sum to the maximum.

    Args:
      x: array [*batch, *space, channels] of floats, or any layout with `axis`.
      window_shape, strides, padding, window_dilation, ceil_mode, axis, where: as for
        `jaxpool.max_pool`; strides default to the window. Padding adds nothing and is not counted.
        (In ceil mode PyTorch scales the sum of a window that reaches beyond the map up to a full
        one; here it is the norm of what is there.)
      p: from 1 to inf: one number, traced or not, or one per channel (shape [channels]; for other
        layouts any shape that broadcasts against x outside the pooled axes). Default 2, the
        Euclidean norm. Numbers 1, 2, 3, 4 and inf of Python or NumPy take the fastest way. Any
        other p above 1e6 counts as 1e6, and so does inf as data: traced, in a `jax.Array`, or one
        per channel.
      normalize: sum (the default, as in PyTorch, whose LPPool lacks the |.|) or mean.

    Returns:
      The pooled array, with the dtype of x (16-bit floats are computed in float32). No power of an
      element overflows or vanishes, whatever the scale of x (for p above 50, up to 8e37). A window
      with a NaN is NaN, one without elements is 0.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, integer x and p below 1 among
        them, before anything is traced.

    Differentiates in both modes and to every order, in x and in p. The gradient of windows of zeros
    and of windows without elements is 0, and so is that of an element 0, for p = 1 too. p = inf has
    the gradient of `jaxpool.max_pool`. (An element so small beside the largest of its window that
    their quotient is no normal number counts as 0 in the gradient, but not for the number p = 1.)

    Sermanet, Chintala, LeCun: Convolutional Neural Networks Applied to House Numbers Digit
    Classification, 2012. With p learned: Gulcehre, Cho, Pascanu, Bengio: Learned-Norm Pooling for
    Deep Feedforward and Recurrent Neural Networks, 2014.

    >>> import jax.numpy as jnp
    >>> from jaxpool import lp_pool
    >>> x = jnp.array([3.0, -4.0, 0.0, 2.0])[:, None]
    >>> lp_pool(x, (2,))[:, 0]
    Array([5., 2.], dtype=float32)
    >>> lp_pool(x, (2,), p=1, normalize=True)[:, 0]
    Array([3.5, 1. ], dtype=float32)
    """
    call = _prepare.windowed(
        "lp_pool", x, window_shape, strides, padding, window_dilation, ceil_mode, axis, where
    )
    return pool("lp_pool", call, p, normalize=normalize)


def gem_pool(
    x: ArrayLike,
    window_shape: PerAxis,
    strides: PerAxis | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: PerAxis = 1,
    ceil_mode: bool = False,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
    p: ArrayLike = 3.0,
    eps: float = 1e-6,
) -> jax.Array:
    """Take the generalized mean ("GeM") of every window: the power mean of its positive elements.

        out = (mean max(x, eps)^p)^(1/p)

    It runs from the average (p = 1) to the maximum (p = inf) of max(x, eps).

    Args:
      x: array [*batch, *space, channels] of floats, or any layout with `axis`.
      window_shape, strides, padding, window_dilation, ceil_mode, axis, where: as for
        `jaxpool.max_pool`; strides default to the window. Padding adds nothing and is not counted.
      p: as for `jaxpool.lp_pool`. Default 3, the paper's.
      eps: what smaller elements are raised to, 0 or more. Default 1e-6, the authors'.

    Returns:
      The pooled array; dtype, scale, NaN and empty windows as for `jaxpool.lp_pool`.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, integer x and p below 1 among
        them, before anything is traced.

    Differentiates as `jaxpool.lp_pool` does; elements below eps have gradient 0.

    Radenovic, Tolias, Chum: Fine-tuning CNN Image Retrieval with No Human Annotation, 2018.

    >>> import jax.numpy as jnp
    >>> from jaxpool import gem_pool
    >>> gem_pool(jnp.array([4.0, 4.0, -5.0, 2.0])[:, None], (2,))[:, 0].round(4)  # 2 / 2^(1/3)
    Array([4.    , 1.5874], dtype=float32)
    """
    call = _prepare.windowed(
        "gem_pool", x, window_shape, strides, padding, window_dilation, ceil_mode, axis, where
    )
    return _gem("gem_pool", call, p, eps)


def global_lp_pool(
    x: ArrayLike,
    *,
    axis: Axes | None = None,
    keepdims: bool = False,
    where: ArrayLike | None = None,
    p: ArrayLike = 2.0,
    normalize: bool = False,
) -> jax.Array:
    """Take the p-norm over whole axes.

    Args:
      x: array [batch, *space, channels] of floats, or any layout with `axis`.
      axis, keepdims, where: as for `jaxpool.global_max_pool`.
      p, normalize: as for `jaxpool.lp_pool`.

    Returns:
      The pooled array; dtype, NaN, empty windows and derivatives as for `jaxpool.lp_pool`.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    >>> import jax.numpy as jnp
    >>> from jaxpool import global_lp_pool
    >>> global_lp_pool(jnp.full((1, 2, 8, 3), -2.0))
    Array([[8., 8., 8.]], dtype=float32)
    """
    call = _prepare.whole("global_lp_pool", x, axis, where)
    return pool("global_lp_pool", call, p, normalize=normalize, keepdims=keepdims)


def global_gem_pool(
    x: ArrayLike,
    *,
    axis: Axes | None = None,
    keepdims: bool = False,
    where: ArrayLike | None = None,
    p: ArrayLike = 3.0,
    eps: float = 1e-6,
) -> jax.Array:
    """Take the generalized mean ("GeM") over whole axes, the paper's descriptor of an image.

    Args:
      x: array [batch, *space, channels] of floats, or any layout with `axis`.
      axis, keepdims, where: as for `jaxpool.global_max_pool`.
      p, eps: as for `jaxpool.gem_pool`.

    Returns:
      The pooled array; dtype, NaN, empty windows and derivatives as for `jaxpool.gem_pool`.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    >>> import jax.numpy as jnp
    >>> from jaxpool import global_gem_pool
    >>> global_gem_pool(jnp.full((1, 4, 4, 3), 2.0)).round(4)
    Array([[2., 2., 2.]], dtype=float32)
    """
    call = _prepare.whole("global_gem_pool", x, axis, where)
    return _gem("global_gem_pool", call, p, eps, keepdims=keepdims)


def _gem(name: str, call: Call, p: Any, eps: Any, **how: Any) -> jax.Array:
    remedy = "a small number, such as 1e-6"
    try:
        if isinstance(eps, bool | str):
            raise TypeError
        least = float(eps)
    except Exception:
        remedy += ", known before tracing" if traced(eps) else ""
        fail(name, f"eps={show(eps)} is not a number", remedy, TypeError)
    if not 0 <= least < np.inf:
        fail(name, f"eps={show(eps)} is not 0 or more and finite", remedy)
    return pool(name, call, p, least=least, normalize=True, **how)


def pool(
    name: str,
    call: Call | Binned,
    p: Any,
    normalize: bool,
    least: float | None = None,
    keepdims: bool = True,
) -> jax.Array:
    """The norm, or power mean, of every window or bin; `least` is what elements are raised to."""
    _prepare.floats(name, call)
    array, known = _prepare.power(name, p, call), _known(p)
    how = {
        "normalize": flag(name, "normalize", normalize),
        "keepdims": flag(name, "keepdims", keepdims),
    }
    with jax.named_scope(name):
        return _jitted(*call, array, known=known, least=least, **how)


def _known(p: Any) -> int | float | None:
    """p where it is a number, not data, with a way of its own."""
    one = isinstance(p, int | float | np.number) or (isinstance(p, np.ndarray) and p.ndim == 0)
    return next((known for known in (*_norm.WHOLE, np.inf) if one and p == known), None)


@partial(jax.jit, static_argnames=("windows", "known", "least", "normalize", "keepdims"))
@of_alike
def _jitted(x, where, windows, p, *, known, least, normalize, keepdims):
    wide = x.astype(_prepare.wide(x.dtype))
    p = jnp.where(p > _norm.MOST, _norm.MOST, p)  # a minimum halves the slope at MOST
    y = _norm.norm(wide, windows, p, known, where, least, normalize)
    if normalize and known != np.inf:
        n = _bins.count(where, windows, x.ndim, y.dtype)
        y = y * _norm.root(_norm.room(windows) / jnp.maximum(n, 1), p, known)
    return _prepare.squeeze(y.astype(x.dtype), windows, keepdims)
