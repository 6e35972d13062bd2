"""The border words "CIRCULAR", "REFLECT" and "EDGE": copies of a map's elements around it.

JAX's own pad is a copy of the map for every axis, and its transpose several. Here one loop writes
the map and its border, element by border element, and one adds up what came of an element's copies.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from jaxpool._linear import alike, apart, by_platform, full_like, linear_pair
from jaxpool._plan import Group, together
from jaxpool._regions import group_shapes
from jaxpool._sums import add_slices, add_slices_back
from jaxpool._window import Bordered, Window, shape_back

# So many regions, the map and the parts of its border, are one program.
REGIONS = 27


@partial(jax.jit, static_argnames=("windows", "border"))
def surround(x: jax.Array, windows: tuple[Window, ...], border: str) -> jax.Array:
    """x with all the padding of its windows around it, as numpy.pad's mode `border` fills it."""
    axes = [_copies(window, border) for window in windows if window.low or window.high]
    for group in together(axes, lambda group: _regions(group) <= REGIONS):
        if _regions(group) <= REGIONS:
            x = _surround({"x": x}, (), ("x",), group=group)["x"]
        else:
            x = _pad(x, group)
    return x


def gathered(g: jax.Array, windows: tuple[Window, ...], border: str) -> jax.Array:
    """The transpose of `surround`: what came of each element and of its copies, added up."""
    return _transposed(g, partial(surround, windows=windows, border=border), windows)


def _transposed(g: jax.Array, lay: Callable, windows: Group) -> jax.Array:
    """The transpose of `lay`, which lays what these windows reach around a map."""
    x, g = alike((full_like(g, shape_back(windows, g.shape), 0, g.dtype), g))
    return jax.vjp(lay, x)[1](g)[0]


def _copies(window: Window, border: str) -> Bordered:
    """A window of one element over each position of the map and of its border."""
    out = window.low + window.length + window.high
    return Bordered(window.axis, window.length, 1, 1, 1, window.low, window.high, out, border)


def _regions(group: Group) -> int:
    return prod(len(window.regions()) for window in group)


def _pad(x: jax.Array, group: Sequence[Any]) -> jax.Array:
    for window in group:
        widths = [(0, 0)] * x.ndim
        widths[window.axis] = (window.low, window.high)
        x = jnp.pad(x, widths, mode=window.border)
    return x


def _there(x: dict, *_, group: Group) -> dict:
    here = partial(apart, add_slices, divisor=None, group=group, dtype=x["x"].dtype)
    return {"x": by_platform(x["x"], cpu=here, other=partial(_pad, group=group))}


def _back(g: dict, *_, group: Group) -> dict:
    here = partial(apart, add_slices_back, divisor=None, group=group, dtype=g["x"].dtype)
    other = partial(_transposed, lay=partial(_pad, group=group), windows=group)
    return {"x": by_platform(g["x"], cpu=here, other=other)}


_surround, _ = linear_pair("surround", _there, _back, *group_shapes)
