"""What a pooling will return, see and cost, without running it."""

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpool import _geometry, _plan, _prepare, _turns, _window
from jaxpool._geometry import (
    Axes,
    Levels,
    Padding,
    PerAxis,
    Ratio,
    fail,
    flag,
    integer,
    scalar,
    show,
    symbolic,
)
from jaxpool._window import Window


def output_shape(
    x_shape: Sequence[int],
    window_shape: PerAxis,
    strides: PerAxis | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: PerAxis = 1,
    ceil_mode: bool = False,
    axis: Axes | None = None,
) -> tuple[int, ...]:
    """Return the shape of a windowed pooling of an array of shape `x_shape`, without running it.

    Along each pooled axis of length L, with window k, stride s, dilation d and padding (lo, hi),

        out = floor((L + lo + hi - d*(k - 1) - 1) / s) + 1,    and ceil(L / s) for "SAME".

    `ceil_mode=True` rounds up instead, less a last window that would start in the high padding
    (PyTorch's rule).

    Args:
      x_shape: the shape of the array to pool.
      window_shape, strides, padding, window_dilation, ceil_mode, axis: as for `jaxpool.max_pool`.

    Returns:
      The shape, as a tuple of ints.

    Raises:
      ValueError, TypeError: as the pooling functions do, with the same sentences.

    >>> from jaxpool import output_shape
    >>> output_shape((8, 112, 112, 64), (3, 3), strides=2, padding=1)
    (8, 56, 56, 64)
    >>> output_shape((20, 16, 50), 3, strides=2, axis=-1)  # channels first, as in PyTorch
    (20, 16, 24)
    """
    shape = _given("output_shape", x_shape)
    found, _ = _geometry.windows(
        "output_shape", shape, window_shape, strides, padding, window_dilation, ceil_mode, axis
    )
    return _window.shape_of(found, shape)


def global_output_shape(
    x_shape: Sequence[int], *, axis: Axes | None = None, keepdims: bool = False
) -> tuple[int, ...]:
    """Return the shape of a global pooling of an array of shape `x_shape`, without running it.

    Args:
      x_shape: the shape of the array to pool.
      axis, keepdims: as for `jaxpool.global_max_pool`.

    Raises:
      ValueError, TypeError: as the pooling functions do, with the same sentences.

    >>> from jaxpool import global_output_shape
    >>> global_output_shape((8, 7, 7, 512))
    (8, 512)
    """
    shape = _given("global_output_shape", x_shape)
    found = _geometry.whole("global_output_shape", shape, axis)
    if flag("global_output_shape", "keepdims", keepdims):
        return _window.shape_of(found, shape)
    pooled = {window.axis + len(shape) for window in found}
    return tuple(n for a, n in enumerate(shape) if a not in pooled)


def adaptive_output_shape(
    x_shape: Sequence[int],
    output_shape: int | Sequence[int | None] | None,
    *,
    axis: Axes | None = None,
) -> tuple[int, ...]:
    """Return the shape of an adaptive pooling of an array of shape `x_shape`, without running it.

    Args:
      x_shape: the shape of the array to pool.
      output_shape, axis: as for `jaxpool.adaptive_max_pool`.

    Raises:
      ValueError, TypeError: as the pooling functions do, with the same sentences.

    >>> from jaxpool import adaptive_output_shape
    >>> adaptive_output_shape((8, 10, 9, 3), (None, 7))
    (8, 10, 7, 3)
    """
    shape = _given("adaptive_output_shape", x_shape)
    found = _geometry.adaptive("adaptive_output_shape", shape, output_shape, axis)
    return _window.shape_of(found, shape)


def fractional_output_shape(
    x_shape: Sequence[int],
    window_shape: PerAxis,
    *,
    output_shape: PerAxis | None = None,
    output_ratio: Ratio | None = None,
    axis: Axes | None = None,
) -> tuple[int, ...]:
    """Return the shape of a fractional pooling of an array of shape `x_shape`, without running it.

    Args:
      x_shape: the shape of the array to pool.
      window_shape, output_shape, output_ratio, axis: as for `jaxpool.fractional_max_pool`.

    Raises:
      ValueError, TypeError: as the pooling function does, with the same sentences.

    >>> from jaxpool import fractional_output_shape
    >>> fractional_output_shape((8, 32, 32, 16), (2, 2), output_ratio=0.7)
    (8, 22, 22, 16)
    """
    name = "fractional_output_shape"
    shape = _given(name, x_shape)
    found = _geometry.fractional(name, shape, window_shape, output_shape, output_ratio, axis)
    return _window.shape_of(found, shape)


def pyramid_output_shape(
    x_shape: Sequence[int], levels: Levels = (1, 2, 4), *, axis: Axes | None = None
) -> tuple[int, ...]:
    """Return the shape of a pyramid pooling of an array of shape `x_shape`, without running it.

    Args:
      x_shape: the shape of the array to pool.
      levels, axis: as for `jaxpool.spatial_pyramid_pool`.

    Raises:
      ValueError, TypeError: as the pooling function does, with the same sentences.

    >>> from jaxpool import pyramid_output_shape
    >>> pyramid_output_shape((8, 13, 13, 256))
    (8, 5376)
    """
    shape = _given("pyramid_output_shape", x_shape)
    axes, bins = _geometry.pyramid("pyramid_output_shape", shape, levels, axis)
    *others, channels = [n for a, n in enumerate(shape) if a not in axes] or [1]
    return (*others, sum(map(prod, bins)) * channels)


def _given(name: str, x_shape: Any) -> tuple[int, ...]:
    """A shape that the user gives in the place of an array."""
    if not isinstance(x_shape, Iterable) or getattr(x_shape, "ndim", 1) != 1:
        raise TypeError(
            f"{name}: x_shape={show(x_shape)} is not a shape."
            " Write x.shape, for example (8, 28, 28, 3)."
        )
    return tuple(
        n if symbolic(n) else integer(name, "x_shape", x_shape, n, least=0) for n in x_shape
    )


class ReceptiveField(NamedTuple):
    """Output i sees the inputs offset + i*stride, ..., offset + i*stride + size - 1."""

    size: int
    stride: int
    offset: int


def receptive_field(layers: Iterable[Any]) -> ReceptiveField:
    """Return what one output of a stack of windows sees of the input, along one axis.

        size += (k - 1)*d*stride,    offset -= lo*stride,    stride *= s

    for every layer, a pooling or a convolution alike, with window k, stride s, low padding lo and
    dilation d, from size = stride = 1 and offset = 0 on.

    Args:
      layers: from first to last, each (window, stride, padding, dilation) of ints. Entries left out
        at the end have a pooling's defaults: the stride is the window, padding 0, dilation 1; one
        int is a window. Padding may be a (low, high) pair.

    Returns:
      `ReceptiveField(size, stride, offset)`. The offset is below 0 where padding is seen. (With
      dilation not every position in between is.)

    Raises:
      ValueError, TypeError: for layers that are none.

    >>> from jaxpool import receptive_field
    >>> receptive_field([(7, 2, 3), (3, 2, 1), (3, 1, 1), (3, 1, 1)])  # the first block of ResNet
    ReceptiveField(size=27, stride=4, offset=-13)
    """
    name = "receptive_field"
    if scalar(layers):
        fail(
            name, f"layers={show(layers)} is no list of layers", "[(7, 2, 3), (3, 2, 1)]", TypeError
        )
    size, jump, offset = 1, 1, 0
    for layer in layers:
        k, s, padding, d = _layer(name, layer)
        size += (k - 1) * d * jump
        offset -= padding * jump
        jump *= s
    return ReceptiveField(size, jump, offset)


def _layer(name: str, layer: Any) -> tuple[int, int, int, int]:
    entries: list[Any] = [layer] if scalar(layer) else list(layer)
    if not 1 <= len(entries) <= 4:
        fail(
            name,
            f"layers holds {show(layer)}, which has {len(entries)} entries",
            "(window, stride, padding, dilation), such as (3, 2, 1)",
        )
    missing: list[Any] = [None, None, 0, 1][len(entries) :]
    window, stride, padding, dilation = [*entries, *missing]
    if isinstance(padding, str):
        fail(
            name, f"layers holds padding={padding!r}", "the padding itself, such as (3, 2, (0, 1))"
        )
    both = [padding] if scalar(padding) else list(padding)
    if len(both) > 2 or not both:
        fail(
            name,
            f"layers holds padding={show(padding)}, which has {len(both)} entries",
            "one number, or (low, high)",
        )
    low, *_ = [integer(name, "layers", layer, side, least=0) for side in both]
    k = integer(name, "layers", layer, window, least=1)
    return (
        k,
        k if stride is None else integer(name, "layers", layer, stride, least=1),
        low,
        integer(name, "layers", layer, dilation, least=1),
    )


def _read(shape: tuple[int, ...], windows: Sequence[Window]) -> int:
    """How many elements the passes of a maximum read."""
    found = 0
    windows, groups = _window.merged(_plan.active(windows), len(shape))
    shape = tuple(prod(shape[i] for i in group) for group in groups)
    x: Any = jax.ShapeDtypeStruct(shape, np.float32)
    for group in _plan.groups_of(x, windows, times=_plan.times_of_values(windows)):
        after = _window.shape_of(group, shape)
        if len(group) > 1:
            read = prod(int(window.count(padding=False).sum()) for window in group)
        else:
            read = _read_along(group[0])
        found += prod(after) // max(prod(window.out for window in group), 1) * read
        shape = after
    return found


def _read_along(window: Window) -> int:
    """The same along one axis, for one position on all others."""
    if _plan.takes_turns(window, rows=False):
        return sum(map(_read_along, [*_turns.in_place(window), _turns.over(window)]))
    found, n, most = 0, window.size, _plan.at_once(window, values=True)
    for p in _plan.passes_of((window,)):
        (one,) = p.windows
        if _plan.is_table(p.windows):
            parts = [part for part in one.tables() if not part.empty]
            found += sum(part.out * _read_in_lines(part) for part in parts)
        else:
            found += int(one.count(padding=False).sum())
    while window.whole and n > most:  # in parts
        n = -(-n // most)
        found += n
    return found


def _read_in_lines(window: Window) -> int:
    """The elements of a window, what lines of them are folded into, and once more to add what is
    left over."""
    first, *left = _plan.lines_of(window)
    more = _read_along(_window.all_of(first.axis, first.out)) if first.out > 1 else 0
    return window.size + more + len(left)


class PoolingCost(NamedTuple):
    """What a windowed pooling computes and moves; bytes for each of x and its result once."""

    operations: int
    operations_in_passes: int
    bytes: int


def pooling_cost(
    x_shape: Sequence[int],
    window_shape: PerAxis,
    strides: PerAxis | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: PerAxis = 1,
    ceil_mode: bool = False,
    axis: Axes | None = None,
    dtype: Any = "float32",
) -> PoolingCost:
    """Return what a pooling of an array of shape `x_shape` costs, without running it.

        operations = c*kh*kw*out_h*out_w    the textbook: every output reads its whole window

    for every example, and likewise for any number of axes.

    Args:
      x_shape: the shape of the array to pool.
      window_shape, strides, padding, window_dilation, ceil_mode, axis: as for `jaxpool.max_pool`.
      dtype: of x, for the bytes. Default: "float32".

    Returns:
      `PoolingCost(operations, operations_in_passes, bytes)`: the textbook's number; the number of
      elements that the passes of `jaxpool.max_pool` read on CPU, axis by axis and large windows in
      several steps; and the bytes of x and of the result, below which no pooling gets.

    Raises:
      ValueError, TypeError: as the pooling functions do, with the same sentences.

    >>> from jaxpool import pooling_cost
    >>> pooling_cost((1, 40, 40, 256), (13, 13), strides=1, padding="SAME")
    PoolingCost(operations=69222400, operations_in_passes=6430720, bytes=3276800)
    """
    name = "pooling_cost"
    shape = _given(name, x_shape)
    windows, border = _geometry.windows(
        name, shape, window_shape, strides, padding, window_dilation, ceil_mode, axis
    )
    out, laid = _window.shape_of(windows, shape), shape
    if border is not None:
        windows = tuple(window.filled() for window in windows)
        laid = _window.shape_back(windows, shape)
    itemsize = _prepare.dtype(name, "dtype", dtype).itemsize
    return PoolingCost(
        prod(out) * prod(window.size for window in windows),
        _read(laid, windows),
        (prod(shape) + prod(out)) * itemsize,
    )
