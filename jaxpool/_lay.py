"""Bins laid side by side along their axis, so that ordinary windows take one after the other.

An element that several bins see lies at several places. Laying out is a gather; since the bins that
see an element follow one another, its transpose is a few gathers too: each element adds up what
comes back from its places, in their order. No scatter, so the same result every time.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpool._linear import is_split, linear_pair
from jaxpool._plan import BLOCK, is_many
from jaxpool._slices import only, replace_axis, wider
from jaxpool._window import Bins


class Tables(NamedTuple):
    """`Bins.places` and `Bins.readers` as arrays: [places], [places] and [most readers, length].

    No reader is -1. `real` is None where no bin is short.
    """

    element: Any
    real: Any
    readers: Any


def tables(bins: Bins) -> Tables:
    """The tables of bins that are known before tracing."""
    element, real = (np.array(column) for column in zip(*bins.places(), strict=True))
    readers = bins.readers()
    most = max(map(len, readers))
    padded = np.array([places + [-1] * (most - len(places)) for places in readers])
    return Tables(element, None if real.all() else real, padded.T)


def lay(x: jax.Array, axis: int, bins: Bins | Tables) -> jax.Array:
    """The bins side by side; short ones are filled with zeros."""
    known, found = _apart(bins)
    return _laid({"x": x}, found, ("x",), axis=axis, bins=known)["x"]


def repeat(x: jax.Array, axis: int, bins: Bins | Tables) -> jax.Array:
    """The bins side by side; short ones are filled with their last element.

    For what takes the first of equals, which a repeat never is, or leaves out what is not real: so
    it has no derivative.
    """
    run = _repeat if jnp.issubdtype(x.dtype, jnp.inexact) else _filled
    known, found = _apart(bins)
    return run(x, found, axis, known)


def _apart(bins: Bins | Tables) -> tuple[Bins | None, Tables | tuple[()]]:
    """What is known before tracing, and what may be traced."""
    return (bins, ()) if isinstance(bins, Bins) else (None, bins)


def _table(found: Any, bins: Bins | None) -> Tables:
    return found if bins is None else tables(bins)


def _filled(x: jax.Array, found: Any, axis: int, bins: Bins | None) -> jax.Array:
    return _gather(x, _table(found, bins).element, axis)


# (Not `Curved`: its tables have no axes of x, and JAX's own derivative is the same, but slower.)
_repeat = jax.custom_jvp(_filled, nondiff_argnums=(2, 3))


@_repeat.defjvp
def _(axis, bins, primals, tangents):
    x, found = primals
    tangent = _laid({"x": tangents[0]}, found, ("x",), axis=axis, bins=bins)["x"]
    return _filled(x, found, axis, bins), tangent


@partial(jax.jit, static_argnames="axis")
def _gather(x: jax.Array, at: Any, axis: int) -> jax.Array:
    """x[..., at, ...]. XLA puts the axis that a gather is along first and copies the result to have
    it back, unless the axes before are the gather's own: one, if it can be, since each is an index
    more. Few elements behind cost more so."""
    at = jnp.asarray(at, jnp.int32)
    before, behind = x.shape[:axis], x.shape[x.ndim + axis + 1 :]
    if not is_many(prod(behind)):
        return jnp.take(x, at, axis, mode="clip")
    own = before if is_split(x, range(1, len(before))) else (prod(before),)
    x = x.reshape(*own, x.shape[axis], *behind)
    n = len(own)
    numbers = lax.GatherDimensionNumbers(
        offset_dims=tuple(range(n + 1, x.ndim)),
        collapsed_slice_dims=(n,),
        start_index_map=(n,),
        operand_batching_dims=tuple(range(n)),
        start_indices_batching_dims=tuple(range(n)),
    )
    starts = jnp.broadcast_to(at[:, None], (*own, len(at), 1))
    found = lax.gather(x, starts, numbers, (1,) * (n + 1) + behind, mode="clip")
    return found.reshape(*before, len(at), *behind)


def _lay(x: dict, found: Any, _: Any, axis: int, bins: Bins | None) -> dict:
    def one(x: jax.Array, table: Tables) -> jax.Array:
        laid = _gather(x, table.element, axis)
        return laid if table.real is None else only(table.real, laid, axis)

    return {"x": _for_each_table(one, x["x"], _table(found, bins))}


def _lay_back(cotangent: dict, found: Any, _: Any, axis: int, bins: Bins | None) -> dict:
    """dx[p] = the sum of g at the places of p."""

    def one(g: jax.Array, table: Tables) -> jax.Array:
        wide = wider(g.dtype)
        most, length = table.readers.shape
        if most <= BLOCK:
            each = [only(at >= 0, _gather(g, at, axis), axis) for at in table.readers]
            return sum([a.astype(wide) for a in each[1:]], each[0].astype(wide)).astype(g.dtype)
        at = table.readers.T.reshape(-1)
        each = only(at >= 0, _gather(g, at, axis), axis)
        at = g.ndim + axis
        each = each.reshape(*g.shape[:at], length, most, *g.shape[at + 1 :])
        return each.sum(at + 1, dtype=wide).astype(g.dtype)

    return {"x": _for_each_table(one, cotangent["x"], _table(found, bins))}


def _for_each_table(function: Callable, x: jax.Array, table: Tables) -> jax.Array:
    """Tables that differ from example to example have leading axes of their own."""
    for _ in range(table.element.ndim - 1):
        function = jax.vmap(function)
    return function(x, table)


def _places(found: Any, bins: Bins | None) -> int:
    return found.element.shape[-1] if bins is None else bins.window.length


def _length(found: Any, bins: Bins | None) -> int:
    return found.readers.shape[-1] if bins is None else bins.length


_laid, _ = linear_pair(
    "lay",
    _lay,
    _lay_back,
    lambda x, found, axis, bins: replace_axis(x.shape, axis, _places(found, bins)),
    lambda g, found, axis, bins: replace_axis(g.shape, axis, _length(found, bins)),
)
