"""Fractional max pooling: windows at random distances, for any ratio of sizes."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxpool import _geometry, _prepare, _winners
from jaxpool._geometry import Axes, PerAxis, Ratio, fail, flag, show
from jaxpool._lay import Tables, repeat
from jaxpool._linear import of_alike
from jaxpool._window import Fraction


def fractional_max_pool(
    key: ArrayLike | None,
    x: ArrayLike,
    window_shape: PerAxis,
    *,
    output_shape: PerAxis | None = None,
    output_ratio: Ratio | None = None,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
    sequence: str = "pseudorandom",
    overlapping: bool = True,
    samples: ArrayLike | None = None,
) -> jax.Array:
    """Take the largest element of windows that lie at random, from the first element to the last.

        out[i] = max over j < k of x[start[i] + j]

    along each pooled axis of L elements, window k and o windows, from start[0] = 0 to
    start[o-1] = L - k. (A single window, o = 1, is the last one, as in PyTorch.) With
    a = (L - k)/(o - 1) and one u in [0, 1) per axis, the starts are

        floor(a*(i + u)) - floor(a*u)                  sequence="pseudorandom", near to equal steps
        sums of steps floor(a) and ceil(a), shuffled   sequence="random"

    Args:
      key: a key of `jax.random`. One key is one set of windows, for all examples and channels of
        the call, on every platform and under `jit`; `jax.vmap` over keys gives each example its
        own.
      x: array [*batch, *space, channels], any real dtype, or any layout with `axis`.
      window_shape: elements per window, one entry per pooled axis; one int needs `axis`.
      output_shape: windows per axis, an int or one per axis. Either this or `output_ratio`.
      output_ratio: output size over input size, between 0 and 1, a number or one per axis; the size
        is rounded down (PyTorch's rule), but is at least 1.
      axis: the axes to pool, an int or several; entries of the other arguments follow its order.
        Default: the `len(window_shape)` axes before the last one (channels last).
      where: boolean mask that broadcasts to x; elements where it is False do not exist.
      sequence: "pseudorandom" (the default, as in PyTorch) or "random", the paper's words.
      overlapping: whether every window has its k elements (the default, as in PyTorch) or ends
        where the next one starts, so that no element is in two (the paper's disjoint regions, but
        of no more than k elements: where steps are larger, some are in none).
      samples: u itself, one number in [0, 1) per pooled axis, instead of a key's; for
        "pseudorandom" alone, and `key` may then be None. On axes of up to 65536 elements they are
        read to 15 bits or more. (PyTorch's, one set per example and channel, are in this order in
        3-D; in 2-D they are width, then height.)

    Returns:
      The pooled array, with the dtype of x. A window with a NaN is NaN; one that `where` leaves
      empty is -inf, or an integer dtype's lowest value.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, among them more windows than
        fit, before anything is traced.

    Differentiates as `jaxpool.max_pool` does.

    Graham: Fractional Max-Pooling, 2014.

    >>> import jax.numpy as jnp
    >>> from jaxpool import fractional_max_pool
    >>> x = jnp.arange(25.0).reshape(5, 5, 1)
    >>> fractional_max_pool(None, x, (2, 2), output_shape=3, samples=(0.5, 0.5))[..., 0]
    Array([[ 6.,  8.,  9.],
           [16., 18., 19.],
           [21., 23., 24.]], dtype=float32)
    >>> fractional_max_pool(jax.random.key(0), x, (2, 2), output_ratio=0.7).shape
    (3, 3, 1)
    """
    name = "fractional_max_pool"
    x = _prepare.array(name, x)
    axes = _geometry.fractional(name, x.shape, window_shape, output_shape, output_ratio, axis)
    _prepare.on_one_device(name, x, axes)
    call = _prepare.Binned(x, _prepare.mask(name, x, where, axes), axes)
    _prepare.real_numbers(name, call)
    if not isinstance(sequence, str) or sequence not in ("pseudorandom", "random"):
        fail(name, f"sequence={show(sequence)} is not known", '"pseudorandom" or "random"')
    if samples is None:
        key = _prepare.key(name, key)
    elif sequence == "random":
        fail(name, 'sequence="random" takes no samples', 'a key, or sequence="pseudorandom"')
    else:
        samples = _samples(name, samples, len(axes))
    overlapping = flag(name, "overlapping", overlapping)
    with jax.named_scope(name):
        return _jitted(*call, key if samples is None else None, samples, sequence, overlapping)


@partial(jax.jit, static_argnames=("axes", "sequence", "overlapping"))
@of_alike
def _jitted(x, where, axes, key, samples, sequence, overlapping):
    order = np.argsort([f.axis for f in axes], stable=True)  # last axes first, as ever
    starts = _starts(axes, key, samples, sequence)
    for i in reversed(order):
        f, table = axes[i], _tables(axes[i], starts[i], overlapping)
        x = repeat(x, f.axis, table)
        where = None if where is None else repeat(where, f.axis, table)
        x = _winners.extremum(x, (f.window,), largest=True, mask=where)
        where = None if where is None else _winners.extremum(where, (f.window,), largest=True)
    return x


def _starts(axes: tuple[Fraction, ...], key: Any, samples: Any, sequence: str) -> list[jax.Array]:
    """Where the windows of each axis start."""
    if sequence == "random":
        keys = jax.random.split(key, len(axes))
        return [_shuffled(f, k) for f, k in zip(axes, keys, strict=True)]
    if samples is None:
        draws = jax.random.bits(key, (len(axes),), jnp.uint32)
        return [_even(f, draw >> (32 - f.bits)) for f, draw in zip(axes, draws, strict=True)]
    return [
        _even(f, jnp.floor(u * float(2**f.bits)).astype(jnp.uint32))
        for f, u in zip(axes, samples, strict=True)
    ]


def _even(f: Fraction, u: jax.Array) -> jax.Array:
    """floor(a*(i + u)) - floor(a*u) for a = reach/steps and u in units of 2**-bits: in integers,
    which are the same on every platform."""
    if f.steps == 0:
        return jnp.full(1, f.reach, jnp.int32)
    whole, rest = np.divmod(np.arange(f.out) * f.reach, f.steps)
    au = u * jnp.uint32(f.reach)
    part = (jnp.asarray(rest << f.bits, jnp.uint32) + au) >> f.bits
    less = (au >> f.bits) // jnp.uint32(f.steps)
    return jnp.asarray(whole, jnp.int32) + (part // jnp.uint32(f.steps) - less).astype(jnp.int32)


def _shuffled(f: Fraction, key: jax.Array) -> jax.Array:
    if f.steps == 0:
        return jnp.full(1, f.reach, jnp.int32)
    step, longer = divmod(f.reach, f.steps)
    steps = step + (jax.random.permutation(key, f.steps) < longer).astype(jnp.int32)
    return jnp.pad(jnp.cumsum(steps, dtype=jnp.int32), (1, 0))


def _tables(f: Fraction, starts: jax.Array, overlapping: bool) -> Tables:
    stops = starts + f.size
    if not overlapping:
        stops = jnp.minimum(stops, jnp.pad(starts[1:], (0, 1), constant_values=f.length))
    at = starts[:, None] + jnp.arange(f.size, dtype=jnp.int32)[None]
    inside = at < stops[:, None]
    element = jnp.minimum(at, stops[:, None] - 1)

    positions = jnp.arange(f.length, dtype=jnp.int32)
    last = jnp.searchsorted(starts, positions, side="right") - 1
    readers = []
    for before in range(f.most if overlapping else 1):
        window = (last - before).astype(jnp.int32)
        start, stop = (jnp.take(edge, window, mode="clip") for edge in (starts, stops))
        seen = (window >= 0) & (positions < stop)
        readers.append(jnp.where(seen, window * f.size + positions - start, -1))
    real = None if overlapping else inside.reshape(-1)
    return Tables(element.reshape(-1), real, jnp.stack(readers))


def _samples(name: str, samples: Any, n: int) -> jax.Array:
    given = _prepare.array(name, samples, "samples")
    if jnp.issubdtype(given.dtype, jnp.complexfloating):
        fail(name, f"samples={show(samples)} are not real", f"samples={(0.5,) * n}", TypeError)
    if given.dtype not in (jnp.float32, jnp.float64):
        given = given.astype(jnp.float32)
    if given.shape != (n,):
        fail(
            name,
            f"samples of shape {given.shape} are not one number for each of {n} pooled axes",
            f"samples={(0.5,) * n}",
        )
    known = None if isinstance(given, jax.core.Tracer) else np.asarray(given)
    if known is not None and not np.all((known >= 0) & (known < 1)):
        fail(name, f"samples={show(samples)} do not lie in [0, 1)", f"samples={(0.5,) * n}")
    return given
