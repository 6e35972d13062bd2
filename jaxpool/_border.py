"""The border words "CIRCULAR", "REFLECT" and "EDGE": copies of a map's elements around it.

JAX's own pad is a copy of the map for every axis, and its transpose several. Here one loop writes
the map and its border, element by border element, and one adds up what came of an element's copies.
"""

from collections.abc import Sequence
from functools import partial, reduce
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxpool._geometry import Bordered, Window, shape_of
from jaxpool._linear import apart, by_platform, linear_pair
from jaxpool._reduce import Group, over_inputs, over_outputs, shape_back, together
from jaxpool._slices import widen

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


def _copy(x: jax.Array, group: Group) -> jax.Array:
    return over_outputs(lambda taps, *_: taps[0][1], x, group)


def _add(g: jax.Array, group: Group) -> jax.Array:
    def of_region(taps: list, *_) -> jax.Array:
        return reduce(lax.add, [widen(slab) for _, slab in taps]).astype(g.dtype)

    return over_inputs(of_region, g, group)


def _there(x: dict, *_, group: Group) -> dict:
    here = partial(apart, _copy, group=group)
    return {"x": by_platform(x["x"], cpu=here, other=partial(_pad, group=group))}


def _back(g: dict, *_, group: Group) -> dict:
    x = jax.ShapeDtypeStruct(shape_back(g["x"].shape, group), g["x"].dtype)

    def transposed(g: jax.Array) -> jax.Array:
        return jax.linear_transpose(partial(_pad, group=group), x)(g)[0]

    here = partial(apart, _add, group=group)
    return {"x": by_platform(g["x"], cpu=here, other=transposed)}


_surround, _ = linear_pair(
    "surround",
    _there,
    _back,
    lambda x, _, group: shape_of(group, x.shape),
    lambda g, _, group: shape_back(g.shape, group),
)
