"""Stochastic pooling: one element of every window, drawn with its own size as its odds."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxpool import _prepare, _sums, _winners
from jaxpool._geometry import Axes, Padding, PerAxis, flag
from jaxpool._linear import apart, curved, of_alike
from jaxpool._pairs import few_taps, of_seen, reach, sum_at_windows
from jaxpool._plan import Group, is_disjoint, is_few, size_of, together
from jaxpool._regions import cut_all, over_outputs
from jaxpool._slices import real, widen
from jaxpool._window import shape_of

# Up to how many elements are drawn from at once, in windows apart, and in those that overlap, of
# several axes or of one. A key's draws hang on these, so no tuning of how loops run changes them.
APART, JOINT, ALONG = 16, 9, 7


def stochastic_pool(
    key: ArrayLike | None,
    x: ArrayLike,
    window_shape: PerAxis,
    strides: PerAxis | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: PerAxis = 1,
    ceil_mode: bool = False,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
    deterministic: bool = False,
) -> jax.Array:
    """Draw one element of every window, large ones more often than small ones.

        out = a[j] with probability a[j] / sum a,    a = max(x, 0)
        out = sum of a*a / sum a, its expectation,   where deterministic

    Args:
      key: a key of `jax.random`, which is one set of draws, the same eager and under `jit`;
        `jax.vmap` over keys gives each example its own. None will do where deterministic.
      x: array [*batch, *space, channels] of floats, or any layout with `axis`; activations that
        are not negative, such as those after a ReLU, since elements below 0 are taken for 0.
      window_shape, strides, padding, window_dilation, ceil_mode, axis, where: as for
        `jaxpool.max_pool`; strides default to the window. Padding is never drawn.
      deterministic: take the expectation instead, as the paper does in testing. Default False.
        The name is that of Flax's Dropout.

    Returns:
      The pooled array, with the dtype of x (16-bit floats are computed in float32). A window with a
      NaN is NaN, else one with +inf is +inf, and so is an expectation where the sum of the elements
      above 0 overflows; one without an element above 0 is 0. (Below 1e-34 a draw may take them for
      0.)

    Raises:
      ValueError, TypeError: for arguments that do not fit together, integer x among them, before
        anything is traced.

    Every window is drawn from the distribution above. Windows that overlap are drawn independently,
    as in the paper, where they have up to nine elements (seven, of one axis). Larger ones that
    overlap share random numbers: neighbours pick the same element more often than independent draws
    would.

    Differentiates in both modes and to every order. Drawn, the whole gradient of a window goes to
    its element, if that is above 0. The expectation is smooth where x is not 0; its gradient is 0
    for windows without an element above 0, and NaN for those that are +inf.

    Zeiler, Fergus: Stochastic Pooling for Regularization of Deep Convolutional Neural Networks,
    2013.

    >>> import jax, jax.numpy as jnp
    >>> from jaxpool import stochastic_pool
    >>> x = jnp.array([1.0, 3.0, 0.0, 2.0])
    >>> stochastic_pool(None, x, 2, axis=0, deterministic=True)  # (1 + 9)/4, and 4/2
    Array([2.5, 2. ], dtype=float32)
    >>> keys = jax.random.split(jax.random.key(0), 1000)
    >>> y = jax.vmap(lambda key: stochastic_pool(key, x, 2, axis=0))(keys)
    >>> y.mean(0).round(1)
    Array([2.5, 2. ], dtype=float32)
    """
    name = "stochastic_pool"
    key = None if flag(name, "deterministic", deterministic) else _prepare.key(name, key)
    call = _prepare.windowed(
        name, x, window_shape, strides, padding, window_dilation, ceil_mode, axis, where
    )
    _prepare.floats(name, call)
    with jax.named_scope(name):
        return _jitted(*call, key)


@partial(jax.jit, static_argnames=("windows",))
@of_alike
def _jitted(x, where, windows, key):
    x = real(x, where)
    if key is not None:
        return _size(_drawn(key, x, windows))
    size = _size(of_seen(x.astype(_prepare.wide(x.dtype)), windows, ()))
    return _expected(size, windows).astype(x.dtype)


def _size(x: jax.Array) -> jax.Array:
    """max(x, 0), and NaN stays."""
    return jnp.where(x <= 0, jnp.zeros((), x.dtype), x)


# ---- one element, at random ----


def _drawn(key: jax.Array, x: jax.Array, windows: Group) -> jax.Array:
    """Draw from small windows by their sums, a few axes at a time: one random number per window.

    From large ones as a race, with one per element.
    """
    groups = together(windows, _is_small)
    weight = lax.stop_gradient(x)
    if not all(_is_small(group) for group in groups):
        _, steps = _winners.winners(_race(key, weight), windows, largest=True)
        for group, winner in steps:
            x = _pick(x, winner, group)
        return x
    wide, tiny = _prepare.wide(x.dtype), float(jnp.finfo(jnp.float32).tiny)
    for each, group in zip(jax.random.split(key, len(groups)), groups, strict=True):
        u = jax.random.uniform(each, shape_of(group, x.shape), jnp.float32, tiny)  # never 0
        x = _pick(x, apart(_chosen, weight, u.astype(wide), group=group), group)
        weight = _sums.total(_size(weight.astype(wide)) / APART, group)
    return x


def _is_small(group: Group) -> bool:
    """Whether a loop that draws reads all elements of a window."""
    most = APART if is_disjoint(group) else JOINT if len(group) > 1 else ALONG
    return size_of(group) <= most


def _pick(a: jax.Array, winner: jax.Array, group: Group) -> jax.Array:
    return _winners.pick({"t": a}, winner, ("t",), group=group)["t"]


def _chosen(weight: jax.Array, u: jax.Array, group: Group) -> jax.Array:
    """The first tap up to which the sum of the weights is above u*sum, for u in (0, 1).

    It is the first NaN or else the first +inf where there is one, and any where all weights are 0.
    """
    none, dtype = size_of(group), jnp.dtype(jnp.uint8)

    def of_region(taps: list, full: Callable, at: tuple) -> jax.Array:
        if not taps:
            return full(none, dtype)
        sums = []
        for _, slab in taps:
            part = _size(widen(slab)) / APART  # so that no sum is infinite
            sums.append(sums[-1] + part if sums else part)
        goal = jnp.minimum(cut_all(u, at) * sums[-1], float(jnp.finfo(u.dtype).max))
        tap = full(taps[-1][0], dtype)
        for (earlier, _), so_far in zip(taps[-2::-1], sums[-2::-1], strict=True):
            reached = (so_far > goal) | (so_far != so_far)
            tap = jnp.where(reached, jnp.asarray(earlier, dtype), tap)
        return tap

    return over_outputs(of_region, weight, group)


def _race(key: jax.Array, weight: jax.Array) -> jax.Array:
    """Minus the logarithm of exponential times of rates `weight`: the largest is the first, and
    that is each with a probability in proportion to its rate."""
    weight = _size(weight.astype(_prepare.wide(weight.dtype)))
    u = (jax.random.bits(key, weight.shape, jnp.uint32).astype(jnp.float32) + 0.5) * 2.0**-32
    u = jnp.minimum(u, 1 - 2.0**-24).astype(weight.dtype)
    return jnp.log(weight) - jnp.log(-jnp.log1p(-u))


# ---- the expectation ----


@curved(statics=1)
def _expected(a: jax.Array, windows: Group) -> jax.Array:
    """sum a*a / sum a, as weighted means of weighted means: a square could overflow."""
    weight, mean = a, a
    for axes in together(windows, is_few):
        for group in few_taps(axes):
            whole = _sums.total(weight, group)
            mean = apart(_weighted, weight, mean, whole, group=group)
            weight = whole
    return mean


@_expected.defjvp
def _(windows, primals, tangents):
    """y' = sum of (2a - y)*a' / sum a."""
    (a,), (dot,) = primals, tangents
    y = _expected(a, windows)
    slope = 2 * _sums.total(a * dot, windows) - y * _sums.total(dot, windows)
    return y, slope / _or_one(_sums.total(a, windows))


def _weighted(weight: jax.Array, mean: jax.Array, whole: jax.Array, group: Group) -> jax.Array:
    """The mean of each window's means, each by its share of the whole weight."""

    def terms(cell: dict, around: dict, _: Any) -> tuple[jax.Array]:
        return (cell["weight"] / around["divisor"] * cell["mean"],)

    def of_sums(around: dict, mean: jax.Array, *_: jax.Array) -> jax.Array:
        return jnp.where(around["whole"] == jnp.inf, jnp.inf, mean)

    cells, group = reach({"weight": weight, "mean": mean}, group)
    around = {"whole": whole, "divisor": _or_one(whole)}
    rate = jnp.ones((1,) * mean.ndim, mean.dtype)
    return sum_at_windows(terms, of_sums, cells, around, rate, group)


def _or_one(whole: jax.Array) -> jax.Array:
    """A sum to divide by; the parts of an empty one are 0."""
    return jnp.where(whole == 0, 1, whole)
