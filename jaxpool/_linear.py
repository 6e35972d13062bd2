"""Primitives: the only file that talks to JAX's interpreters.

JAX derives the transpose of a slice as a pad, and pads inside a fused loop are what makes pooling's
gradient slow. So a pooling's linear part is a *pair* of primitives, each the other's transpose,
both written out by hand. JAX then needs nothing else: forward mode, reverse mode and every order
above follow from `jvp`, `transpose` and `batch`, and what is saved for the backward pass is
exactly the non-linear operands (`jax.custom_vjp` would lose forward mode, `linear_call` cannot be
batched).

The functions given here count axes from the end, so that batching is a new leading axis.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def linear_pair(
    name: str, forward: Callable, transpose: Callable, shapes: Callable
) -> tuple[Callable, Callable]:
    """`forward(t, *rest, **static)` and its transpose, as two functions linear in t.

    Derivatives with respect to `rest`, which first derivatives never need, are JAX's own of the
    same code. `shapes(shape, **static, forward)` gives the result's shape from that of t, or back.
    """
    there = _primitive(name, forward, partial(shapes, forward=True))
    back = _primitive(f"{name}_transpose", transpose, partial(shapes, forward=False))
    for one, function, other in ((there, forward, back), (back, transpose, there)):
        ad.primitive_jvps[one] = partial(_linear_jvp, one, function)
        ad.primitive_transposes[one] = partial(_linear_transpose, other)
    return there.bind, back.bind


def primitive(name: str, function: Callable, shapes: Callable, jvp: Callable) -> Callable:
    """`function(x, *rest, **static)` returning several arrays, with `jvp(outs, tangent, **static)`.

    `jvp` gives the tangent of the first result from the results and the tangent of x; the other
    results are integers and have none.
    """
    new = _primitive(name, function, shapes, several=True)

    def rule(primals, tangents, **static):
        outs = new.bind(*primals, **static)
        zeros = [_zero(out) for out in outs]
        if isinstance(tangents[0], ad.Zero):
            return outs, zeros
        return outs, [jvp(outs, tangents[0], **static), *zeros[1:]]

    ad.primitive_jvps[new] = rule
    return new.bind


def _primitive(name: str, function: Callable, shapes: Callable, several: bool = False) -> Any:
    new = Primitive(f"jaxpool_{name}")
    new.multiple_results = several

    def avals(t, *rest, **static):
        if several:
            return [
                t.update(shape=shape, dtype=dtype or t.dtype, weak_type=False)
                for shape, dtype in shapes(t.shape, **static)
            ]
        return t.update(shape=shapes(t.shape, **static), weak_type=False)

    def batch(args, dims, **static):
        size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
        front = [batching.bdim_at_front(x, d, size) for x, d in zip(args, dims, strict=True)]
        out = new.bind(*front, **static)
        return out, [0] * len(out) if several else 0

    new.def_impl(lambda *args, **static: jax.jit(partial(function, **static))(*args))
    new.def_abstract_eval(avals)
    batching.primitive_batchers[new] = batch
    mlir.register_lowering(new, mlir.lower_fun(function, multiple_results=several))
    return new


def _linear_jvp(this, function, primals, tangents, **static):
    t, *rest = primals
    out = this.bind(*primals, **static)
    dots = [] if isinstance(tangents[0], ad.Zero) else [this.bind(tangents[0], *rest, **static)]
    live = [i for i, dot in enumerate(tangents[1:]) if not isinstance(dot, ad.Zero)]
    if live:

        def of_rest(*arrays):
            args = dict(zip(live, arrays, strict=True))
            return function(t, *(args.get(i, a) for i, a in enumerate(rest)), **static)

        at, along = [rest[i] for i in live], [tangents[1 + i] for i in live]
        dots.append(jax.jvp(of_rest, at, along)[1])
    return out, sum(dots[1:], dots[0]) if dots else _zero(out)


def _linear_transpose(other, g, t, *rest, **static):
    none = [None] * len(rest)
    return [ad.Zero(t.aval) if isinstance(g, ad.Zero) else other.bind(g, *rest, **static), *none]


def _zero(out):
    return ad.Zero(jax.typeof(out).to_tangent_aval())
