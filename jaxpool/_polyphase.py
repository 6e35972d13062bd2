"""Adaptive polyphase sampling: subsampling that shifts with the map, and its way back.

Subsampling by s takes one of s phases of an axis, x[p], x[p + s] and so on. To take the same one of
every map is what breaks shift equivariance: once the map has moved by one, it holds other elements.
The phase of the largest norm moves with the map.

So the norms must not depend on where the map starts. A sum of floats does, by its order. Here
|x|**order is rounded to integers, in units of the largest element of the example; their sums are
exact in any order.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from math import inf, prod
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxpool import _geometry, _prepare
from jaxpool._border import surround
from jaxpool._geometry import Axes, PerAxis, fail, flag, show, traced
from jaxpool._linear import apart, of_alike
from jaxpool._plan import BLOCK, Group, size_of
from jaxpool._slices import along_rows, rows, widen
from jaxpool._winners import pick, spread


@overload
def polyphase_pool(
    x: ArrayLike,
    strides: PerAxis = 2,
    *,
    order: float = 2,
    axis: Axes | None = None,
    phase: ArrayLike | None = None,
    return_phase: Literal[False] = False,
    strict: bool = False,
) -> jax.Array: ...
@overload
def polyphase_pool(
    x: ArrayLike,
    strides: PerAxis = 2,
    *,
    order: float = 2,
    axis: Axes | None = None,
    phase: ArrayLike | None = None,
    return_phase: Literal[True],
    strict: bool = False,
) -> tuple[jax.Array, jax.Array]: ...
def polyphase_pool(
    x: ArrayLike,
    strides: PerAxis = 2,
    *,
    order: float = 2,
    axis: Axes | None = None,
    phase: ArrayLike | None = None,
    return_phase: bool = False,
    strict: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Subsample at the phase of the largest norm, so that the result shifts with the map.

        out[i] = x[i*s + p],    p = argmax over phases q of ||x[q], x[q + s], x[q + 2s], ...||

    along each pooled axis with stride s: adaptive polyphase sampling. A map that moves, circularly
    and by any number of elements, has the same result, moved; bit for bit, where the strides divide
    the sizes and no two phases tie. It pools nothing: to pool, do so with stride 1 and
    padding="CIRCULAR" before, as in `polyphase_pool(max_pool(x, (2, 2), 1, "CIRCULAR"))`.

    Args:
      x: array [batch, *space, channels], any real dtype, or any layout with `axis`.
      strides: the distance of the elements to take, an int or one per axis. Default: 2.
      order: of the norm, 1, 2 (the default, as in the paper) or inf.
      axis: the axes to subsample, an int or several; `strides` follows its order. Default: all but
        the first and the last where `strides` is one int, else the `len(strides)` axes before the
        last one.
      phase: the phases to take instead, as `return_phase` gave them: so that the branches of a
        residual block take the same. Default: those of the largest norm.
      return_phase: whether to return the phases, too.
      strict: refuse sizes that the strides do not divide. Default: they wrap around; see below.

    Returns:
      The subsampled array, with the dtype of x and ceil(L/s) of L elements along each pooled axis;
      with `return_phase`, also the phases, int32: the number of the phase in row-major order of the
      pooled axes, (p0*s1 + p1) for images.

      Each example has one phase for all its channels. The channels are the last axis that is not
      pooled, in any layout; every other axis that is not pooled is a batch axis, and the phases
      have the shape of these. (So a map without channels needs an axis of size 1 for them:
      x[..., None].)

      Where s does not divide L, the phases wrap around: x[(i*s + p) mod L]. Circular shifts then
      change the result, as they do after any subsampling of such a map.

      If several phases tie, the first is taken: nothing can tell apart the equal phases of a
      periodic map. Norms are added up exactly from |x|**order rounded to steps of at most
      n * 2**-25 of its largest value in the example (n: elements of a phase and channel), and a tie
      is one of these. A phase with NaN counts as the largest, then one with inf. A `phase` that
      does not exist gives zeros.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    Differentiates in both modes and to every order as the elements that were taken; the choice has
    no derivative, and phases are integers (their tangent is float0).

    Chaman and Dokmanic: Truly shift-invariant convolutional neural networks, 2021.

    >>> import jax.numpy as jnp
    >>> from jaxpool import polyphase_pool
    >>> x = jnp.array([1.0, 5, 2, 6, 3, 7]).reshape(1, 6, 1)
    >>> polyphase_pool(x)[0, :, 0]
    Array([5., 6., 7.], dtype=float32)
    >>> polyphase_pool(jnp.roll(x, 1, axis=1))[0, :, 0]
    Array([7., 5., 6.], dtype=float32)
    >>> polyphase_pool(x, 3, return_phase=True)[1]
    Array([2], dtype=int32)
    """
    name = "polyphase_pool"
    x = _prepare.array(name, x)
    windows = _geometry.phases(name, x.shape, strides, axis, strict)
    _prepare.not_split(name, x, *(window.axis for window in windows))
    _prepare.real_numbers(name, _prepare.Call(x, None, windows))
    known = isinstance(order, int | float | np.number) and not isinstance(order, bool)
    if not known or order not in (1, 2, inf):
        remedy = "order=1, 2 or inf" + (", known before tracing" if traced(order) else "")
        fail(name, f"order={show(order)} is no order of the norms here", remedy)
    given = None if phase is None else _given(name, phase, x.shape, windows)
    with_phase = flag(name, "return_phase", return_phase)
    with jax.named_scope(name):
        y, phase = _pool(x, given, windows, float(order))
    return (y, phase) if with_phase else y


def polyphase_unpool(
    x: ArrayLike,
    phase: ArrayLike,
    strides: PerAxis = 2,
    *,
    output_shape: PerAxis | None = None,
    axis: Axes | None = None,
) -> jax.Array:
    """Put a map back at its phase, with zeros at all others.

        out[i*s + p] = x[i],    0 elsewhere

    along each pooled axis with stride s: what `jaxpool.polyphase_pool` took, where it took it. So a
    decoder shifts with the map, too.

    Args:
      x: array [batch, *space, channels], any real dtype, or any layout with `axis`.
      phase: the phases, integers, as `jaxpool.polyphase_pool(..., return_phase=True)` gave them.
      strides, axis: as there.
      output_shape: the size of the result along each pooled axis, an int or one per axis. Default:
        that of x times the strides. Elements beyond it, which had been wrapped around, are left
        out.

    Returns:
      The array, with the dtype of x. A phase that does not exist gives zeros.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    Linear in x, and differentiates as such.

    Chaman and Dokmanic: Truly shift-invariant convolutional neural networks, 2021.

    >>> import jax.numpy as jnp
    >>> from jaxpool import polyphase_pool, polyphase_unpool
    >>> x = jnp.array([1.0, 5, 2, 6, 3, 7]).reshape(1, 6, 1)
    >>> polyphase_unpool(*polyphase_pool(x, return_phase=True))[0, :, 0]
    Array([0., 5., 0., 6., 0., 7.], dtype=float32)
    """
    name = "polyphase_unpool"
    x = _prepare.array(name, x)
    windows = _geometry.unphased(name, x.shape, strides, output_shape, axis)
    _prepare.on_one_device(name, x, windows)
    _prepare.real_numbers(name, _prepare.Call(x, None, windows))
    with jax.named_scope(name):
        return _unpool(x, _given(name, phase, x.shape, windows), windows)


def _given(name: str, phase: Any, shape: tuple, windows: Group) -> jax.Array:
    """Phases that the user gives, one per example."""
    phase = _prepare.array(name, phase, "phase")
    if not jnp.issubdtype(phase.dtype, jnp.integer):
        fail(
            name,
            f"phase of dtype {phase.dtype} is not the number of a phase",
            "what polyphase_pool(..., return_phase=True) gave",
            TypeError,
        )
    shared = _shared(len(shape), windows)
    examples = tuple(n for a, n in enumerate(shape) if a not in shared)
    if phase.shape != examples:
        fail(
            name,
            f"phase of shape {phase.shape} is not one for each of the examples of x of shape"
            f" {shape}, which have the shape {examples}",
            "what polyphase_pool(..., return_phase=True) gave for the same examples",
        )
    return phase


def _axes(ndim: int, windows: Group) -> tuple[list[int], list[int]]:
    """The pooled axes, and that of the channels, the last of the others, if there is one."""
    pooled = [window.axis + ndim for window in windows]
    return pooled, [a for a in range(ndim) if a not in pooled][-1:]


def _shared(ndim: int, windows: Group) -> list[int]:
    """The axes over which an example has one phase."""
    pooled, channels = _axes(ndim, windows)
    return sorted([*pooled, *channels])


@partial(jax.jit, static_argnames=("windows", "order"))
@of_alike
def _pool(x, phase, windows, order):
    x, windows = wrapped(x, windows)
    if phase is None:
        phase = _strongest(lax.stop_gradient(x), windows, order)
    return pick({"t": x}, _winner(phase, x.ndim, windows), ("t",), group=windows)["t"], phase


@partial(jax.jit, static_argnames=("windows",))
@of_alike
def _unpool(x, phase, windows):
    return spread({"t": x}, _winner(phase, x.ndim, windows), ("t",), group=windows)["t"]


def wrapped(x: jax.Array, windows: Group) -> tuple[jax.Array, Group]:
    """x, continued from its start to where the last windows end."""
    return surround(x, windows, "wrap"), tuple(window.filled() for window in windows)


def _winner(phase: jax.Array, ndim: int, windows: Group) -> jax.Array:
    """The phase as the tap that wins every window of an example: -1, which is none, for one that
    32 bits may not hold."""
    if phase.dtype.itemsize > 4:
        phase = jnp.where((phase >= 0) & (phase < size_of(windows)), phase, -1)
    return lax.expand_dims(phase.astype(jnp.int32), _shared(ndim, windows))


# ---- the choice ----


def _strongest(x: jax.Array, windows: Group, order: float) -> jax.Array:
    """The first phase of the largest norm, one per example."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.float32)
    bits = partial(_bits, dtype=_prepare.wide(x.dtype))
    largest = _fold(x, windows, inf).max(-2, initial=0)
    largest = jnp.minimum(largest, bits(inf) + 1)  # one number for all NaN
    first = _first_largest(largest)
    if order == inf:
        return first
    top = largest.max(-1)
    sums = _fold(x, windows, order, _below(top)).astype(jnp.uint32)
    # Two words, so that 65536 channels do not overflow.
    high, low = (word.sum(-2, dtype=jnp.uint32) for word in (sums >> 16, sums & 0xFFFF))
    high, low = high + (low >> 16), low & 0xFFFF
    best = high == high.max(-1, keepdims=True)
    return jnp.where(top < bits(inf), _first_largest(jnp.where(best, low + 1, 0)), first)


def _first_largest(x: jax.Array) -> jax.Array:
    return lax.argmax(x, x.ndim - 1, jnp.int32)


def _fold(x: jax.Array, windows: Group, order: float, scale: jax.Array | None = None) -> jax.Array:
    """The sum of |scale*x|**order over the positions of each phase and channel, in whole steps (for
    order inf, the bits of the largest |x|): [*batch, channels, phases].

    The first axis, where the work is, is folded BLOCK slices at a time: faster than a reduction.
    """
    ndim, n = x.ndim, len(windows)
    pooled, channels = _axes(ndim, windows)
    x = rows(x, windows)
    places = [x.ndim + window.axis - (n - i) for i, window in enumerate(windows)]
    at, size = places[0], x.shape[places[0]]
    slices = max(d for d in range(1, BLOCK + 1) if size % d == 0)
    x = x.reshape(*x.shape[:at], slices, size // slices, *x.shape[at + 1 :])
    if scale is not None:
        scale = along_rows(lax.expand_dims(scale, _shared(ndim, windows)), windows)
    count = prod(window.out for window in windows)
    x = apart(_fold_slices, x, scale, axis=at - x.ndim, order=order, count=count)
    x = lax.reduce(x, np.zeros((), x.dtype), _operation(order), places)
    x = _last(x, [*channels, *pooled])
    x = x.reshape(*x.shape[: ndim - n], size_of(windows))
    return x if channels else x[..., None, :]


def _operation(order: float) -> Callable:
    return lax.max if order == inf else lax.add


def _fold_slices(x: jax.Array, scale: Any, axis: int, order: float, count: int) -> jax.Array:
    taps = [lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])]
    return reduce(_operation(order), [_size(tap, scale, order, count) for tap in taps])


def _size(x: jax.Array, scale: Any, order: float, count: int) -> jax.Array:
    """|scale*x|**order in steps of which `count` fit 32 bits (for order inf, the bits of |x|)."""
    x = lax.abs(widen(x))
    if order == inf:
        return _bits(x, x.dtype)
    x = x * scale  # below 4
    steps = 2.0 ** (31 - 2 * order - count.bit_length())
    return ((x if order == 1 else x * x) * steps + 0.5).astype(jnp.int32)


def _bits(x: Any, dtype: Any) -> jax.Array:
    """The bits of numbers that are not negative: integers in the same order, NaN last."""
    x = jnp.asarray(x, dtype)
    return lax.bitcast_convert_type(x, jnp.int64 if x.dtype.itemsize == 8 else jnp.int32)


def _below(bits: jax.Array) -> jax.Array:
    """1 over the power of two at or below a number, from the bits of the number."""
    dtype = jnp.float64 if bits.dtype == jnp.int64 else jnp.float32
    constant = partial(_bits, dtype=dtype)
    power = bits & constant(inf)
    inverse = jnp.maximum(2 * constant(1) - power, constant(jnp.finfo(dtype).tiny))
    return lax.bitcast_convert_type(inverse, dtype)


# ---- a learned choice ----


def learned_polyphase(
    module: Any, x: ArrayLike, score: Callable[[jax.Array], jax.Array], key: jax.Array | None
) -> jax.Array:
    """Subsample at the phase of the largest score; with a key, a random mixture of all phases.

    `module` has the arguments. `score` is called once, for all phases of all examples: float32,
    [n, *space, channels] -> [n].
    """
    name = type(module).__name__
    x = _prepare.array(name, x)
    windows = _geometry.phases(name, x.shape, module.strides, module.axis, module.strict)
    pooled, channels = _axes(x.ndim, windows)
    _prepare.not_split(name, x, *pooled, *channels)
    call = _prepare.Call(x, None, windows)
    _prepare.floats(name, call)
    temperature = _prepare.array(name, module.temperature, "temperature")
    if temperature.size > 1:
        shape = temperature.shape
        fail(name, f"temperature of shape {shape} is not one number", "temperature=1.0")
    temperature = _prepare.temperature(name, module.temperature, call)
    x, windows = wrapped(x, windows)
    n, phases = len(windows), size_of(windows)
    taps = [window.axis - (n - 1 - i) for i, window in enumerate(windows)]
    parts = jnp.moveaxis(rows(x, windows), taps, range(n))
    parts = parts.reshape(phases, *parts.shape[n:])

    laid = _last(parts, [1 + a for a in [*pooled, *channels]])
    laid = laid if channels else laid[..., None]
    examples = laid.shape[1 : laid.ndim - n - 1]
    # Examples first, for they may be split over devices.
    laid = jnp.moveaxis(laid, 0, len(examples))
    laid = laid.reshape(prod(examples) * phases, *laid.shape[laid.ndim - n - 1 :])
    scores = jnp.moveaxis(score(laid.astype(jnp.float32)).reshape(*examples, phases), -1, 0)
    if key is None:
        phase = lax.argmax(scores, 0, jnp.int32)
        return pick({"t": x}, _winner(phase, x.ndim, windows), ("t",), group=windows)["t"]
    noise = jax.random.gumbel(key, scores.shape, scores.dtype)
    weights = jax.nn.softmax((scores + noise) / temperature.reshape(()), 0)
    weights = lax.expand_dims(weights, [1 + a for a in _shared(x.ndim, windows)])
    wide = _prepare.wide(x.dtype)
    return (weights.astype(wide) * parts.astype(wide)).sum(0).astype(x.dtype)


def mean_score(conv: Callable, dense: Callable, phases: jax.Array) -> jax.Array:
    """One number for each phase, wherever its elements start: [n, ...] -> [n]."""
    y = jax.nn.relu(conv(phases))
    return dense(y.mean(range(1, y.ndim - 1)))[..., 0]


def _last(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    return jnp.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
