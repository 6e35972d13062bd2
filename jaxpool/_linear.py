"""Primitives: the only file that talks to JAX's interpreters, and that asks which backend compiles.

JAX derives the transpose of a slice as a pad, and pads inside a fused loop are what makes pooling's
gradient slow. So a pooling's linear part is a *pair* of primitives, each the other's transpose,
both written out by hand. JAX then needs nothing else: forward mode, reverse mode and every order
above follow from `jvp`, `transpose` and `batch`, and what is saved for the backward pass is
exactly the non-linear operands (`jax.custom_vjp` would lose forward mode, `linear_call` cannot be
batched). Where a non-linear part has a rule of its own, it is a primitive, too (`Curved`).

The functions given here count axes from the end, so that batching is a new leading axis.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial, update_wrapper, wraps
from math import prod
from typing import Any

import jax
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec, get_abstract_mesh, reshard

Arrays = dict[str, jax.Array]


def linear_pair(
    name: str,
    forward: Callable,
    transpose: Callable,
    shape: Callable,
    shape_back: Callable,
    after: Callable = lambda rest, out, **static: rest,
) -> tuple[Callable, Callable]:
    """`forward(tangents, rest, outs, **static)` and its transpose, as two functions.

    `tangents` is a dict of arrays, what is not named in it is 0; `outs` names the entries of the
    result, which is linear in all tangents together. `rest` is any tree of arrays, on which the
    linear map depends: derivatives with respect to it, which first derivatives never need, are
    JAX's own of the same code. `shape(tangent, rest, **static)` is the shape of every entry of the
    result, or a dict of them. `after(rest, out, **static)` is the `rest` of the tangents' map, once
    there is a result: what it takes from there makes the backward pass wait for the forward one.
    """
    there = _linear(name, forward, shape)
    back = _linear(f"{name}_transpose", transpose, shape_back)
    for one, function, other in ((there, forward, back), (back, transpose, there)):
        ad.primitive_jvps[one] = partial(_linear_jvp, one, function, after)
        ad.primitive_transposes[one] = partial(_linear_transpose, other)
    return partial(_bind, there), partial(_bind, back)


def _bind(
    new: Primitive, tangents: Arrays, rest: Any, outs: Sequence[str], **static: Any
) -> Arrays:
    ins = tuple(sorted(tangents))
    leaves, tree = jax.tree.flatten(rest)
    args = alike([*(tangents[k] for k in ins), *leaves])
    flat = new.bind(*args, ins=ins, outs=outs, tree=tree, **static)
    return dict(zip(outs, flat, strict=True))


def _linear(name: str, function: Callable, shape: Callable) -> Primitive:
    def flat(*args, ins, outs, tree, **static):
        n = len(ins)
        tangents, rest = dict(zip(ins, args[:n], strict=True)), jax.tree.unflatten(tree, args[n:])
        result = function(tangents, rest, outs, **static)
        return [result[k] for k in outs]

    def types(*avals, ins, outs, tree, **static):
        rest = jax.tree.unflatten(tree, avals[len(ins) :])
        found = shape(avals[0], rest, **static)
        return [_like(avals[0], found[k] if isinstance(found, dict) else found) for k in outs]

    return _primitive(name, flat, types)


def primitive(name: str, function: Callable, shapes: Callable, jvp: Callable) -> Callable:
    """`function(x, *rest, **static)` returning several arrays, with `jvp(outs, tangent, **static)`.

    `shapes(*avals, **static)` is (shape, dtype) of each, None for the dtype of x. `jvp` gives the
    tangent of the first result from the results and the tangent of x; the other results are
    integers and have none.
    """

    def types(*avals, **static):
        return [_like(avals[0], *each) for each in shapes(*avals, **static)]

    new = _primitive(name, function, types)

    def rule(primals, tangents, **static):
        outs = new.bind(*primals, **static)
        zeros = [_zero(out) for out in outs]
        if isinstance(tangents[0], ad.Zero):
            return outs, zeros
        return outs, [jvp(outs, tangents[0], **static), *zeros[1:]]

    ad.primitive_jvps[new] = rule
    return lambda *args, **static: new.bind(*alike(args), **static)


def _like(aval: Any, shape: Sequence[Any], dtype: Any = None, **more: Any) -> Any:
    """The type of an array on the devices that an operand is on."""
    return aval.update(shape=shape, dtype=dtype or aval.dtype, weak_type=False, **more)


def _primitive(name: str, function: Callable, types: Callable) -> Primitive:
    """`types(*avals, **static)` is the type of each result; all operands are to be `alike`."""
    new = Primitive(f"jaxpool_{name}")
    new.multiple_results = True

    def batch(args, dims, **static):
        size, of = next(
            (x.shape[d], jax.typeof(x).sharding.spec[d])
            for x, d in zip(args, dims, strict=True)
            if d is not None
        )
        front = [batching.bdim_at_front(x, d, size, of) for x, d in zip(args, dims, strict=True)]
        out = new.bind(*front, **static)
        return out, [0] * len(out)

    new.def_impl(lambda *args, **static: jax.jit(partial(function, **static))(*args))
    new.def_abstract_eval(types)
    batching.primitive_batchers[new] = batch
    mlir.register_lowering(new, mlir.lower_fun(function, multiple_results=True))
    return new


def _linear_jvp(this, function, after, primals, tangents, *, ins, outs, tree, **static):
    n = len(ins)
    linear, rest = dict(zip(ins, primals[:n], strict=True)), primals[n:]
    out = this.bind(*primals, ins=ins, outs=outs, tree=tree, **static)
    dots = []
    moved = {k: t for k, t in zip(ins, tangents[:n], strict=True) if not isinstance(t, ad.Zero)}
    if moved:
        later = after(jax.tree.unflatten(tree, rest), out[0], **static)
        dot = _bind(this, moved, later, outs, **static)
        dots.append([dot[k] for k in outs])
    live = [i for i, dot in enumerate(tangents[n:]) if not isinstance(dot, ad.Zero)]
    if live:

        def of_rest(*arrays):
            leaves = list(rest)
            for i, a in zip(live, arrays, strict=True):
                leaves[i] = a
            result = function(linear, jax.tree.unflatten(tree, leaves), outs, **static)
            return [result[k] for k in outs]

        at, along = [rest[i] for i in live], [tangents[n + i] for i in live]
        dots.append(jax.jvp(of_rest, at, along)[1])
    if not dots:
        return out, [_zero(o) for o in out]
    return out, [sum(each[1:], each[0]) for each in zip(*dots, strict=True)]


def _linear_transpose(other, cotangents, *args, ins, outs, tree, **static):
    n = len(ins)
    given = {k: g for k, g in zip(outs, cotangents, strict=True) if not isinstance(g, ad.Zero)}
    if given:
        found = other.bind(
            *given.values(), *args[n:], ins=tuple(given), outs=ins, tree=tree, **static
        )
    else:
        found = [ad.Zero(t.aval) for t in args[:n]]
    return [*found, *[None] * (len(args) - n)]


def _zero(out):
    return ad.Zero(jax.typeof(out).to_tangent_aval())


# ---- several devices ----


def alike(tree: Any) -> Any:
    """The same arrays, all varying over the devices that one of them varies over.

    Inside `jax.shard_map` an array's type says over which axes of the mesh it varies. JAX's own
    operations agree on that by themselves; the transpose of it adds up over the devices.
    """
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    axes = frozenset[Any]().union(*map(_varying, arrays))
    if not axes:
        return tree

    def vary(leaf: Any) -> Any:
        missing = tuple(axes - _varying(leaf)) if isinstance(leaf, jax.Array) else ()
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, tree)


def _varying(a: jax.Array) -> frozenset:
    kind = getattr(jax.typeof(a), "manual_axis_type", None)
    return getattr(kind, "varying", frozenset())


def split(a: jax.Array, axis: int) -> int:
    """Over how many devices the type of an array says that an axis is split, as it does where axes
    of the mesh are explicit."""
    sharding = jax.typeof(a).sharding
    names = tuple(sharding.spec)[axis] or ()
    return prod(sharding.mesh.shape[n] for n in ((names,) if isinstance(names, str) else names))


def is_split(a: jax.Array, axes: Iterable[int]) -> bool:
    """Whether types say that one of these axes is: then it is not cut, nor made one with others."""
    return any(split(a, axis) > 1 for axis in axes)


def may_be_split(a: jax.Array, axes: Iterable[int]) -> bool:
    """Whether one of these axes may be: types do not say what the compiler is to split, which is
    nothing where there is one device, or where each has a program of its own."""
    manual = jax.typeof(a).sharding.mesh.are_all_axes_manual
    return is_split(a, axes) or not (manual or jax.device_count() == 1)


def split_like(a: jax.Array, like: jax.Array) -> jax.Array:
    """`a`, of as many axes, split as types say that another array is (which has to be so under
    `jax.set_mesh`, and cannot be elsewhere)."""
    if get_abstract_mesh().empty or not is_split(like, range(like.ndim)):
        return a
    kind = jax.typeof(like).sharding
    spec = [of if n > 1 else None for n, of in zip(a.shape, kind.spec, strict=True)]
    return reshard(a, NamedSharding(kind.mesh, PartitionSpec(*spec)))


def full_like(like: Any, shape: Sequence[Any], value: Any, dtype: Any) -> jax.Array:
    """An array of one value, split over devices as those it is `like`, of as many axes."""
    kinds = [jax.typeof(a).sharding for a in jax.tree.leaves(like)]
    most = max(kinds, key=lambda kind: sum(of is not None for of in kind.spec))
    return lax.full(shape, value, dtype, sharding=most)


def of_alike(function: Callable) -> Callable:
    """`function` of arrays that are `alike`."""

    @wraps(function)
    def run(*args: Any, **how: Any) -> Any:
        return function(*alike(args), **how)

    return run


# ---- backends ----


def on_cpu() -> bool:
    """Whether a program is compiled for a CPU, unless it is said otherwise once it is traced."""
    return jax.default_backend() == "cpu"


def by_platform(*args: Any, cpu: Callable, other: Callable) -> Any:
    """`cpu(*args)`, or `other(*args)`, of the same type, where something else compiles it: which is
    not traced where nothing does. (`lax.platform_dependent` traces both.)"""
    leaves, tree = jax.tree.flatten(args)

    def of_leaves(function: Callable) -> Any:
        return jax.jit(lambda *leaves: function(*jax.tree.unflatten(tree, leaves)), inline=True)

    here, there = of_leaves(cpu), of_leaves(other)
    return _bound(_platform, here, leaves, cpu=here, other=there)


def apart(
    function: Callable, *args: Any, elsewhere: Mapping[str, Any] | None = None, **static: Any
) -> Any:
    """`function(*args, **static)`, which XLA's CPU backend fuses with nothing around it.

    Left alone it computes one pass anew inside the loop of the next, once for each of its reads,
    and loses vectorisation there (`optimization_barrier` is gone by the time it fuses). A call that
    may not be inlined is a border. Other backends see the function as if written in place, called
    with what is said `elsewhere` beside `static`.
    """
    more = tuple((elsewhere or {}).items())
    return _call(_apart, function, args, static=tuple(static.items()), elsewhere=more)


def _call(new: Primitive, function: Callable, args: Sequence[Any], **how: Any) -> Any:
    """`function` of trees of arrays, as a primitive that holds it."""
    leaves, tree = jax.tree.flatten(tuple(args))
    how |= {"of": function, "tree": tree}
    return _bound(new, _program(**how), leaves, **how)


def _bound(new: Primitive, program: Any, leaves: Sequence[Any], **how: Any) -> Any:
    """What a primitive gives, in the form that its program has."""
    form = jax.tree.structure(program.eval_shape(*leaves))
    return jax.tree.unflatten(form, new.bind(*alike(leaves), **how))


@lru_cache(maxsize=4096)
def _program(of, tree, static, elsewhere=()):
    """One function object for one program here, so that JAX traces it once for each shape."""

    @wraps(of)
    def run(*leaves):
        return of(*jax.tree.unflatten(tree, leaves), **dict(static))

    return jax.jit(run)


def _run(*leaves, **how):
    return jax.tree.leaves(_program(**how)(*leaves))


def _run_elsewhere(*leaves, of, tree, static, elsewhere):
    return jax.tree.leaves(_program(of, tree, static + elsewhere)(*leaves))


def _run_types(*avals, **how):
    return _types_of(_program(**how), avals)


def _types_of(program: Any, avals: Sequence[Any]) -> list:
    def like(a: Any) -> Any:
        return _like(avals[0], a.shape, a.dtype, sharding=a.sharding or _split_as(avals, a.shape))

    return [like(a) for a in jax.tree.leaves(program.eval_shape(*avals))]


def _split_as(avals: Sequence[Any], shape: tuple[int, ...]) -> NamedSharding:
    """Split as operands along axes of the same size, where `eval_shape` does not say (as it does on
    meshes of explicit axes alone)."""

    def of(axis: int) -> Any:
        alike = (a for a in avals if a.ndim >= -axis and a.shape[axis] == shape[axis])
        return next((a.sharding.spec[axis] for a in alike if a.sharding.spec[axis]), None)

    spec = PartitionSpec(*map(of, range(-len(shape), 0)))
    meshes = [a.sharding.mesh for a in avals]
    return NamedSharding(next((m for m in meshes if not m.empty), meshes[0]), spec)


def _run_jvp(run, primals, tangents, **how):
    """JAX's own, of `run(*leaves, **how)` in place."""
    live = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

    def of_live(*arrays):
        leaves = list(primals)
        for i, a in zip(live, arrays, strict=True):
            leaves[i] = a
        return run(*leaves, **how)

    return jax.jvp(of_live, [primals[i] for i in live], [tangents[i] for i in live])


def _lower_apart(ctx, *args, **how):
    outs = mlir.lower_fun(partial(_run, **how), multiple_results=True)(ctx, *args)
    for out in outs:
        out.owner.attributes["mhlo.frontend_attributes"] = mlir.ir.DictAttr.get(
            {"inlineable": mlir.ir.StringAttr.get("false")}
        )
    return outs


class Curved:
    """A function of arrays, and behind them of `statics` values known before tracing, with a
    derivative of its own: `defjvp` is given `rule(*statics, primals, tangents)`, with symbolic
    zeros.

    As `jax.custom_jvp`; but that JAX takes apart inside a loop of which it moves what does not
    change in front, and the second derivative is then that of the code instead of the rule's.
    """

    def __init__(self, function: Callable, statics: int = 0) -> None:
        update_wrapper(self, function)
        self.function, self.statics = function, statics
        self.rule: Callable = function  # until it is told

    def defjvp(self, rule: Callable) -> None:
        self.rule = rule

    def run(self, *arrays: Any, known: tuple = ()) -> Any:
        return self.function(*arrays, *known)

    def __call__(self, *args: Any) -> Any:
        n = len(args) - self.statics
        return _call(_curved, self.run, args[:n], static=(("known", args[n:]),))


def curved(statics: int = 0) -> Callable[[Callable], Curved]:
    """Decorate a function to be `Curved`."""
    return partial(Curved, statics=statics)


def _curved_jvp(primals, tangents, *, of, tree, static):
    zeros = [SymbolicZero(t.aval) if isinstance(t, ad.Zero) else t for t in tangents]
    at, along = jax.tree.unflatten(tree, primals), jax.tree.unflatten(tree, zeros)
    outs, dots = of.__self__.rule(*dict(static)["known"], at, along)
    return jax.tree.leaves(outs), jax.tree.leaves(dots)


_curved = _primitive("curved", _run, _run_types)
ad.primitive_jvps[_curved] = _curved_jvp
_apart = _primitive("apart", _run, _run_types)
ad.primitive_jvps[_apart] = partial(_run_jvp, _run)
_lower_elsewhere = mlir.lower_fun(_run_elsewhere, multiple_results=True)
mlir.register_lowering(_apart, _lower_elsewhere)
mlir.register_lowering(_apart, _lower_apart, platform="cpu")


def _here(*leaves, cpu, other):
    return jax.tree.leaves(cpu(*leaves))


def _there(*leaves, cpu, other):
    return jax.tree.leaves(other(*leaves))


def _either(*leaves, cpu, other):
    return jax.tree.leaves(lax.platform_dependent(*leaves, cpu=cpu, default=other))


_platform = _primitive("platform", _either, lambda *avals, cpu, other: _types_of(cpu, avals))
ad.primitive_jvps[_platform] = partial(_run_jvp, _either)
mlir.register_lowering(_platform, mlir.lower_fun(_there, multiple_results=True))
mlir.register_lowering(_platform, mlir.lower_fun(_here, multiple_results=True), platform="cpu")
