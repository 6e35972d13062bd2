"""Where the winner was, and the way back."""

from collections.abc import Iterable
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxpool import _geometry, _prepare, _winners
from jaxpool._adaptive import OutputShape
from jaxpool._bins import laid
from jaxpool._geometry import Axes, Padding, PerAxis, fail, show
from jaxpool._lay import repeat
from jaxpool._linear import linear_pair, of_alike
from jaxpool._plan import Group
from jaxpool._prepare import Binned, Call
from jaxpool._window import Bins
from jaxpool._winners import pick, winners

LARGEST = 2**31 - 1


def max_pool_with_indices(
    x: ArrayLike,
    window_shape: PerAxis,
    strides: PerAxis | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: PerAxis = 1,
    ceil_mode: bool = False,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Take the largest element of every window, and say where it was.

        out[i] = x[index[i]] = max over j < k of x[i*s + j*d - lo]

    Args:
      x: array [*batch, *space, channels], any real dtype, or any layout with `axis`.
      window_shape, strides, padding, window_dilation, ceil_mode, axis, where: as for
        `jaxpool.max_pool`; strides default to the window.

    Returns:
      (values, indices), both of the same shape. The values are those of `jaxpool.max_pool`. An
      index is an int32 that counts the elements of the pooled axes, without padding, in array
      order: y*width + x for images (PyTorch's convention). It counts within one example and
      channel, so that layout and batch axes do not change it, and it does not depend on the order
      of `axis`. Among equals the first counts, in a window with NaN the first NaN; where the map
      is its own border ("CIRCULAR", "REFLECT", "EDGE"), the element that was copied. A window
      without elements has index -1.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, and for maps of more than
        2**31 - 1 positions, before anything is traced.

    The values differentiate as without indices; the indices are integers and have no tangent
    (float0). `jaxpool.max_unpool` is the way back.

    >>> import jax.numpy as jnp
    >>> from jaxpool import max_pool_with_indices
    >>> values, indices = max_pool_with_indices(jnp.arange(16.0).reshape(4, 4, 1), (2, 2))
    >>> indices[..., 0]
    Array([[ 5,  7],
           [13, 15]], dtype=int32)
    """
    return _windowed(
        "max_pool_with_indices",
        (x, window_shape, strides, padding, window_dilation, ceil_mode, axis, where),
        largest=True,
    )


def min_pool_with_indices(
    x: ArrayLike,
    window_shape: PerAxis,
    strides: PerAxis | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: PerAxis = 1,
    ceil_mode: bool = False,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Take the smallest element of every window, and say where it was.

        out[i] = x[index[i]] = min over j < k of x[i*s + j*d - lo]

    Args:
      x: array [*batch, *space, channels], any real dtype, or any layout with `axis`.
      window_shape, strides, padding, window_dilation, ceil_mode, axis, where: as for
        `jaxpool.max_pool`; strides default to the window.

    Returns:
      (values, indices): the values of `jaxpool.min_pool`, and indices as for
      `jaxpool.max_pool_with_indices`.

    Raises:
      ValueError, TypeError: as for `jaxpool.max_pool_with_indices`.

    Derivatives: as for `jaxpool.max_pool_with_indices`.

    >>> import jax.numpy as jnp
    >>> from jaxpool import min_pool_with_indices
    >>> values, indices = min_pool_with_indices(jnp.arange(16.0).reshape(4, 4, 1), (2, 2))
    >>> indices[..., 0]
    Array([[ 0,  2],
           [ 8, 10]], dtype=int32)
    """
    return _windowed(
        "min_pool_with_indices",
        (x, window_shape, strides, padding, window_dilation, ceil_mode, axis, where),
        largest=False,
    )


def adaptive_max_pool_with_indices(
    x: ArrayLike,
    output_shape: OutputShape,
    *,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Take the largest element of every bin, whatever the size of x, and say where it was.

        out[i] = x[index[i]] = max of x[floor(i*L/o) : ceil((i+1)*L/o)]

    Args:
      x: array [*batch, *space, channels], any real dtype, or any layout with `axis`.
      output_shape, axis, where: as for `jaxpool.adaptive_max_pool`.

    Returns:
      (values, indices): the values of `jaxpool.adaptive_max_pool`, and indices as for
      `jaxpool.max_pool_with_indices`, over all axes that `output_shape` has an entry for, None too.

    Raises:
      ValueError, TypeError: as for `jaxpool.max_pool_with_indices`.

    Derivatives: as for `jaxpool.max_pool_with_indices`.

    >>> import jax.numpy as jnp
    >>> from jaxpool import adaptive_max_pool_with_indices
    >>> adaptive_max_pool_with_indices(jnp.arange(10.0), 4, axis=0)[1]
    Array([2, 4, 7, 9], dtype=int32)
    """
    name = "adaptive_max_pool_with_indices"
    call = _prepare.adaptive(name, x, output_shape, axis, where, keep=True)
    elements = tuple(
        tuple(element for element, _ in bins.places()) if isinstance(bins, Bins) else None
        for bins in call.windows
    )
    lengths = tuple(bins.length for bins in call.windows)
    return _located(name, call, lengths, elements, largest=True)


def max_unpool(
    x: ArrayLike,
    indices: ArrayLike,
    output_shape: PerAxis,
    *,
    axis: Axes | None = None,
) -> jax.Array:
    """Put pooled values back where they came from, among zeros.

        out[index[i]] = x[i]

    Args:
      x: array [*batch, *space, channels], any dtype, or any layout with `axis`: pooled values, or
        what became of them.
      indices: array of integers of the shape of x, as `jaxpool.max_pool_with_indices` gives them:
        positions of the pooled axes of the result, flat, in array order.
      output_shape: the size of the result along each pooled axis, one entry per axis; one int
        needs `axis`. With `axis`, the shape of the whole result will do as well (PyTorch's
        `output_size`).
      axis: the pooled axes, an int or several; `output_shape` follows its order. Default: the
        `len(output_shape)` axes before the last one (channels last).

    Returns:
      An array with the dtype of x, 0 where no index points. Where several indices are the same
      (of windows that overlap), the first window in row-major order puts its value there, and the
      others are left out. Indices below 0 (windows without elements) or beyond the result are left
      out too.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    A linear map in x, deterministic on every backend (PyTorch's is not): the gradient of a position
    goes to the one value that was put there.

    Zeiler, Fergus: Visualizing and Understanding Convolutional Networks, 2014.

    >>> import jax.numpy as jnp
    >>> from jaxpool import max_pool_with_indices, max_unpool
    >>> x = jnp.array([1.0, 5.0, 2.0, 3.0])
    >>> y, indices = max_pool_with_indices(x, 2, axis=0)
    >>> max_unpool(y, indices, 4, axis=0)
    Array([0., 5., 0., 3.], dtype=float32)
    """
    name = "max_unpool"
    x, indices = _prepare.array(name, x), _prepare.array(name, indices, "indices")
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        fail(
            name,
            f"indices of dtype {indices.dtype} are not integers",
            "the indices that max_pool_with_indices returns",
            TypeError,
        )
    if indices.shape != x.shape:
        fail(
            name,
            f"indices of shape {indices.shape} do not belong to x of shape {x.shape}",
            "one index per value",
        )
    sizes = _geometry.unpooled(name, x.shape, output_shape, axis)
    _prepare.not_split(name, x, *sizes)
    _prepare.not_split(name, indices, *sizes, argument="indices")
    _check_positions(name, sizes.values())
    with jax.named_scope(name):
        return _jitted_unpool(x, indices, tuple(sorted(sizes.items())))


# ---- positions ----


def _windowed(name: str, arguments: tuple, largest: bool) -> tuple[jax.Array, jax.Array]:
    x, *laid_out, where = arguments
    x = _prepare.array(name, x)
    windows, border = _geometry.windows(name, x.shape, *laid_out)
    call = _prepare.surrounded(name, x, windows, border, where)
    lengths = tuple(window.length for window in windows)
    elements: tuple[tuple[int, ...] | None, ...] = (None,) * len(windows)
    if border is not None:
        mode: Any = border
        lines = [np.pad(np.arange(w.length), (w.low, w.high), mode=mode) for w in windows]
        elements = tuple(tuple(line.tolist()) for line in lines)
    return _located(name, call, lengths, elements, largest)


def _located(
    name: str, call: Call | Binned, lengths: tuple, elements: tuple, largest: bool
) -> tuple[jax.Array, jax.Array]:
    """`elements`: for each axis, which element lies at each position that windows slide over, None
    where that is the element of that number."""
    _prepare.real_numbers(name, call)
    _check_positions(name, lengths)
    with jax.named_scope(name):
        return _jitted(*call, lengths, elements, largest=largest)


def _check_positions(name: str, lengths: Iterable[int]) -> None:
    lengths = tuple(lengths)
    if prod(lengths) > LARGEST:
        fail(
            name,
            f"pooled axes of {show(lengths)} have {prod(lengths)} positions, more than an int32"
            f" can count ({LARGEST})",
            "fewer axes, or pool parts of the map",
        )


@partial(jax.jit, static_argnames=("windows", "lengths", "elements", "largest"))
@of_alike
def _jitted(x, where, windows, lengths, elements, *, largest):
    known = {w.axis: (prod(lengths[i + 1 :]), elements[i]) for i, w in enumerate(windows)}
    number: Any = 0  # of each winner so far, from 1; 0 for none
    for bins, ordinary in laid(windows):
        if bins is not None:
            x = repeat(x, bins.axis, bins)
            where = None if where is None else repeat(where, bins.axis, bins)
            number = number if isinstance(number, int) else repeat(number, bins.axis, bins)
        x, found = winners(x, ordinary, largest, where)
        for group, winner in found:
            number = _number(number, winner, group, known)
        where = None if where is None else _winners.extremum(where, ordinary, largest=True)
    return x, jnp.where(True if where is None else where, number, 0) - 1


def _number(before: Any, winner: jax.Array, group: Group, known: dict) -> jax.Array:
    """The winners' numbers, from those `before` this pass: each window's of its winning tap, and
    what the tap adds to the flat position. A tap outside the map is of a window without elements.
    """
    number: Any = 1
    if not isinstance(before, int):
        number = pick({"t": before}, winner, ("t",), group=group)["t"]
    real = number > 0
    tap, offset = winner.astype(jnp.int32), jnp.zeros(winner.shape, jnp.int32)
    for window in reversed(group):
        flat, elements = known[window.axis]
        start = lax.broadcasted_iota(jnp.int32, winner.shape, winner.ndim + window.axis)
        at = start * window.stride + tap % window.size * window.dilation - window.low
        real &= (at >= 0) & (at < window.length)
        if elements is not None:
            numbers, split = jnp.asarray(elements, jnp.int32), jax.typeof(at).sharding
            at = numbers.at[at].get(mode="clip", out_sharding=split)
        offset += at * flat
        tap //= window.size
    return jnp.where(real, number + offset, 0)


# ---- the way back ----


@partial(jax.jit, static_argnames=("sizes",))
@of_alike
def _jitted_unpool(x, indices, sizes):
    axes, lengths = [a for a, _ in sizes], [n for _, n in sizes]
    last = range(x.ndim - len(axes), x.ndim)

    def flat(a: jax.Array) -> jax.Array:
        a = jnp.moveaxis(a, axes, last)
        return a.reshape(*a.shape[: last.start], prod(a.shape[last.start :]))

    x, indices = flat(x), flat(indices)
    if x.shape[-1]:
        rest = _owners(indices, prod(lengths))
        x = _unpool({"x": x}, rest, ("x",), length=prod(lengths))["x"]
    else:
        x = jnp.zeros((*x.shape[:-1], prod(lengths)), x.dtype)
    return jnp.moveaxis(x.reshape(*x.shape[:-1], *lengths), last, axes)


def _owners(indices: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
    """Which value each position takes (their number for none), and where each value goes, if it
    does (-1 for nowhere): the first that names a position has it."""
    if indices.dtype.itemsize < 4:  # which may not hold the length
        indices = indices.astype(jnp.int32)
    at = jnp.where((indices >= 0) & (indices < length), indices, length).astype(jnp.int32)

    def one(at: jax.Array) -> tuple[jax.Array, jax.Array]:
        values = jnp.arange(len(at), dtype=jnp.int32)
        owners = jnp.full(length, len(at), jnp.int32).at[at].min(values, mode="drop")
        mine = jnp.take(owners, at, mode="clip") == values
        return owners, jnp.where(mine, at, -1)

    for _ in range(at.ndim - 1):
        one = jax.vmap(one)
    return one(at)


def _gather(x: jax.Array, at: jax.Array, n: int) -> jax.Array:
    """x at each place, and 0 where there is none in [0, n)."""
    found = jnp.take_along_axis(x, at, -1, mode="clip")
    return jnp.where((at >= 0) & (at < n), found, jnp.zeros((), x.dtype))


_unpool, _ = linear_pair(
    "unpool",
    lambda x, rest, _, length: {"x": _gather(x["x"], rest[0], rest[1].shape[-1])},
    lambda g, rest, _, length: {"x": _gather(g["x"], rest[1], length)},
    lambda x, rest, length: rest[0].shape,
    lambda g, rest, length: rest[1].shape,
)
