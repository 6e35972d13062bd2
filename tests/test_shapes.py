"""What is said of a pooling without running it, against what happens when it runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax import export
from jax.extend.core import jaxprs_in_params

import jaxpool
from jaxpool import _turns, _winners


def shape_of(function, *args, **options) -> tuple[int, ...]:
    return jax.eval_shape(functools.partial(function, **options), *args).shape


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 1, (0, -1)])
def test_global_shapes(axis, keepdims):
    x = jnp.zeros((2, 5, 6, 3))
    found = jaxpool.global_output_shape(x.shape, axis=axis, keepdims=keepdims)
    assert found == jaxpool.global_max_pool(x, axis=axis, keepdims=keepdims).shape


def test_adaptive_fractional_and_pyramid_shapes():
    x = jax.ShapeDtypeStruct((2, 10, 9, 3), jnp.float32)
    for args, options in [(((None, 7),), {}), ((20,), {"axis": (2, 1)}), ((None,), {"axis": 0})]:
        found = jaxpool.adaptive_output_shape(x.shape, *args, **options)
        pool = functools.partial(jaxpool.adaptive_max_pool, output_shape=args[0], **options)
        assert found == shape_of(pool, x)
    key = jax.random.key(0)
    for options in [{"output_shape": (4, 5)}, {"output_ratio": 0.6}]:
        found = jaxpool.fractional_output_shape(x.shape, (3, 2), **options)
        pool = functools.partial(jaxpool.fractional_max_pool, window_shape=(3, 2), **options)
        assert found == shape_of(pool, key, x)
    for options in [{}, {"levels": (3, (2, 1))}, {"axis": (3, 1)}]:
        found = jaxpool.pyramid_output_shape(x.shape, **options)
        assert found == shape_of(jaxpool.spatial_pyramid_pool, x, **options)


STACKS = [
    [3],
    [(3, 1), (3, 1)],
    [(2, 2), (3, 2, 1), 2],
    [(7, 2, 3), (3, 2, 1), (3, 1, (2, 0)), (1, 2)],
    [(3, 1, 0, 2), (2, 3), (3, 2, 2, 3)],
]


@pytest.mark.parametrize("layers", STACKS, ids=str)
def test_receptive_fields_by_brute_force(layers):
    # What the last layer's outputs see, followed back tap by tap, far from both ends.
    seen = {i: {i} for i in (10, 11)}
    for layer in reversed(layers):
        entries = [layer] if isinstance(layer, int) else list(layer)
        k, s, padding, d = [*entries, *[entries[0], 0, 1][len(entries) - 1 :]]
        low = padding if isinstance(padding, int) else padding[0]
        seen = {i: {p * s + t * d - low for p in at for t in range(k)} for i, at in seen.items()}
    field = jaxpool.receptive_field(layers)
    for i, at in seen.items():
        first = field.offset + i * field.stride
        assert (min(at), max(at)) == (first, first + field.size - 1)


def test_the_receptive_field_of_nothing_is_one_element():
    assert jaxpool.receptive_field([]) == (1, 1, 0)


COSTS = [
    ((2, 12, 9, 3), ((3, 2), (2, 1), 1)),
    ((1, 30, 4, 20), ((13, 3), 1, "SAME")),
    ((2, 40, 8), ((5,), 1)),
    ((1, 12, 12, 16), ((3, 3),)),
    ((2, 8, 8, 16), ((8, 8),)),  # all axes are one
    ((2, 197, 3), ((197,),)),  # in blocks
    ((1, 80, 2, 16), ((40, 2),)),
    ((2, 300, 3), ((73,), 23)),  # by turns
    ((2, 200, 3), ((37,), 40, 100)),  # as rows of a table
    ((2, 300, 3), ((80,), 40)),  # in passes, of which the first is such a table
    ((1, 10, 30, 16), ((1, 13), 1)),  # nothing to do along one axis
    ((1, 9, 9, 9, 16), ((3, 3, 3), 2)),  # all axes at once
    ((1, 12, 10, 16), ((4, 3), 1, "CIRCULAR")),
    ((1, 12, 10, 16), ((3, 3), 2, "REFLECT")),
]


@pytest.mark.parametrize(("shape", "args"), COSTS, ids=str)
def test_costs_by_brute_force(shape, args, monkeypatch):
    cost = jaxpool.pooling_cost(shape, *args, dtype=jnp.bfloat16)
    out = jaxpool.output_shape(shape, *args)
    window, strides, padding = (*args, *(None, "VALID")[len(args) - 1 :])
    pads = [(padding, padding) if isinstance(padding, int) else padding] * len(window)
    steps = window if strides is None else reference.per_axis(strides, len(window))
    operations = shape[0] * shape[-1]
    for n, k, s, pad in zip(shape[1:-1], window, steps, pads, strict=False):
        operations *= sum(len(seen) for seen in reference.windows(n, k, s, pad))
    assert cost.operations == operations
    assert cost.bytes == 2 * (np.prod(shape) + np.prod(out))

    # What runs: every pass takes an element for each of its results, and one for each comparison.
    results = 0

    def apart(f, *args, **how):
        nonlocal results
        before, found = results, f(*args, **how)
        if results == before and f is not _turns.woven:  # else it is made of passes itself
            results += jax.tree.leaves(found)[0].size
        return found

    monkeypatch.setattr(_winners, "apart", apart)
    monkeypatch.setattr(_winners, "_extremum", _winners._value)
    monkeypatch.setattr(_winners, "by_platform", lambda *args, cpu, other: cpu(*args))
    jax.clear_caches()
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    program = jax.make_jaxpr(lambda x: jaxpool.max_pool(x, *args))(x)
    jax.clear_caches()
    assert cost.operations_in_passes == results + sum(comparisons(program.jaxpr))


def comparisons(jaxpr):
    """The size of every elementwise a > b in a program."""
    for eqn in jaxpr.eqns:
        for inner in jaxprs_in_params(eqn.params):
            yield from comparisons(inner)
        if eqn.primitive.name == "gt":
            yield eqn.outvars[0].aval.size


# Symbolic sizes

WINDOW = ((2, 2),)
NAMES = ("max", "min", "sum", "avg", "lse", "softmax", "lp")
BORDERS = ("CIRCULAR", "REFLECT", "EDGE")
OPS = {
    "gem": WINDOW,
    "global_gem": (),
    "mixed": WINDOW,
    **dict.fromkeys((*NAMES, "max_with_indices", "min_with_indices"), WINDOW),
    **{f"adaptive_{name}": ((3, 4),) for name in (*NAMES, "max_with_indices")},
    **{f"global_{name}": () for name in NAMES},
    "blur": (),
    "max_blur": WINDOW,
}


def pooling(name: str):
    first, _, rest = name.partition("_with")
    return getattr(jaxpool, f"{first}_pool{'_with' * bool(rest)}{rest}")


def exported(f, *shapes, scope):
    args = [jax.ShapeDtypeStruct(export.symbolic_shape(s, scope=scope), t) for s, t in shapes]
    return export.export(jax.jit(f))(*args)


@pytest.mark.parametrize(
    ("name", "args"), [*OPS.items(), *(("avg", ((3, 2), 1, border)) for border in BORDERS)], ids=str
)
def test_every_op_exports_with_a_symbolic_batch(name: str, args):
    pool = pooling(name)

    def run(x):
        y, back = jax.vjp(lambda x: jax.tree.leaves(pool(x, *args))[0], x)
        return y, back(y)[0]

    f = exported(run, ("b, 5, 6, c", jnp.float32), scope=export.SymbolicScope())
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    for found, expected in zip(f.call(x), jax.jit(run)(x), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_others_export_with_a_symbolic_batch():
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    image, key = ("b, 5, 6, c", jnp.float32), jax.random.PRNGKey(0)

    def fractional(x):
        return jaxpool.fractional_max_pool(key, x, (2, 2), output_ratio=0.7)

    def around(x):
        return jaxpool.max_unpool(*jaxpool.max_pool_with_indices(x, (2, 2)), (5, 6))

    def overlapping(x):
        return jaxpool.softmax_pool(x, (5, 4), 1, "SAME")

    def phase(x):
        return jaxpool.polyphase_unpool(*jaxpool.polyphase_pool(x, return_phase=True))

    def with_gradient(f):
        def both(x):
            y, back = jax.vjp(f, x)
            return y, back(y)[0]

        return both

    around, fractional, pyramid, phase = map(
        with_gradient, (around, fractional, jaxpool.spatial_pyramid_pool, phase)
    )
    for f in (around, fractional, pyramid, phase, overlapping):
        found = exported(f, image, scope=export.SymbolicScope()).call(x)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(jax.jit(f)(x)), strict=True):
            if f is overlapping:  # adds in another order where the channels are not known
                np.testing.assert_allclose(a, b, rtol=1e-6)
            else:
                np.testing.assert_array_equal(a, b)


def test_shapes_may_be_symbolic():
    b, h = export.symbolic_shape("b, h")
    x = (b, 5, 6, 3)
    assert jaxpool.output_shape(x, (2, 2)) == (b, 2, 3, 3)
    assert jaxpool.global_output_shape(x) == (b, 3)
    assert jaxpool.adaptive_output_shape(x, (2, 4)) == (b, 2, 4, 3)
    assert jaxpool.fractional_output_shape(x, (2, 2), output_ratio=0.5) == (b, 2, 3, 3)
    assert jaxpool.pyramid_output_shape(x) == (b, 63)
    assert jaxpool.pooling_cost(x, (2, 2)).operations == b * 72
    with pytest.raises(ValueError, match="^output_shape: axis 1 of x .* has no fixed size"):
        jaxpool.output_shape((b, h, 6, 3), (2, 2))


def test_a_mask_exports_with_a_symbolic_batch():
    def run(x, mask):
        return jax.grad(lambda x: jaxpool.global_avg_pool(x, where=mask).sum())(x)

    shapes = ("b, 5, 6, 3", jnp.float32), ("b, 5, 6, 1", jnp.bool_)
    f = exported(run, *shapes, scope=export.SymbolicScope())
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(2, 5, 6, 3)).astype(np.float32), rng.random((2, 5, 6, 1)) < 0.5
    np.testing.assert_array_equal(f.call(x, mask), jax.jit(run)(x, mask))


def test_an_axis_that_is_kept_may_be_symbolic():
    f = exported(
        lambda x: jaxpool.adaptive_avg_pool(x, (None, 4)),
        ("b, h, 6, 3", jnp.float32),
        scope=export.SymbolicScope(),
    )
    x = np.arange(2 * 5 * 6 * 3, dtype=np.float32).reshape(2, 5, 6, 3)
    expected = jaxpool.adaptive_avg_pool(x, (None, 4))
    np.testing.assert_allclose(f.call(x), expected, rtol=1e-6)


@pytest.mark.parametrize("name", OPS)
def test_a_pooled_axis_may_not_be_symbolic(name: str):
    with pytest.raises(ValueError, match=f"^{pooling(name).__name__}: axis 1 .*no fixed size"):
        exported(
            lambda x: pooling(name)(x, *OPS[name]),
            ("2, h, 6, 3", jnp.float32),
            scope=export.SymbolicScope(),
        )
