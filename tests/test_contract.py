"""One table of poolings, and the promises that every one of them keeps.

A new op is one row of OPS and a reduction in reference.py; each test below then holds for it.
"""

import functools
import itertools
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxpool

X64 = jax.config.jax_enable_x64
FLOAT = jnp.dtype(jnp.float64 if X64 else jnp.float32)  # the widest float there is
TOLERANCE = 1e-12 if X64 else 1e-5
FLOATS = [jnp.float32, jnp.bfloat16, jnp.float16, *([jnp.float64] if X64 else [])]
WHOLE = [jnp.int8, jnp.int32, jnp.uint8, jnp.bool_]


# The table


@dataclass(frozen=True)
class Call:
    """One way to call an op: the shape of x and the arguments that follow it."""

    shape: tuple[int, ...]
    args: tuple = ()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Op:
    """A pooling, its definition, and the few facts in which poolings differ."""

    id: str
    function: Callable
    reduction: Callable  # in reference.py
    options: dict[str, Any] = field(default_factory=dict)
    empty: float = 0.0  # the value of a window without a real element
    whole: bool = True  # takes integers and bools
    mean: bool = False  # ... and gives float32 for them
    selects: bool = False  # gives one of the elements: exact, and with one winner
    soft: bool = False  # has a temperature
    power: bool = False  # has a power
    linear: bool = False
    located: Callable | None = None  # the same with indices
    alike: bool = False  # little differs from another row's code: once, in float32, is enough
    twin: bool = False  # another row's code: held to the definition, not to every promise again

    @property
    def kind(self) -> "Kind":
        """The kind that the id's first word names; windows that slide otherwise."""
        return KINDS.get(self.id.split("-")[0], SLIDING)

    @property
    def covers(self) -> bool:
        """Whether it pools whole axes and takes no window."""
        return self.kind is KINDS["global"]

    @property
    def adaptive(self) -> bool:
        """Whether it takes the size of its result instead of a window."""
        return self.kind is KINDS["adaptive"]

    def __call__(self, x, call: Call, **more):
        return self.function(x, *call.args, **{**self.options, **call.options, **more})

    def expect(self, x, call: Call, **more) -> reference.Pooled:
        options = {**self.options, **call.options, **more}
        return self.kind.oracle(self.reduction, np.asarray(x), *call.args, **options)

    @property
    def exact(self) -> bool:
        """Whether every number of the result is one of x, or none."""
        return self.selects or self.kind is KINDS["unpool"]

    @property
    def best(self) -> int:
        """The sign of the numbers that win."""
        return -1 if self.empty == INF else 1

    def result_dtype(self, dtype):
        return (
            jnp.dtype(jnp.float32)
            if self.mean and jnp.dtype(dtype).kind in "iub"
            else jnp.dtype(dtype)
        )

    def call(
        self,
        shape: tuple[int, ...] = (2, 6, 5, 3),
        window=(3, 2),
        strides=(2, 1),
        padding="SAME",
        **options,
    ):
        """Call with a window, or what comes closest over the same axes."""
        return self.kind.call(shape, window, strides, padding, **options)


@dataclass(frozen=True)
class Kind:
    """What poolings that take the same arguments share."""

    oracle: Callable  # in reference.py: takes a reduction, then the arguments
    call: Callable[..., Call]  # from a shape, a window, strides and padding
    calls: Callable[[], st.SearchStrategy]  # any geometry
    chosen: list[tuple[Call, bool]]  # geometries for every row, masked or not
    smooth: list[Call]  # few small ones that together reach every form, no window empty
    masked: bool = True  # takes `where`


INF = float("inf")
EXP = {"temperature": 0.7, "normalize": False}
FAR = {"divisor_override": 3}
BARE = {"count_include_pad": False}
ONE = {"temperature": 1.0}
POWER = {"p": 3.5, "normalize": True}
TWO = {"p": 2}
FOUR = {"p": 4}
RAISED = {"eps": 0.5}  # so much that it shows
r = reference


def values(with_indices: Callable) -> Callable:
    """What a pooling with indices gives besides its indices."""

    @functools.wraps(with_indices)
    def pool(*args, **options):
        return with_indices(*args, **options)[0]

    return pool


def located(id: str, with_indices: Callable, *args, **options) -> Op:
    return Op(id, values(with_indices), *args, **options, selects=True, located=with_indices)


@functools.wraps(jaxpool.fractional_max_pool)
def fractional_max(x, window_shape, **options):
    """With samples of 1/2, one per axis."""
    axis = options.get("axis")
    n = len(window_shape) if axis is None else np.size(axis)
    return jaxpool.fractional_max_pool(None, x, window_shape, samples=(0.5,) * n, **options)


@functools.wraps(jaxpool.stochastic_pool)
def expected(x, *args, **options):
    """What a draw is in the mean; draws themselves are tested in test_stochastic.py."""
    return jaxpool.stochastic_pool(None, x, *args, deterministic=True, **options)


@functools.wraps(jaxpool.max_unpool)
def unpool(x, output_shape, **options):
    """With indices that depend on the shapes alone."""
    indices = reference.indices(jnp.shape(x), output_shape, options.get("axis"))
    return jaxpool.max_unpool(x, indices, output_shape, **options)


# fmt: off
OPS = [
    Op("max", jaxpool.max_pool, r.maximum, empty=-INF, selects=True),
    Op("min", jaxpool.min_pool, r.minimum, empty=INF, selects=True, alike=True),
    Op("sum", jaxpool.sum_pool, r.total, linear=True),
    Op("avg", jaxpool.avg_pool, r.mean, mean=True, linear=True),
    Op("avg-without-pads", jaxpool.avg_pool, r.mean, BARE, mean=True, linear=True, alike=True),
    Op("avg-divisor", jaxpool.avg_pool, r.mean, FAR, mean=True, linear=True, alike=True),
    Op("lse", jaxpool.lse_pool, r.lse, ONE, empty=-INF, whole=False, soft=True),
    Op("lse-sum", jaxpool.lse_pool, r.lse, EXP, empty=-INF, whole=False, soft=True, alike=True),
    Op("softmax", jaxpool.softmax_pool, r.softmax, ONE, whole=False, soft=True),
    Op("lp", jaxpool.lp_pool, r.norm, whole=False, power=True),
    Op("lp-mean", jaxpool.lp_pool, r.norm, POWER, whole=False, power=True, twin=True),
    Op("gem", jaxpool.gem_pool, r.gem, RAISED, whole=False, power=True, twin=True),
    Op("global-max", jaxpool.global_max_pool, r.maximum, empty=-INF, selects=True),
    Op("global-min", jaxpool.global_min_pool, r.minimum, empty=INF, selects=True, alike=True),
    Op("global-sum", jaxpool.global_sum_pool, r.total, linear=True, alike=True),
    Op("global-avg", jaxpool.global_avg_pool, r.mean, mean=True, linear=True),
    Op("global-lse", jaxpool.global_lse_pool, r.lse, ONE, empty=-INF, whole=False, soft=True),
    Op("global-lse-sum", jaxpool.global_lse_pool, r.lse, EXP, empty=-INF, whole=False, soft=True,
        alike=True),
    Op("global-softmax", jaxpool.global_softmax_pool, r.softmax, ONE, whole=False, soft=True),
    Op("global-lp", jaxpool.global_lp_pool, r.norm, FOUR, whole=False, power=True, twin=True),
    Op("global-gem", jaxpool.global_gem_pool, r.gem, TWO, whole=False, power=True, twin=True),
    Op("adaptive-max", jaxpool.adaptive_max_pool, r.maximum, empty=-INF, selects=True),
    Op("adaptive-min", jaxpool.adaptive_min_pool, r.minimum, empty=INF, selects=True, alike=True),
    Op("adaptive-sum", jaxpool.adaptive_sum_pool, r.total, linear=True, alike=True),
    Op("adaptive-avg", jaxpool.adaptive_avg_pool, r.mean, mean=True, linear=True),
    Op("adaptive-lse", jaxpool.adaptive_lse_pool, r.lse, EXP, empty=-INF, whole=False, soft=True),
    Op("adaptive-softmax", jaxpool.adaptive_softmax_pool, r.softmax, ONE, whole=False, soft=True),
    Op("adaptive-lp", jaxpool.adaptive_lp_pool, r.norm, POWER, whole=False, power=True, twin=True),
    located("located-max", jaxpool.max_pool_with_indices, r.maximum, empty=-INF),
    located("located-min", jaxpool.min_pool_with_indices, r.minimum, empty=INF, alike=True),
    located("adaptive-located-max", jaxpool.adaptive_max_pool_with_indices, r.maximum, empty=-INF),
    Op("fractional-max", fractional_max, r.maximum, empty=-INF, selects=True),
    Op("blur", jaxpool.blur_pool, r.mean, mean=True, linear=True),
    Op("max_blur", jaxpool.max_blur_pool, r.mean, mean=True, alike=True),
    Op("mixed", jaxpool.mixed_pool, r.mixed, {"alpha": 0.25}, mean=True, alike=True),
    Op("stochastic", expected, r.expectation, whole=False, alike=True),
    Op("pyramid-max", jaxpool.spatial_pyramid_pool, r.maximum, {"pool": "max"}, empty=-INF,
        selects=True),
    Op("pyramid-avg", jaxpool.spatial_pyramid_pool, r.mean, {"pool": "avg"}, mean=True, linear=True,
        alike=True),
    Op("unpool", unpool, r.total, linear=True),
    Op("polyphase", jaxpool.polyphase_pool, r.phase_norm, selects=True),
    Op("polyphase-1", jaxpool.polyphase_pool, r.phase_norm, {"order": 1}, selects=True, twin=True),
    Op("polyphase-inf", jaxpool.polyphase_pool, r.phase_norm, {"order": INF}, selects=True,
        twin=True),
]
# fmt: on


def windowed(op: Op) -> bool:
    return op.kind is SLIDING


def masked(op: Op) -> bool:
    return op.kind.masked


def own(op: Op) -> bool:
    """Whether it has code that no other row has."""
    return not op.alike


def each(*keeps: Callable[[Op], bool], twins: bool = False):
    """Run a test once for every op of which all `keeps` are true."""
    ops = [op for op in OPS if (twins or not op.twin) and all(keep(op) for keep in keeps)]
    return pytest.mark.parametrize("op", ops, ids=[op.id for op in ops])


def each_with_padding(*paddings, keep: Callable[[Op], bool] = lambda op: True):
    """Run a test once for every padding and op of which `keep` is true.

    Ops that cover whole axes have no padding; soft ones compile for so long that one must do.
    """
    rows = [
        (op, padding)
        for op in OPS
        if not op.twin and keep(op)
        for padding in (paddings if windowed(op) and not op.soft else paddings[:1])
    ]
    return pytest.mark.parametrize(
        ("op", "padding"), rows, ids=[f"{op.id}-{padding}" for op, padding in rows]
    )


def selects(op: Op) -> bool:
    return op.selects


def soft(op: Op) -> bool:
    return op.soft


# Helpers


def random(*key) -> np.random.Generator:
    """A generator that is the same on every run and worker."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def distinct(shape: tuple[int, ...], *key) -> np.ndarray:
    """Numbers from -2 to 2, so far apart that a finite difference changes no winner."""
    size = max(int(np.prod(shape)), 1)
    return (
        random(shape, *key)
        .permutation(np.linspace(-2, 2, size))[: np.prod(shape, dtype=int)]
        .reshape(shape)
    )


def pullback(f: Callable, x, cotangent):
    """The value of f at x and the gradient that one cotangent gives, compiled together, once."""
    return _compiled(f)(x, cotangent)


@functools.lru_cache(maxsize=2)
def _compiled(f: Callable):
    @jax.jit
    def run(x, cotangent):
        y, back = jax.vjp(f, x)
        return y, back(cotangent)[0]

    return run


def assert_equal(actual, expected, tolerance: float) -> None:
    """Shapes are equal, values within `tolerance` of the largest finite one; NaN equals NaN."""
    actual, expected = (np.asarray(a).astype(float) for a in (actual, expected))
    assert actual.shape == expected.shape
    scale = np.max(np.abs(expected), initial=1.0, where=np.isfinite(expected))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def assert_identical(actual, expected) -> None:
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(
        np.asarray(actual).astype(float), np.asarray(expected).astype(float)
    )


# Any geometry

PADDINGS = ["VALID", "SAME", "SAME_LOWER", "CIRCULAR", "REFLECT", "EDGE"]


def once_or_per_axis(each: list[st.SearchStrategy], once: st.SearchStrategy) -> st.SearchStrategy:
    """One number for all axes, or a tuple with one for each."""
    return once | st.tuples(*each)


@st.composite
def geometries(draw) -> Call:
    """Any shape and any arguments of a windowed op, each in each form that a user may write."""
    pooled = draw(st.integers(0, 3))
    longest, widest = [(40, 30), (9, 9), (7, 4), (5, 4)][pooled]  # 0: one axis, and a big window
    pooled = max(pooled, 1)
    sizes = [draw(st.integers(1, longest)) for _ in range(pooled)]
    form = draw(st.sampled_from(["word", "int", "ints", "pairs"]))
    pads = [(0, 0)] * pooled
    padding: Any = draw(st.sampled_from(PADDINGS))
    if form == "int":
        padding = draw(st.integers(0, 3))
        pads = [(padding, padding)] * pooled
    elif form == "ints":
        padding = tuple(draw(st.integers(0, 3)) for _ in range(pooled))
        pads = [(p, p) for p in padding]
    elif form == "pairs":
        padding = pads = tuple(
            (draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(pooled)
        )

    # A window must fit the padded input, except where the padding is made to fit the window.
    fits = form == "word" and padding != "VALID"
    room = [
        widest if fits else size + low + high for size, (low, high) in zip(sizes, pads, strict=True)
    ]
    window = tuple(draw(st.integers(1, min(n, widest))) for n in room)
    most = [
        3 if fits or k == 1 else min(3, (n - 1) // (k - 1))
        for n, k in zip(room, window, strict=True)
    ]
    dilation = draw(once_or_per_axis([st.integers(1, m) for m in most], st.integers(1, min(most))))
    strides = draw(st.none() | once_or_per_axis([st.integers(1, 6)] * pooled, st.integers(1, 6)))
    options: dict[str, Any] = {"window_dilation": dilation, "ceil_mode": draw(st.booleans())}
    if options["ceil_mode"] and strides is not None:  # it may reach beyond by less than a stride
        steps = zip(*(reference.per_axis(a, pooled) for a in (strides, dilation)), strict=True)
        window = tuple(
            k + draw(st.integers(0, (s - 1) // d)) for k, (s, d) in zip(window, steps, strict=True)
        )

    batch = [draw(st.integers(1, 2)) for _ in range(draw(st.integers(0, 2)))]
    shape, axes = [*batch, *sizes, draw(st.integers(1, 3))], None
    if draw(st.booleans()):  # name the axes, in any order, from the front or the back
        rank = pooled + len(batch)
        places = draw(st.permutations(range(rank)))[:pooled]
        rest = iter(batch)
        shape = [sizes[places.index(a)] if a in places else next(rest) for a in range(rank)]
        axes = tuple(draw(st.sampled_from([a, a - rank])) for a in places)
        options["axis"] = axes[0] if pooled == 1 and draw(st.booleans()) else axes
        if len(set(window)) == 1 and draw(st.booleans()):
            window = window[0]
    return Call(tuple(shape), (window, strides, padding), options)


@st.composite
def coverages(draw) -> Call:
    """Any shape and any arguments of a global op."""
    shape = tuple(draw(st.integers(1, 5)) for _ in range(draw(st.integers(1, 5))))
    options: dict[str, Any] = {"keepdims": draw(st.booleans())}
    if len(shape) < 3 or draw(st.booleans()):
        axes = draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
        axes = tuple(draw(st.sampled_from([a, a - len(shape)])) for a in axes)
        options["axis"] = axes[0] if len(axes) == 1 and draw(st.booleans()) else axes
    return Call(shape, (), options)


@st.composite
def one_long(draw) -> tuple[list[int], list[int]]:
    """Sizes from 1 to 40 and outputs from 1 to 50, along one to three axes, of which one is long:
    the definition is a loop."""
    pooled = draw(st.sampled_from([1, 1, 2, 3]))
    long = draw(st.integers(0, pooled - 1))
    most = [(40, 50) if i == long else (6, 5) if pooled == 2 else (3, 3) for i in range(pooled)]
    return [draw(st.integers(1, n)) for n, _ in most], [draw(st.integers(1, o)) for _, o in most]


@st.composite
def divisions(draw) -> Call:
    """Any shape and any arguments of an adaptive op."""
    sizes, each = draw(one_long())
    outs: Any = tuple(o if draw(st.integers(0, 3)) else None for o in each)
    axes = tuple(range(-1 - len(sizes), -1))
    options = {}
    if draw(st.booleans()):
        options["axis"] = axes = tuple(draw(st.permutations(axes)))
        if len(set(outs)) == 1 and draw(st.booleans()):
            outs = outs[0]
    batch = [draw(st.integers(1, 2)) for _ in range(draw(st.integers(0, 2)))]
    return Call((*batch, *sizes, draw(st.integers(1, 3))), (outs,), options)


@st.composite
def pyramids(draw) -> Call:
    """Any shape and any arguments of a pyramid."""
    sizes, outs = draw(one_long())
    levels = [tuple(outs), draw(st.integers(1, 3)), tuple(draw(st.permutations(outs)))]
    axes = tuple(range(1, 1 + len(sizes)))
    options = {"axis": tuple(draw(st.permutations(axes)))} if draw(st.booleans()) else {}
    levels = tuple(draw(st.permutations(levels))[: draw(st.integers(1, 3))])
    return Call((draw(st.integers(1, 2)), *sizes, draw(st.integers(1, 3))), (levels,), options)


@st.composite
def returns(draw) -> Call:
    """Any shape and any arguments of an unpooling."""
    sizes, outs = draw(one_long())
    options = {}
    if draw(st.booleans()):
        options["axis"] = tuple(draw(st.permutations(range(-1 - len(sizes), -1))))
    return Call((draw(st.integers(1, 2)), *sizes, draw(st.integers(1, 3))), (tuple(outs),), options)


@st.composite
def fractions(draw) -> Call:
    """Any shape and any arguments of a fractional op."""
    pooled = draw(st.integers(0, 3))
    longest = [40, 9, 7, 5][pooled]  # 0: one axis, and a long one
    sizes = [draw(st.integers(1, longest)) for _ in range(max(pooled, 1))]
    window = tuple(draw(st.integers(1, min(size, 5))) for size in sizes)
    outs = tuple(draw(st.integers(1, n - k + 1)) for n, k in zip(sizes, window, strict=True))
    options: dict[str, Any] = {"output_shape": outs}
    if draw(st.booleans()):
        options["axis"] = tuple(draw(st.permutations(range(-1 - len(sizes), -1))))
        order = [a + 1 + len(sizes) for a in options["axis"]]
        window, options["output_shape"] = (tuple(v[i] for i in order) for v in (window, outs))
    return Call((draw(st.integers(1, 2)), *sizes, draw(st.integers(1, 3))), (window,), options)


@st.composite
def blurs(draw, of_max: bool = False) -> Call:
    """Any shape and any arguments of a blur, or of a blur after a maximum."""
    pooled = draw(st.integers(0, 3))
    longest, widest = [(40, 7), (9, 5), (6, 4), (4, 3)][pooled]  # 0: one axis, and a long one
    sizes = [draw(st.integers(1, longest)) for _ in range(max(pooled, 1))]
    padding: Any = draw(st.sampled_from([*PADDINGS, "NORMALIZED", 2, "pairs"]))
    pads = [(0, 0)] * len(sizes)
    if padding == 2:
        pads = [(2, 2)] * len(sizes)
    elif padding == "pairs":
        padding = pads = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in sizes)

    # A filter must fit the padded input, except where the padding is made to fit the filter.
    window = tuple(draw(st.integers(1, min(size, 4))) for size in sizes) if of_max else ()
    cut = [k - 1 for k in window] if of_max and padding == "VALID" else [0] * len(sizes)
    fits = isinstance(padding, str) and padding != "VALID"
    room = [
        widest if fits else min(size + low + high - c, widest)
        for size, (low, high), c in zip(sizes, pads, cut, strict=True)
    ]
    filters = once_or_per_axis([st.integers(1, n) for n in room], st.integers(1, min(room)))
    steps = st.integers(1, 5)
    strides = draw(once_or_per_axis([steps] * len(sizes), steps))
    options: dict[str, Any] = {"filter_size": draw(filters), "padding": padding}

    named = draw(st.booleans())
    one = isinstance(strides, int) and not of_max and not named  # all axes but first and last
    batch = [draw(st.integers(1, 2)) for _ in range(1 if one else draw(st.integers(0, 2)))]
    shape = [*batch, *sizes, draw(st.integers(1, 3))]
    if named:
        rank = len(sizes) + len(batch)
        places = draw(st.permutations(range(rank)))[: len(sizes)]
        rest = iter(batch)
        shape = [sizes[places.index(a)] if a in places else next(rest) for a in range(rank)]
        options["axis"] = tuple(draw(st.sampled_from([a, a - rank])) for a in places)
    return Call(tuple(shape), (window, strides) if of_max else (strides,), options)


def max_blurs() -> st.SearchStrategy:
    return blurs(of_max=True)


@st.composite
def samplings(draw) -> Call:
    """Any shape and any arguments of an op that takes one phase of a stride."""
    pooled = draw(st.integers(0, 3))
    longest, widest = [(40, 12), (9, 6), (7, 4), (5, 3)][pooled]  # 0: one axis, and a long one
    sizes = [draw(st.integers(1, longest)) for _ in range(max(pooled, 1))]
    strides = draw(st.tuples(*[st.integers(1, widest)] * len(sizes)))
    batch = [draw(st.integers(1, 2)) for _ in range(draw(st.integers(0, 2)))]
    form = draw(st.sampled_from(["one", "several", "named"]))
    if form == "one":
        return Call((2, *sizes, draw(st.integers(1, 3))), (strides[0],))
    shape, options = [*batch, *sizes, draw(st.integers(1, 3))], {}
    if form == "named":
        axes = draw(st.permutations(range(len(shape))))[: len(sizes)]
        options["axis"] = tuple(draw(st.sampled_from([a, a - len(shape)])) for a in axes)
    return Call(tuple(shape), (strides,), options)


@st.composite
def masks(draw, shape: tuple[int, ...]) -> np.ndarray | None:
    """No mask, or one that broadcasts against `shape` and leaves some windows empty."""
    if draw(st.booleans()):
        return None
    narrow = tuple(draw(st.sampled_from([size, size, 1])) for size in shape)
    narrow = narrow[draw(st.integers(0, len(shape) - 1)) :]
    return random("mask", draw(st.integers(0, 999)), narrow).random(narrow) < 0.6


# The kinds: how a row is called where a window is named, and which calls every row is held to

# Chosen ones: for each row, whatever hypothesis draws. The first three have it all.
CHOSEN = [
    (
        Call(
            (2, 7, 8, 2),
            ((3, 2), (1, 2), ((1, 2), (0, 2))),
            {"ceil_mode": True, "window_dilation": (2, 1)},
        ),
        True,
    ),
    (Call((2, 5, 6, 4), ((2, 3, 2), (1, 2, 1), "REFLECT"), {"axis": (3, 0, -3)}), False),
    (Call((2, 70, 3), (17, 17, "SAME"), {"axis": 1}), True),
    (Call((2, 6, 6, 2), ((2, 2),)), False),
    (Call((1, 4, 5, 3), ((2, 3), 1, "SAME")), False),  # dense windows of few channels
    (Call((1, 7, 7, 2), ((3, 3), 2, "SAME_LOWER")), False),
    (Call((1, 70, 3), (32, 16, "CIRCULAR"), {"axis": 1}), False),
    (Call((1, 70, 3), (20, 30), {"axis": 1}), True),
    (Call((1, 70, 3), (31, 3, 30), {"axis": 1}), False),
    (Call((1, 70, 3), (17, 3), {"axis": 1}), True),
    (Call((1, 70, 3), (300, 20, 299), {"axis": 1}), True),  # more than a byte can count
    (Call((2, 2, 3, 2), ((4, 5), 3, "SAME")), True),  # one window that reaches beyond the map
]
BINNED = [
    (Call((2, 7, 5, 2), ((5, 3),)), True),
    (Call((2, 3, 1), (50,), {"axis": 1}), True),
    (Call((1, 53, 2), (3,), {"axis": 1}), True),
    (Call((1, 3, 6, 4), ((None, 4, 7),), {"axis": (1, 2, -1)}), False),
]
BLURRED = [
    (Call((1, 8, 5, 2), (2,), {"filter_size": (7, 4)}), False),  # one axis after the other
    (Call((2, 3, 6, 4), ((2, 1, 3),), {"axis": (3, 0, -2), "padding": "CIRCULAR"}), False),
    (Call((1, 2, 1), (1,), {"filter_size": 7}), False),  # mirrored again and again
    (Call((1, 3, 4, 2), (2,), {"filter_size": 4, "padding": "NORMALIZED"}), False),
    (Call((1, 4, 1), (1,), {"padding": ((5, 0),)}), False),  # the first two see nothing
]
SOME = np.arange(24).reshape(1, 4, 3, 2) % 5 != 0


def fit(shape, window, strides) -> tuple[int, ...]:
    """As many outputs as such windows have."""
    return jaxpool.output_shape(shape, window, strides)[-1 - len(window) : -1]


def steps_of(window, strides) -> tuple[int, ...]:
    """The strides, one per axis; the window's sizes where there are none."""
    return tuple(window if strides is None else reference.per_axis(strides, len(window)))


def parts(shape, window, strides, padding="VALID") -> tuple[int, ...]:
    """As many bins; where windows are padded, so many that they are not windows."""
    outs, sizes = fit(shape, window, strides), shape[-1 - len(window) : -1]
    if padding == "VALID":
        return outs
    return tuple(o + (o > 1 and n % o == 0) for o, n in zip(outs, sizes, strict=True))


def named(window) -> dict[str, Any]:
    """The axes that a window slides over, by name."""
    return {"axis": tuple(range(-1 - len(window), -1))}


SLIDING = Kind(
    reference.pool,
    lambda shape, *window, **options: Call(shape, window, options),
    geometries,
    CHOSEN,
    [
        Call((1, 4, 3, 2), ((2, 2), (1, 2), "SAME"), {"where": SOME[..., :1]}),
        Call((7, 1), ((3,), 2, 1), {"window_dilation": 2, "ceil_mode": True}),
        Call((4, 6, 1), ((2, 2),)),
        Call((2, 5), (3, 1, "REFLECT"), {"axis": -1}),
    ],
)
KINDS = {
    "global": Kind(
        reference.global_pool,
        lambda shape, *_, **__: Call(shape),
        coverages,
        [],
        [Call((1, 4, 3, 2), (), {"where": SOME})],
    ),
    "adaptive": Kind(
        reference.adaptive_pool,
        lambda shape, *window, **__: Call(shape, (parts(shape, *window),)),
        divisions,
        BINNED,
        [Call((1, 4, 3, 2), ((3, 2),), {"where": SOME})],
    ),
    "blur": Kind(
        reference.blur_pool,
        lambda shape, window, strides, padding, **_: Call(
            shape,
            (steps_of(window, strides),),
            {"filter_size": tuple(min(k, 7) for k in window), "padding": padding},
        ),
        blurs,
        BLURRED,
        [
            Call((1, 4, 3, 2), ((1, 2),), {"filter_size": (3, 4)}),
            Call((1, 6, 1), (2,), {"filter_size": 5, "padding": "NORMALIZED"}),
            Call((2, 5), (3,), {"axis": -1, "padding": "CIRCULAR"}),
        ],
        masked=False,
    ),
    "max_blur": Kind(
        reference.max_blur_pool,
        lambda shape, window, strides, padding, **_: Call(
            shape,
            (window, steps_of(window, strides)),
            {"filter_size": 1 if padding == "VALID" else 2, "padding": padding},
        ),
        max_blurs,
        [(Call((1, 5, 4, 2), ((3, 2),), {"filter_size": 4, "padding": "CIRCULAR"}), False)],
        [Call((1, 4, 3, 2), ((2, 2),)), Call((1, 6, 1), ((3,),), {"padding": "CIRCULAR"})],
        masked=False,
    ),
    "fractional": Kind(
        reference.fractional_pool,
        lambda shape, window, strides, *_, **__: Call(
            shape, (window,), {"output_shape": fit(shape, window, strides)}
        ),
        fractions,
        [],
        [Call((1, 4, 3, 2), ((2, 2),), {"output_shape": (3, 2), "where": SOME})],
    ),
    "pyramid": Kind(
        reference.pyramid_pool,
        lambda shape, window, *how, **__: Call(
            shape, ((parts(shape, window, *how),),), named(window)
        ),
        pyramids,
        [],
        [Call((1, 4, 3, 2), ((1, (3, 2)),), {"where": SOME})],
    ),
    "unpool": Kind(
        reference.unpool_pool,
        lambda shape, window, *_, **__: Call(
            shape, (tuple(2 * n for n in shape[-1 - len(window) : -1]),)
        ),
        returns,
        [],
        [Call((2, 3, 2, 2), ((4, 3),))],
        masked=False,
    ),
    "polyphase": Kind(
        reference.polyphase_pool,
        lambda shape, window, *_, **__: Call(shape, (window,)),
        samplings,
        [
            (Call((2, 7, 8, 2), ((3, 2),)), False),
            (Call((2, 6, 4, 3), ((2, 3),), {"axis": (-1, 1)}), False),
            (Call((2, 70, 3), (17,)), False),
        ],
        [Call((2, 4, 6, 2)), Call((7, 1), ((3,),)), Call((2, 2, 40), (20,), {"axis": -1})],
        masked=False,
    ),
}


# The definition, over every geometry


def check_definition(op: Op, call: Call, x: np.ndarray, where: np.ndarray | None) -> None:
    """Value, shape and gradient of one call equal the oracle's: exactly, if the op only moves."""
    mask = {} if where is None else {"where": where}
    expected = op.expect(x, call, **mask)
    cotangent = random("cotangent").integers(-3, 4, expected.values.shape).astype(FLOAT)
    x = jnp.asarray(x, FLOAT)
    if op.located is None:
        y, gradient = pullback(functools.partial(op, call=call, **mask), x, cotangent)
    else:
        (y, indices), gradient = pullback(
            lambda x: op.located(x, *call.args, **call.options, **mask),
            x,
            (cotangent, np.zeros(cotangent.shape, jax.dtypes.float0)),
        )
        axes = reference.pooled_axes(len(call.shape), call.args[0], call.options.get("axis"))
        assert indices.dtype == jnp.int32
        assert_equal(indices, expected.indices(axes), 0)
    tolerance = 0 if op.exact else TOLERANCE
    assert_equal(y, expected.values, tolerance)
    assert_equal(gradient, expected.pullback(cotangent), tolerance)
    if windowed(op):
        shape = jaxpool.output_shape(call.shape, *call.args, **call.options)
        assert shape == expected.values.shape


def coarse(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Numbers so coarse that many windows tie."""
    return random("coarse", seed).integers(-4, 5, shape) / 2


@pytest.mark.wide
@each(twins=True)
def test_value_and_gradient_equal_the_definition(op: Op):
    examples = settings.default.max_examples
    if op.soft:  # these compile for ten times as long
        examples = examples * 2 // 5

    @settings(max_examples=examples)
    @given(st.data())
    def check(data):
        call = data.draw(op.kind.calls())
        where = data.draw(masks(call.shape)) if op.kind.masked else None
        seed = data.draw(st.integers(0, 999))
        x = coarse(call.shape, seed)
        if op.exact and data.draw(st.booleans()):
            rng = random("special", seed)
            special = rng.choice([np.nan, -np.inf, np.inf], x.shape)
            x = np.where(rng.random(x.shape) < 0.2, special, x)
        check_definition(op, call, x, where)

    check()


CHOSEN_ROWS = [(op, *row) for op in OPS for row in op.kind.chosen[: 3 if op.soft else None]]


@pytest.mark.wide
@pytest.mark.parametrize(
    ("op", "call", "masked"),
    CHOSEN_ROWS,
    ids=[f"{op.id}-{call.args}" for op, call, _ in CHOSEN_ROWS],
)
def test_chosen_geometries_equal_the_definition(op: Op, call: Call, masked: bool):
    where = random("chosen").random(call.shape) < 0.7 if masked else None
    check_definition(op, call, coarse(call.shape), where)


@each(lambda op: not op.id.startswith(("pyramid", "unpool", "polyphase")))  # channels together
@pytest.mark.parametrize("padding", ["VALID", "CIRCULAR"])
def test_many_channels_are_few_and_few(op: Op, padding: str):
    # Many go other ways: borders are laid, and what strides do not divide is a loop of its own.
    call, few = (op.call((2, 9, 9, n), (3, 3), (2, 2), padding) for n in (16, 4))
    x = jnp.asarray(distinct(call.shape, "channels"), FLOAT)
    g = jax.eval_shape(functools.partial(op, call=call), x)
    g = jnp.asarray(random("channels").normal(size=g.shape), FLOAT)
    each = [slice(c, c + 4) for c in range(0, 16, 4)]
    pool = functools.partial(op, call=few)
    parts = [pullback(pool, x[..., some], g[..., some]) for some in each]
    whole = pullback(functools.partial(op, call=call), x, g)
    for found, *expected in zip(whole, *parts, strict=True):
        assert_equal(found, np.concatenate(expected, -1), TOLERANCE)


@each(lambda op: windowed(op) and (op.soft or op.power or op.id == "stochastic"))
@pytest.mark.parametrize(("window", "strides"), [(48, 1), (67, 1), (193, 7)])
def test_a_large_window_is_many_passes(op: Op, window: int, strides: int):
    # 48 is 4, 4 and 3 taps; the others have a prime factor above 64, so they are their digits.
    shape = (1, 150, 2)
    where = random("digits").random(shape) < 0.5
    padding = ((window // 2, window - 1),)
    call = Call(shape, ((window,), strides, padding), {"axis": 1})
    check_definition(op, call, 40 * coarse(shape), where)


@each(windowed)
@pytest.mark.parametrize(("window", "strides", "low"), [(1, 5, 3), (8, 7, 8), (40, 39, 40)])
def test_every_window_ends_before_the_map_begins(op: Op, window: int, strides: int, low: int):
    # By more than the map is long: nothing is left of it where the rest is cut off.
    call = Call((2, 1, 1), ((window,), strides, ((low, 1 if window == 1 else 0),)), {"axis": 1})
    check_definition(op, call, np.ones((2, 1, 1)), None)


@each(lambda op: windowed(op) and (op.soft or op.power or op.id == "stochastic"))
def test_many_passes_over_padding_alone(op: Op):
    # The first windows and the last have no element, in every pass.
    call = Call((2, 50, 1), ((24,), 1, ((25, 26),)), {"axis": 1})
    check_definition(op, call, coarse((2, 50, 1)), None)


@each(windowed)
def test_the_default_stride_is_the_window(op: Op):
    x = jnp.asarray(distinct((2, 7, 6, 3)), FLOAT)
    assert_identical(
        op.function(x, (3, 2), **op.options), op.function(x, (3, 2), (3, 2), **op.options)
    )


@each(windowed)
@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_words_are_read_in_any_case(op: Op, padding: str):
    x = jnp.asarray(distinct((1, 5, 4, 1)), FLOAT)
    expected = op.function(x, (3, 2), 2, padding, **op.options)
    assert_identical(op.function(x, (3, 2), 2, padding.lower(), **op.options), expected)
    assert_identical(op.function(x, (3, 2), 2, padding.title(), **op.options), expected)


# Types


@pytest.mark.wide
@each()
@pytest.mark.parametrize("dtype", [*FLOATS, *WHOLE], ids=lambda dtype: jnp.dtype(dtype).name)
def test_the_dtype_is_kept(op: Op, dtype):
    call = op.call()
    dtype = jnp.dtype(dtype)
    values = random(dtype.name).integers(-128, 128, call.shape)
    x = jnp.asarray(
        values > 0 if dtype.kind == "b" else (values % 256 if dtype == jnp.uint8 else values)
    ).astype(dtype)
    if dtype in WHOLE and not op.whole:
        with pytest.raises(TypeError, match=rf"^{op.function.__name__}: .*{dtype.name}"):
            op(x, call)
        return
    y = op(x, call)
    assert y.dtype == op.result_dtype(dtype)
    exact = y.dtype.kind in "iub"
    expected = reference.as_dtype(op.expect(x, call).values, y.dtype)
    # The oracle computes in float64, so it is no judge of the last bit there.
    steps = 0 if op.selects or exact else 4 if y.dtype == jnp.float64 else 1 + op.power
    if steps and y.dtype == jnp.float32 and jax.default_backend() != "cpu":
        steps += 1  # GPUs divide to within two
    assert_equal(y, expected, 0 if not steps else steps * float(jnp.finfo(y.dtype).eps))
    if y.dtype == dtype and dtype in FLOATS:
        gradient = jax.grad(lambda x: op(x, call).astype(jnp.float32).sum())
        assert jax.eval_shape(gradient, x).dtype == dtype


@each(lambda op: op.linear)
def test_sums_and_averages_take_complex_numbers(op: Op):
    call = op.call()
    rng = random("complex")
    x = (rng.normal(size=call.shape) + 1j * rng.normal(size=call.shape)).astype(jnp.complex64)
    y = op(jnp.asarray(x), call)
    assert y.dtype == jnp.complex64
    np.testing.assert_allclose(y, op.expect(x, call).values, rtol=1e-5, atol=1e-5)


@each(lambda op: not op.linear)
def test_what_needs_an_order_refuses_complex_numbers(op: Op):
    call = op.call()
    with pytest.raises(TypeError, match=rf"^{op.function.__name__}: .*complex64"):
        op(jnp.zeros(call.shape, jnp.complex64), call)


SIXTEEN = [
    (op, dtype, size, value)
    for op in OPS
    for dtype, size, value in [
        (jnp.bfloat16, 32 if op.soft else 64, 1.0),
        (jnp.float16, 256, 2.0),
    ]
    if (op.linear or op.power or (op.soft and size < 256)) and not op.alike
]


@pytest.mark.optimized
@pytest.mark.parametrize(
    ("op", "dtype", "size", "value"),
    SIXTEEN,
    ids=[f"{op.id}-{jnp.dtype(dtype).name}-{size}" for op, dtype, size, _ in SIXTEEN],
)
def test_16_bit_floats_accumulate_in_float32(op: Op, dtype, size: int, value: float):
    call = op.call((1, size, size, 1), (size, size), None, "VALID")
    x = np.full(call.shape, value)
    y = op(jnp.asarray(x, dtype), call)
    with np.errstate(over="ignore"):  # 256 x 256 of 2.0 has no sum in float16
        expected = op.expect(x, call).values.astype(dtype)
    assert_identical(y, expected)

    x = random("16 bits").uniform(0, 2 * value, call.shape).astype(dtype)  # no round numbers
    y = op(jnp.asarray(x), call)
    with np.errstate(over="ignore"):
        expected = op.expect(x, call).values.astype(dtype)
    assert_equal(y, expected, float(jnp.finfo(dtype).eps))


@pytest.mark.optimized
@each(windowed, own, lambda op: not op.soft and not op.located)
def test_16_bit_gradients_accumulate_in_float32(op: Op):
    # 300 windows see the middle. Added one by one in bfloat16, ones stop at 256.
    call = Call((1, 599, 1), ((300,), 1))
    peak = np.zeros(call.shape)
    peak[0, 299, 0] = op.best
    expected = op.expect(peak, call)
    ones = jnp.ones(expected.values.shape, jnp.bfloat16)
    _, gradient = pullback(functools.partial(op, call=call), jnp.asarray(peak, jnp.bfloat16), ones)
    assert_equal(gradient, expected.pullback(ones), float(jnp.finfo(jnp.bfloat16).eps))


@each(lambda op: op.mean and "divisor_override" not in op.options)
def test_the_int8_mean_of_four_hundreds_is_100(op: Op):
    y = op(jnp.full((1, 2, 2, 1), 100, jnp.int8), op.call((1, 2, 2, 1), (2, 2), None, "VALID"))
    assert y.dtype == jnp.float32
    assert y.item() == 100


# Scale


@each()
@pytest.mark.parametrize("power", [-100, 118])  # times 1e-30, and 3e35
def test_no_scale_is_too_small_or_too_large(op: Op, power: int):
    call = op.call()
    x = distinct(call.shape).astype(FLOAT)
    cotangent = np.ones(op.expect(x, call).values.shape, FLOAT)

    @jax.jit
    def run(x, c):
        more = {"temperature": c} if op.soft else {}
        y, back = jax.vjp(lambda x: op(x, call, **more), c * x)
        return y / c, back(jnp.asarray(cotangent))[0]

    value, gradient = run(x, FLOAT.type(1))
    scaled_value, scaled_gradient = run(x, np.ldexp(FLOAT.type(1), power))
    assert_equal(scaled_value, value, 1e-6)
    assert_equal(scaled_gradient, gradient, 1e-5)


# NaN

# XLA's CPU backend drops NaN from float32 max and min in arrays of 4096 elements and more, where
# the windows do not overlap.
MAPS = {64: (8, 8), 4094: (46, 89), 4096: (64, 64), 100_000: (250, 400)}
LAYOUTS = {  # how windows lie on a map of n = h * w elements, and over which axes
    "1-D apart": lambda n, h, w: Call((n, 1), ((2,), (2,)), {"axis": (0,)}),
    "1-D apart, last axis": lambda n, h, w: Call((1, n), ((2,), (2,)), {"axis": (1,)}),
    "1-D overlapping, last axis": lambda n, h, w: Call((1, n), ((3,), (1,)), {"axis": (1,)}),
    "2-D apart": lambda n, h, w: Call((h, w // 2, 2), ((2, 2), (2, 2)), {"axis": (0, 1)}),
    "2-D overlapping": lambda n, h, w: Call(
        (h, w // 2, 2), ((3, 3), (2, 2), "SAME"), {"axis": (0, 1)}
    ),
    "2-D channels first": lambda n, h, w: Call((1, h, w), ((2, 2), (2, 2)), {"axis": (1, 2)}),
    "one axis whole": lambda n, h, w: Call((1, h, w), ((w,), (w,)), {"axis": (2,)}),
    "the whole map": lambda n, h, w: Call((1, h, w, 1), ((h, w), (h, w)), {"axis": (1, 2)}),
}


def sees(flags: np.ndarray, call: Call) -> np.ndarray:
    """Which windows see a flagged element."""
    window, strides, padding = (*call.args, "VALID")[:3]
    for k, stride, axis in zip(window, strides, call.options["axis"], strict=True):
        flags = np.moveaxis(flags, axis, -1)
        taps = np.array(reference.windows(flags.shape[-1], k, stride, padding))
        flags = np.concatenate([flags, np.zeros_like(flags[..., :1])], -1)  # what PADDED, -1, is
        flags = np.moveaxis(flags[..., taps].any(-1), -1, axis)
    return flags


def with_nan(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Random numbers with a few NaN, at both ends among others, and where these are."""
    size = int(np.prod(shape))
    flags = np.zeros(size, bool)
    flags[[0, size // 3, size // 2 + 1, size - 1]] = True
    flags = flags.reshape(shape)
    return np.where(flags, np.nan, random("nan", shape).normal(size=shape)), flags


NAN_ROWS = [
    (op, layout)
    for op, layout in itertools.product(OPS, LAYOUTS)
    # Where NaN got lost was in max and min: the others are held to fewer layouts.
    if windowed(op)
    and not op.twin
    and (
        (op.selects and not op.located)
        or layout == "2-D apart"
        or (not op.soft and layout == "2-D overlapping")
    )
]


@pytest.mark.optimized
@pytest.mark.parametrize(
    ("op", "layout"), NAN_ROWS, ids=[f"{op.id}-{layout}" for op, layout in NAN_ROWS]
)
@pytest.mark.parametrize("size", MAPS)
def test_nan_is_seen_by_exactly_its_windows(op: Op, layout: str, size: int):
    call = LAYOUTS[layout](size, *MAPS[size])
    x, flags = with_nan(call.shape)
    expected = sees(flags, call)
    assert expected.any()
    x = jnp.asarray(x, jnp.float32)
    pool = functools.partial(op, call=call)
    np.testing.assert_array_equal(np.isnan(jax.jit(pool)(x)), expected)
    if size == 4096:
        np.testing.assert_array_equal(np.isnan(pool(x)), expected)


@pytest.mark.optimized
@each(lambda op: op.covers)
@pytest.mark.parametrize("size", MAPS)
def test_nan_is_seen_by_global_pools(op: Op, size: int):
    h, w = MAPS[size]
    calls = [((1, h, w, 1), None), ((h, w), 0), ((h, w), 1), ((size,), 0)]
    for shape, axis in calls if op.selects else calls[:1]:
        x, flags = with_nan(shape)
        pool = functools.partial(op, call=Call(shape, (), {"axis": axis}))
        expected = flags.any((1, 2) if axis is None else axis)
        x = jnp.asarray(x, jnp.float32)
        np.testing.assert_array_equal(np.isnan(jax.jit(pool)(x)), expected)
        if op.selects and size == 4096:
            np.testing.assert_array_equal(np.isnan(pool(x)), expected)


@pytest.mark.optimized
@each(lambda op: op.kind in (KINDS["adaptive"], KINDS["pyramid"]))
@pytest.mark.parametrize("size", MAPS)
def test_nan_is_seen_by_exactly_its_bins(op: Op, size: int):
    h, w = MAPS[size]
    if op.soft and size > 4094:
        pytest.skip("takes long, and loses none where it takes a maximum")
    outs = 7, 2 * w // 3  # neither divides
    x, flags = with_nan((1, h, w, 1))
    for axis, out in zip((1, 2), outs, strict=True):
        bins = reference.bins(flags.shape[axis], out)
        flags = np.stack([flags.take(seen, axis).any(axis) for seen in bins], axis)
    call = Call(x.shape, (outs,) if op.adaptive else ((outs,),))
    y = jax.jit(functools.partial(op, call=call))(jnp.asarray(x, jnp.float32))
    np.testing.assert_array_equal(np.isnan(y).ravel(), flags.ravel())


@pytest.mark.optimized
@each(lambda op: op.mean and not op.twin and op.kind in (KINDS["adaptive"], KINDS["pyramid"]))
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_bins_accumulate_in_float32(op: Op, dtype):
    shape = (1, 65, 67, 1)
    call = Call(shape, ((2, 2),) if op.adaptive else (((2, 2),),))
    x = random("bins").uniform(0, 2, shape).astype(dtype)
    y = op(jnp.asarray(x), call)
    assert_equal(y, op.expect(x, call).values.astype(dtype), float(jnp.finfo(dtype).eps))


@pytest.mark.optimized
@each(selects)
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: jnp.dtype(dtype).name)
def test_the_first_nan_gets_the_gradient(op: Op, dtype):
    call = op.call((1, 2, 3, 1), (2, 3), 1, "VALID")
    x = jnp.asarray([[1, 9, -9], [np.nan, 2, np.nan]], dtype).reshape(call.shape)
    y, gradient = pullback(functools.partial(op, call=call), x, jnp.ones_like(op(x, call)))
    assert jnp.isnan(y).all()
    np.testing.assert_array_equal(gradient.reshape(2, 3), [[0, 0, 0], [1, 0, 0]])


@each(windowed, twins=True)
@pytest.mark.parametrize(
    ("size", "window", "strides", "bad"),
    [
        ((70, 1, 1), (20, 1), (40, 1), np.nan),
        ((8, 4, 1), (3, 1), (1, 4), -np.inf),
        ((9, 9, 1), (3, 3), (3, 4), np.inf),
        ((7, 61, 1), (2, 20), (2, 10), np.inf),
        ((7, 40, 24), (3, 25), (2, 30), np.nan),
        ((58, 1, 1), (18, 1), (19, 1), np.nan),  # passes whose windows reach across gaps
    ],
)
def test_what_is_in_no_window_has_no_gradient(op: Op, size, window, strides, bad: float):
    call = op.call((1, *size), window, strides, "VALID")
    x = random("unseen").uniform(1, 2, call.shape)
    y = r.pool(r.total, x, *call.args)
    unseen = y.pullback(np.ones_like(y.values)) == 0
    assert unseen.any()
    pool = functools.partial(op, call=call)
    g = jnp.ones(y.values.shape, FLOAT)
    _, expected = pullback(pool, jnp.asarray(np.where(unseen, 0, x), FLOAT), g)
    value, gradient = pullback(pool, jnp.asarray(np.where(unseen, bad, x), FLOAT), g)
    assert np.isfinite(value).all() and not gradient[unseen].any()
    assert_equal(gradient, expected, TOLERANCE)


# Windows without a real element


@pytest.mark.wide
@each(masked)
@pytest.mark.parametrize("dtype", [*FLOATS, *WHOLE], ids=lambda dtype: jnp.dtype(dtype).name)
def test_an_empty_window_has_its_value_and_no_gradient(op: Op, dtype):
    if dtype in WHOLE and not op.whole:
        pytest.skip("takes no integers")
    # Two examples and two windows each; only the last window of the second example sees anything.
    call = op.call((2, 4, 1), (2,), 2, "VALID")
    where = np.array([[0, 0, 0, 0], [0, 0, 1, 1]], bool)[..., None]
    x = jnp.ones(call.shape, dtype)
    y = op(x, call, where=where)
    expected = reference.as_dtype(np.full(y.shape, op.empty), y.dtype)
    np.testing.assert_array_equal(y[0], expected[0])
    if not op.covers:
        np.testing.assert_array_equal(y[1, 0], expected[1, 0])
    if dtype in (FLOAT, jnp.bfloat16):
        _, gradient = pullback(functools.partial(op, call=call, where=where), x, jnp.ones_like(y))
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(np.asarray(gradient != 0) & ~where, False)


@each(windowed)
def test_a_window_in_the_padding_is_empty(op: Op):
    call = Call((4, 1), ((2,), 2, ((2, 3),)))
    x = jnp.asarray(distinct((4, 1)), FLOAT)
    y, gradient = pullback(functools.partial(op, call=call), x, jnp.ones((4, 1), FLOAT))
    np.testing.assert_array_equal(y[jnp.array([0, 3])], op.empty)
    assert_equal(gradient, op.expect(x, call).pullback(np.ones((4, 1))), TOLERANCE)


@each(windowed)
def test_a_window_of_one_element_may_lie_in_the_padding(op: Op):
    check_definition(op, Call((3, 1), ((1,), 2, ((1, 2),))), coarse((3, 1)), None)


@each(lambda op: op.covers)
def test_an_axis_of_size_0_is_one_empty_window(op: Op):
    y, gradient = pullback(op.function, jnp.zeros((2, 0, 3, 4), FLOAT), jnp.ones((2, 4), FLOAT))
    np.testing.assert_array_equal(y, np.full((2, 4), op.empty))
    assert gradient.shape == (2, 0, 3, 4)


@each()
@pytest.mark.parametrize("shape", [(0, 6, 5, 3), (2, 6, 5, 0), (0, 2, 6, 5, 3)])
def test_an_empty_batch_works_with_gradients(op: Op, shape: tuple[int, ...]):
    call = op.call(shape)
    if op.covers:
        call = Call(shape, (), {"axis": (-3, -2)})
    expected = op.expect(np.zeros(shape), call).values
    y, gradient = pullback(
        functools.partial(op, call=call), jnp.zeros(shape, FLOAT), jnp.zeros(expected.shape, FLOAT)
    )
    assert y.shape == expected.shape
    assert gradient.shape == shape


# Masks


@each_with_padding("SAME", "CIRCULAR", keep=masked)
def test_a_mask_of_ones_is_no_mask(op: Op, padding):
    call = op.call(padding=padding)
    x = jnp.asarray(distinct(call.shape), FLOAT)
    expected = op(x, call)
    for ones in (np.ones(call.shape, bool), True):
        assert_equal(op(x, call, where=ones), expected, 0 if op.selects else TOLERANCE)


@each_with_padding("SAME", "REFLECT", keep=masked)
def test_what_is_masked_out_spoils_nothing(op: Op, padding: str):
    call = op.call(padding=padding)
    x = distinct(call.shape)
    where = random("spoil").random(call.shape) < 0.6
    where[0] &= random("nothing real").random(call.shape[1:]) < 0.1
    expected = op.expect(x, call, where=where)
    cotangent = np.ones(expected.values.shape, FLOAT)

    @jax.jit
    def run(x):
        pool = functools.partial(op, call=call, where=where)
        y, back = jax.vjp(pool, x)
        return y, back(cotangent)[0], jax.jvp(pool, (x,), (x,))[1]

    @jax.jit
    def curvature(x):
        slope = jax.grad(lambda x: (op(x, call, where=where) * cotangent).sum())
        return jax.vjp(slope, x)[1](v)[0], jax.jvp(slope, (x,), (v,))[1]

    v = jnp.asarray(random("spoil", 2).normal(size=call.shape), FLOAT)
    curved = not (op.linear or op.selects)
    seconds = curvature(jnp.asarray(x, FLOAT)) if curved else ()
    for poison in (np.nan, np.inf, -np.inf, 1e9):
        spoilt = jnp.asarray(np.where(where, x, poison), FLOAT)
        y, gradient, tangent = run(spoilt)
        assert_equal(y, expected.values, TOLERANCE)
        assert_equal(gradient, expected.pullback(cotangent), TOLERANCE)
        assert not np.isnan(tangent).any()
        for actual, second in zip(curvature(spoilt) if curved else (), seconds, strict=True):
            assert_equal(actual, second, 10 * TOLERANCE)


@each(masked, own)
def test_masks_may_be_traced_batched_and_of_lower_rank(op: Op):
    call = op.call()
    x = jnp.asarray(distinct(call.shape), FLOAT)
    where = jnp.asarray(random("traced").random(call.shape) < 0.6)
    one = where[0, :, :, :1]  # rank 3, shared by batch and channels
    tolerance = 0 if op.selects else TOLERANCE
    assert_equal(
        jax.jit(lambda x, m: op(x, call, where=m))(x, one),
        op.expect(x, call, where=one).values,
        tolerance,
    )
    alone = op.call(call.shape[1:])
    batched = functools.partial(op, call=alone)
    if op.covers:
        batched = functools.partial(op, call=Call(alone.shape, (), {"axis": (0, 1)}))
    expected = op.expect(x, call, where=where).values
    assert_equal(jax.vmap(lambda x, m: batched(x, where=m))(x, where), expected, tolerance)
    many = jax.vmap(lambda m: op(x, call, where=m))(jnp.stack([where, ~where]))
    assert_equal(many[1], op.expect(x, call, where=~where).values, tolerance)


@each(lambda op: op.id == "avg")
def test_padding_counts_where_masked_elements_do_not(op: Op):
    # The first window sees one pad and the real 3; the second sees only the 5, for the element
    # beside it is masked out.
    x = jnp.asarray([3.0, 5.0, 7.0])[:, None]
    where = np.array([True, True, False])[:, None]
    y = jaxpool.avg_pool(x, (2,), 2, ((1, 0),), where=where)
    np.testing.assert_array_equal(y[:, 0], [1.5, 5])
    y = jaxpool.avg_pool(x, (2,), 2, ((1, 0),), where=where, count_include_pad=False)
    np.testing.assert_array_equal(y[:, 0], [3, 5])


@each(windowed)
@pytest.mark.parametrize("padding", ["CIRCULAR", "REFLECT", "EDGE"])
def test_a_mask_is_extended_as_x_is(op: Op, padding: str):
    call = Call((5, 1), ((3,), 1, padding))
    x = distinct(call.shape)
    for masked in range(5):  # the ends are copied outside
        where = np.arange(5)[:, None] != masked
        expected = op.expect(x, call, where=where).values
        assert_equal(op(jnp.asarray(x, FLOAT), call, where=where), expected, TOLERANCE)


# Transformations


@pytest.mark.optimized
@each_with_padding("SAME", "EDGE")
def test_jit_equals_eager(op: Op, padding):
    call = op.call(padding=padding)
    x = jnp.asarray(distinct(call.shape), FLOAT)
    assert_equal(
        jax.jit(functools.partial(op, call=call))(x), op(x, call), 0 if op.selects else TOLERANCE
    )


@each()
def test_vmap_equals_a_loop(op: Op):
    call = op.call()
    x = jnp.asarray(distinct((4, *call.shape)), FLOAT)
    last = jnp.moveaxis(x, 0, -1)
    tolerance = 0 if op.selects else TOLERANCE

    def both(x):
        y, back = jax.vjp(functools.partial(op, call=call), x)
        return y, back(2 * y)[0]

    one = jax.jit(both)
    values, slopes = zip(*map(one, x), strict=True)
    value, slope = jax.jit(jax.vmap(both, in_axes=-1))(last)
    assert_equal(value, values, tolerance)
    assert_equal(slope, slopes, tolerance)

    @jax.jit
    @jax.grad
    def total(x):
        return jnp.sum(jax.vmap(functools.partial(op, call=call))(x) ** 2)

    assert_equal(total(x), slopes, tolerance)


def check_derivatives(f: Callable, *args) -> None:
    """First and second derivatives, in every order of the modes, equal finite differences.

    All are taken along one random direction v and weighed by one random cotangent u, which no wrong
    derivative survives.
    """
    eps, tolerance = (1e-4, 1e-6) if X64 else (1e-2, 3e-3)
    rng = random("derivatives")
    v = tuple(rng.uniform(-1, 1, np.shape(a)).astype(FLOAT) for a in args)
    u = rng.uniform(-1, 1, jax.eval_shape(f, *args).shape).astype(FLOAT)

    def dot(a, b):
        return sum(map(jnp.vdot, a, b))

    def loss(args):
        return jnp.vdot(u, f(*args))

    def forward(args):
        return jax.jvp(f, args, v)[1]

    slope = jax.grad(loss)

    @jax.jit
    def derivatives(args):
        over_forward = jax.jvp(forward, (args,), (v,))[1]
        second = {
            "forward over reverse": jax.jvp(slope, (args,), (v,))[1],
            "reverse over forward": jax.grad(lambda args: jnp.vdot(u, forward(args)))(args),
            "reverse over reverse": jax.grad(lambda args: dot(slope(args), v))(args),
        }
        return forward(args), slope(args), over_forward, second

    @jax.jit
    def sides(args, eps):
        at = [tuple(a + e * b for a, b in zip(args, v, strict=True)) for e in (eps, -eps)]
        return [f(*args) for args in at], [slope(args) for args in at]

    def difference(a, b):
        return (np.asarray(a, float) - np.asarray(b, float)) / (2 * eps)

    tangent, gradient, over_forward, second = derivatives(args)
    values, slopes = sides(args, FLOAT.type(eps))
    assert_equal(tangent, difference(*values), tolerance)
    assert_equal(dot(gradient, v), jnp.vdot(u, tangent), 100 * TOLERANCE)
    along = second["forward over reverse"]
    for actual, a, b in zip(along, *slopes, strict=True):
        assert_equal(actual, difference(a, b), tolerance)
    for gradients in second.values():
        for a, b in zip(gradients, along, strict=True):
            assert_equal(a, b, 100 * TOLERANCE)
    assert_equal(jnp.vdot(u, over_forward), dot(along, v), 100 * TOLERANCE)


SMOOTH = [
    (op, call)
    for op in OPS
    if not op.twin
    for call in op.kind.smooth[: 1 if op.alike else 2 if op.soft or op.located else None]
]


@pytest.mark.wide
@pytest.mark.parametrize(
    ("op", "call"), SMOOTH, ids=[f"{op.id}-{call.shape}" for op, call in SMOOTH]
)
def test_derivatives_of_both_orders_in_both_modes(op: Op, call: Call):
    x = distinct(call.shape).astype(FLOAT) + FLOAT.type(0.05)  # none is 0
    check_derivatives(jax.jit(functools.partial(op, call=call)), x)


@each(lambda op: not op.linear, twins=True)
def test_loops_keep_second_derivatives(op: Op):
    # Of a loop's derivative JAX moves in front what does not change in it, and leaves out on the
    # way that functions have rules of their own. Ties and zeros are decided by these.
    call = op.call((2, 4, 4, 2), (2, 2), 1, "VALID")

    def plain(x, s, g):
        return jnp.sum(s * g * op(x, call) ** 2)

    def loop(x, s, g):
        return jax.lax.map(lambda both: plain(*both, g), (x[None], jnp.ones(1, FLOAT) * s))[0]

    @jax.jit
    def derivatives(x, g):
        first = [jax.grad(lambda x, f=f: jax.grad(f, 1)(x, 1.0, g))(x) for f in (loop, plain)]
        along = jnp.cos(x), 0.0, jnp.zeros_like(g)
        second = [jax.jvp(jax.grad(f), (x, 1.0, g), along)[1] for f in (loop, plain)]
        return first, second

    for x in (distinct(call.shape), random("loops").integers(0, 2, call.shape)):
        x = jnp.asarray(x, FLOAT)
        shape = jax.eval_shape(lambda x: op(x, call), x).shape
        g = jnp.cos(jnp.arange(np.prod(shape), dtype=FLOAT)).reshape(shape)
        for found, expected in derivatives(x, g):
            assert_equal(found, expected, 10 * TOLERANCE)


@pytest.mark.wide
@each(own)
def test_higher_derivatives_are_symmetric(op: Op):
    call = op.call((5, 1), (3,), 2, "SAME")
    x = distinct(call.shape).astype(FLOAT).ravel()
    v = np.arange(5, dtype=FLOAT)

    def f(x):
        return jnp.sum(jnp.sin(1 + op(x.reshape(1, 5, 1) if op.covers else x[:, None], call)))

    hessian = jax.jit(jax.hessian(f))(x)
    assert jnp.abs(hessian).max() > 0
    assert_equal(hessian, hessian.T, TOLERANCE)
    product = jax.jit(lambda x: jax.jvp(jax.grad(f), (x,), (v,))[1])(x)
    assert_equal(product, hessian @ v, 10 * TOLERANCE)
    third = jax.jit(jax.jacfwd(jax.jacrev(jax.jacrev(f))))(x)
    assert jnp.abs(third).max() > 0
    for order in itertools.permutations(range(3)):
        assert_equal(third.transpose(order), third, 10 * TOLERANCE)


@each(own)
def test_grad_under_scan_and_checkpoint(op: Op):
    call = op.call()
    x = jnp.asarray(distinct(call.shape), FLOAT)

    def step(x, _):
        return x * (1 + jnp.sum(jnp.cos(op(x, call))) / 100), None

    def scanned(x):
        return jnp.sum(jnp.sin(jax.lax.scan(jax.checkpoint(step), x, length=2)[0]))

    def looped(x):
        return jnp.sum(jnp.sin(step(step(x, None)[0], None)[0]))

    assert_equal(jax.jit(jax.grad(scanned))(x), jax.jit(jax.grad(looped))(x), 10 * TOLERANCE)


# Winners


@pytest.mark.optimized
@each(selects)
def test_the_first_winner_gets_the_whole_gradient(op: Op):
    # [1, 2, 2, 2] gives [0, 1, 0, 0], and so it does for windows of any shape and size.
    sign = op.best
    for shape in [(1, 4, 1), (1, 2, 2, 1), (1, 1, 4, 1), (1, 2, 1, 2, 1)]:
        call = op.call(shape, shape[1:-1], None, "VALID")
        x = sign * jnp.asarray([1, 2, 2, 2], FLOAT).reshape(shape)
        gradient = jax.jit(jax.grad(lambda x, call=call: op(x, call).sum()))(x)
        np.testing.assert_array_equal(gradient.ravel(), [0, 1, 0, 0])
    for length in (9, 64, 4096):
        call = op.call((1, length, 1), (length,), None, "VALID")
        gradient = jax.jit(jax.grad(lambda x, call=call: op(x, call).sum()))(
            jnp.zeros(call.shape, FLOAT)
        )
        np.testing.assert_array_equal(gradient.ravel(), np.arange(length) == 0)


@each(windowed, selects)
def test_ties_of_zeros_go_to_indices_0_2_8_10(op: Op):
    gradient = jax.grad(lambda x: op.function(x, (2, 2)).sum())(jnp.zeros((1, 4, 4, 1), FLOAT))
    np.testing.assert_array_equal(np.flatnonzero(gradient), [0, 2, 8, 10])


@each(selects)
def test_zero_and_minus_zero_tie(op: Op):
    call = op.call((1, 4, 1), (4,), None, "VALID")
    for x in ([-0.0, 0.0, -0.0, 0.0], [0.0, -0.0, 0.0, -0.0]):
        gradient = jax.grad(lambda x: op(x, call).sum())(jnp.asarray(x, FLOAT).reshape(call.shape))
        np.testing.assert_array_equal(gradient.ravel(), [1, 0, 0, 0])


@each(windowed, selects)
@pytest.mark.parametrize("dilation", [2, 3])
def test_dilated_gradients_go_to_the_winner(op: Op, dilation: int):
    call = Call((2, 9, 8, 3), ((3, 2), 1), {"window_dilation": dilation})
    x = random("dilated").integers(0, 4, call.shape).astype(FLOAT)
    expected = op.expect(x, call)
    cotangent = random("dilated").normal(size=expected.values.shape).astype(FLOAT)
    _, gradient = pullback(functools.partial(op, call=call), x, cotangent)
    assert_equal(gradient, expected.pullback(cotangent), TOLERANCE)


@each(windowed, selects)
@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER", 1, ((2, 2), (0, 1))])
@pytest.mark.parametrize("worst", [True, False])
def test_padding_never_gets_gradient(op: Op, padding, worst: bool):
    # Every window has a real element, be it the worst of all numbers, which gets the cotangent.
    call = Call((2, 5, 5, 2), ((3, 3), (1, 2), padding))
    x = jnp.full(call.shape, op.empty if worst else 0.0, FLOAT)
    y = op(x, call)
    assert (y == x.ravel()[0]).all()
    gradient = jax.grad(lambda x: op(x, call).sum())(x)
    assert gradient.sum() == y.size
    assert_equal(gradient, op.expect(x, call).pullback(np.ones(y.shape)), 0)


@each(selects, masked)
def test_the_worst_real_element_wins_against_masked_ones(op: Op):
    call = op.call((1, 4, 1), (4,), None, "VALID")
    x = jnp.full(call.shape, op.empty, FLOAT)
    for real in range(4):
        where = np.arange(4)[None, :, None] == real
        gradient = jax.grad(lambda x, where=where: op(x, call, where=where).sum())(x)
        np.testing.assert_array_equal(gradient.ravel(), where.ravel())


@each(windowed, selects)
def test_a_copied_element_gets_its_gradient_back(op: Op):
    # The winner, at one end, is seen by its own window, by its neighbour's, and outside the map.
    sign = op.best
    x = sign * jnp.asarray([5, 1, 2, 3], FLOAT)[:, None]
    for padding, expected in [
        ("CIRCULAR", [3, 0, 0, 1]),
        ("EDGE", [2, 0, 0, 2]),
        ("REFLECT", [2, 0, 0, 2]),
    ]:
        gradient = jax.grad(lambda x, padding=padding: op.function(x, (3,), 1, padding).sum())(x)
        np.testing.assert_array_equal(gradient[:, 0], expected)


# Temperature


TEMPERATURES = [1e-3, 1e-2, 1.0, 1e2, 1e3]


@pytest.mark.parametrize("name", ["lse", "softmax"])
def test_few_of_many_elements_carry_the_weight(name: str):
    # Of 50,176 elements, a few are so much larger than the rest that the mean of exp is near 0.
    x = 8 * random("spread").standard_normal((1, 224 * 224, 1)).astype(np.float32)
    pool = getattr(jaxpool, f"global_{name}_pool")
    y, dx = jax.value_and_grad(lambda x: pool(x).sum())(x)
    dt = jax.grad(lambda t: pool(x, temperature=t).sum())(1.0)

    wide = x.astype(np.float64)
    e = np.exp(wide - wide.max())
    q, mean = e / e.sum(), (e / e.sum() * wide).sum()
    values = {"lse": wide.max() + np.log(e.mean()), "softmax": mean}
    slopes = {"lse": q, "softmax": q * (1 + wide - mean)}
    by_t = {"lse": values["lse"] - mean, "softmax": -(q * (wide - mean) ** 2).sum()}
    np.testing.assert_allclose(y, values[name], rtol=1e-6)
    np.testing.assert_allclose(dx, slopes[name], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dt, by_t[name], rtol=1e-5)


@pytest.mark.parametrize("scale", [1, 50])  # both ways of `_soft`
@pytest.mark.parametrize("pool", [jaxpool.lse_pool, jaxpool.softmax_pool])
@pytest.mark.parametrize("hidden", [np.nan, np.inf, 1e9])
def test_what_is_masked_is_not_in_second_derivatives(pool: Callable, scale: int, hidden: float):
    x = scale * np.array([1, 2, 0, 4, 3, 5, 7, 1, 3, 2], np.float32)
    where = np.arange(10) != 2

    def back_twice(x):
        def f(x, t):
            return (pool(x, 5, 1, axis=0, where=where, temperature=t) ** 2).sum()

        return jax.jacrev(jax.grad(f, (0, 1)), (0, 1))(x, 1.0)

    same = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(same, back_twice(np.where(where, x, hidden)), back_twice(x))


@pytest.mark.optimized
@each(soft)
def test_exact_at_large_values(op: Op):
    call = op.call((2, 6, 6, 2), (3, 3), 2, "SAME")

    @jax.jit
    def run(x, temperature, where):  # temperature is traced, so that it compiles once
        pool = functools.partial(op, call=call, temperature=temperature, where=where)
        y, back = jax.vjp(pool, x)
        return y, back(jnp.ones_like(y))[0]

    some = random("large").random(call.shape) < 0.7
    for temperature in TEMPERATURES:
        rng = random("large", temperature)
        small = temperature * rng.normal(size=call.shape)
        spread = rng.uniform(-1e4, 1e4, call.shape)
        cases = [(spread, None), (1e4 + small, None), (-1e4 + small, None), (-1e4 - small, some)]
        for x, where in cases:
            x = x.astype(np.float32)
            expected = op.expect(x, call, temperature=np.float32(temperature), where=where)
            y, gradient = run(x, jnp.float32(temperature), where)
            # float32 has steps of 1e-3 at 1e4.
            np.testing.assert_allclose(y, expected.values, rtol=3e-7, atol=3e-3)
            slope = expected.pullback(np.ones(y.shape))
            np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-4)
            # Each window's weights sum to 1.
            np.testing.assert_allclose(gradient.sum(), y.size, rtol=1e-5)


@each(soft)
def test_a_constant_passes_through(op: Op):
    call = op.call()
    x = np.round(distinct(call.shape) * 64) / 64  # so that x + c is exact in float32
    pool = jax.jit(lambda x, t: op(x, call, temperature=t))
    for temperature, c in itertools.product(TEMPERATURES, (-1024.0, 1024.0)):
        t = jnp.float32(temperature)
        shifted = np.asarray(pool(jnp.asarray(x + c, jnp.float32), t)) - c
        expected = pool(jnp.asarray(x, jnp.float32), t)
        np.testing.assert_allclose(shifted, expected, atol=3e-4, rtol=3e-7)


@each(soft)
def test_minus_infinity_has_no_weight(op: Op):
    call = op.call((3, 2, 1), (2,), None, "VALID")
    x = jnp.asarray([[-np.inf, 3], [3, -np.inf], [2, 3]], FLOAT).reshape(call.shape)
    expected = op.expect(x, call)
    ones = np.ones(expected.values.shape, FLOAT)
    y, gradient = pullback(functools.partial(op, call=call), x, ones)
    assert_equal(y, expected.values, TOLERANCE)
    assert_equal(gradient, expected.pullback(ones), TOLERANCE)


@each(soft)
@pytest.mark.parametrize("window", [2, 40])
def test_the_least_number_counts_as_minus_infinity(op: Op, window: int):
    call = op.call((3, window, 1), (window,), None, "VALID")
    x = np.full(call.shape, np.finfo(FLOAT).min, FLOAT)
    x[1, 1:] = -np.inf
    x[2, 0] = 3
    ones = jnp.ones(op(x, call).shape, FLOAT)
    pool = functools.partial(op, call=call)
    both = [pullback(pool, a, ones) for a in (x, np.where(x < 0, -INF, x))]
    assert np.all(both[0][0].ravel()[:2] == -INF)
    jax.tree.map(np.testing.assert_array_equal, *both)


@each(soft)
def test_plus_infinity_has_all_the_weight(op: Op):
    call = op.call((2, 2, 1), (2,), None, "VALID")
    x = jnp.asarray([[np.inf, 3], [2, 2]], FLOAT).reshape(call.shape)
    y = op(x, call).ravel()
    assert y[0] == np.inf
    assert jnp.isfinite(y[1])


@each(soft)
def test_the_limits_of_temperature(op: Op):
    call = op.call((2, 6, 6, 2), (3, 3), 1, "VALID")
    x = jnp.asarray(distinct(call.shape), jnp.float32)
    top = op.kind.oracle(r.maximum, x, *call.args, **call.options).values
    assert_equal(op(x, call, temperature=1e-6), top, 1e-4)
    if op.options.get("normalize", True):
        # T * log(mean(exp(x / T))) taken at its word would be wrong by T * 6e-8 = 0.06 here.
        assert_equal(
            op(x, call, temperature=1e6),
            op.kind.oracle(r.mean, x, *call.args, **call.options).values,
            1e-5,
        )


@each(soft)
def test_forms_of_temperature(op: Op):
    call = op.call()
    x = jnp.asarray(distinct(call.shape), FLOAT)
    scalar = op.expect(x, call, temperature=0.5).values
    for temperature in (
        0.5,
        np.float32(0.5),
        np.array([0.5]),
        jnp.asarray(0.5, FLOAT),
        jnp.asarray([0.5] * 3),
    ):
        assert_equal(op(x, call, temperature=temperature), scalar, TOLERANCE)
    assert_equal(op(x, call, temperature=1), op.expect(x, call, temperature=1.0).values, TOLERANCE)
    assert_equal(jax.jit(lambda t: op(x, call, temperature=t))(0.5), scalar, TOLERANCE)

    per_channel = jnp.asarray([0.25, 1, 4], FLOAT)
    expected = op.expect(x, call, temperature=per_channel).values
    for temperature in (per_channel, per_channel.reshape(1, 1, 1, 3), np.asarray(per_channel)):
        assert_equal(op(x, call, temperature=temperature), expected, TOLERANCE)
    # Windows so large that they go another way.
    wide = Call((1, 3, 40), () if op.covers else (20,), {"axis": -1})
    lines = distinct(wide.shape).astype(FLOAT)
    temperature = per_channel.reshape(3, 1)
    y = op(lines, wide, temperature=temperature)
    assert_equal(y, op.expect(lines, wide, temperature=temperature).values, TOLERANCE)
    assert_equal(jax.jit(lambda t: op(x, call, temperature=t))(per_channel), expected, TOLERANCE)
    stacked = jax.vmap(lambda t: op(x, call, temperature=t))(per_channel)
    for t, y in zip([0.25, 1.0, 4.0], stacked, strict=True):
        assert_equal(y, op.expect(x, call, temperature=t).values, TOLERANCE)

    # Channels first, one temperature each.
    first = Call((2, 3, 6, 5), call.args, {"axis": (2, 3)})
    y = op(jnp.moveaxis(x, -1, 1), first, temperature=per_channel.reshape(3, 1, 1))
    assert_equal(y, np.moveaxis(expected, -1, 1), TOLERANCE)


@pytest.mark.wide
@each(soft)
def test_the_dtype_of_temperature_does_not_matter(op: Op):
    call = op.call()
    for dtype, other in [*itertools.product(FLOATS, FLOATS), (FLOAT, jnp.dtype(jnp.int32))]:
        x = jax.ShapeDtypeStruct(call.shape, dtype)
        temperature = jax.ShapeDtypeStruct((3,), other)
        assert (
            jax.eval_shape(lambda x, t: op(x, call, temperature=t), x, temperature).dtype == dtype
        )


@pytest.mark.wide
@each(soft)
def test_derivatives_by_temperature(op: Op):
    call = op.call((2, 3, 2), (2,), 1, "SAME")
    x = distinct(call.shape).astype(FLOAT)
    t = np.array([0.75, 1.25], FLOAT)
    check_derivatives(jax.jit(lambda x, t: op(x, call, temperature=t)), x, t)
    # One temperature for all is the sum over channels.
    slope = jax.jit(jax.grad(lambda t: op(x, call, temperature=t).sum()))
    expected = slope(np.array([0.75, 0.75], FLOAT)).sum()
    assert_equal(slope(FLOAT.type(0.75)), expected, TOLERANCE)


@each(soft)
def test_the_ends_of_temperature(op: Op):
    call = op.call((2, 5, 3, 2), (3, 2), 2, "SAME")
    x = distinct(call.shape).astype(np.float32)

    @jax.jit
    def run(x, t):
        def f(x, t):
            y = op(x, call, temperature=t)
            return y.sum(), y / t

        (_, y), (dx, dt) = jax.value_and_grad(f, (0, 1), has_aux=True)(x, t)
        return y, dx, dt

    hot = np.float32(1e37)
    for actual, expected in zip(run(hot * x, hot), run(x, np.float32(1)), strict=True):
        assert_equal(actual, expected, 1e-5)
    top = op.kind.oracle(r.maximum, x, *call.args, **call.options).values
    assert_equal(op(x, call, temperature=1e-37), top, 0)


@pytest.mark.wide
@each(soft)
def test_derivatives_by_temperature_equal_the_definition(op: Op):
    # Where float32 has no digits left for a finite difference: so the oracle takes it, in float64.
    call = op.call((2, 6, 6, 2), (3, 3), 2, "SAME")
    slope = jax.jit(jax.jacfwd(lambda t, x: op(x, call, temperature=t)))
    for temperature in TEMPERATURES:
        noise = random("slope", temperature).normal(size=call.shape)
        x = (1e4 + temperature * noise).astype(np.float32)
        step = 1e-4 * temperature
        higher, lower = (
            op.expect(x.astype(float) - 1e4, call, temperature=t).values
            for t in (temperature + step, temperature - step)
        )
        actual = slope(jnp.float32(temperature), x)
        np.testing.assert_allclose(actual, (higher - lower) / (2 * step), rtol=2e-3, atol=2e-3)


@each(soft)
def test_what_has_no_weight_bends_nothing(op: Op):
    # A hidden element, or -inf, beside others, by the curvature in a temperature below 1.
    x = jnp.asarray([0, 1, 3, 9], FLOAT).reshape(1, 4, 1)

    def curvatures(x, **options):
        call = op.call(x.shape, (x.shape[1],), None, "VALID")
        f = lambda t: op(x, call, temperature=t, **options).sum()  # noqa: E731
        orders = jax.hessian(f), jax.jacrev(jax.grad(f)), jax.grad(jax.hessian(f))
        return jax.jit(lambda t: [g(t) for g in orders])(FLOAT.type(0.5))

    expected = curvatures(x[:, :3])
    assert abs(expected[0]) > 0.1
    hidden = curvatures(x, where=x < 9)
    for actual in (hidden, curvatures(x.at[:, 3].set(-INF))):
        np.testing.assert_allclose(actual, expected, rtol=1e-4)


@each(soft)
def test_elements_of_minus_infinity_alone_have_no_gradient(op: Op):
    call = op.call((1, 6, 1), (3,), 3, "VALID")
    x = jnp.asarray([-np.inf] * 3 + [1.0, 2.0, 4.0], FLOAT).reshape(call.shape)
    for where in (None, np.array([0, 1, 1, 1, 1, 1], bool).reshape(call.shape)):

        @jax.jit
        def run(x, t, where=where):
            y, back = jax.vjp(lambda x, t: op(x, call, temperature=t, where=where), x, t)
            last = jnp.zeros_like(y).at[:, -1].set(1)
            return back(jnp.ones_like(y))[0], back(last)[1], y.size

        by_x, by_last, windows = run(x, FLOAT.type(0.5))
        assert np.isfinite(by_x).all() and not np.any(by_x[:, :3])
        if windows > 1:  # not all of it in one window
            other, expected, _ = run(x.at[:, :3].set(x[:, 3:]), FLOAT.type(0.5))
            np.testing.assert_array_equal(by_x[:, 3:], other[:, 3:])
            np.testing.assert_array_equal(by_last, expected)


@each(soft)
def test_the_derivative_by_the_coldest_temperature_is_that_of_the_counts_alone(op: Op):
    call = op.call((1, 4, 1), (2,), 2, "VALID")
    x = jnp.asarray([[[1.0], [0.0], [2.0], [5.0]]], jnp.float32)
    slope = jax.jacfwd(lambda t: op(x, call, temperature=t))
    near, far = (jax.jit(slope)(jnp.float32(t)) for t in (1e-30, 1e-3))  # the first, squared, is 0
    np.testing.assert_array_equal(near, far)


@each(soft)
def test_the_derivative_by_temperature_of_an_empty_window_is_0(op: Op):
    call = op.call((2, 4, 1), (2,), 2, "VALID")
    where = np.zeros(call.shape, bool)
    x = jnp.asarray(distinct(call.shape), FLOAT)
    for t in (jnp.asarray(0.5, FLOAT), jnp.asarray([0.5], FLOAT)):
        y, back = jax.vjp(lambda x, t: op(x, call, temperature=t, where=where), x, t)
        for gradient in back(jnp.ones_like(y)):
            np.testing.assert_array_equal(gradient, 0)
        _, tangent = jax.jvp(lambda x, t: op(x, call, temperature=t, where=where), (x, t), (x, t))
        np.testing.assert_array_equal(tangent, 0)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_soft_poolings_lie_between_average_and_maximum(temperature: float):
    x = jnp.asarray(random("order").normal(size=(2, 8, 8, 3)), FLOAT)
    geometry = {"window_shape": (3, 3), "strides": 2, "padding": "SAME"}
    low = jaxpool.avg_pool(x, **geometry, count_include_pad=False)
    high = jaxpool.max_pool(x, **geometry)
    for pool in (jaxpool.softmax_pool, jaxpool.lse_pool):
        y = pool(x, **geometry, temperature=temperature)
        assert (low <= y + 1e-6).all()
        assert (y <= high + 1e-6).all()
    summed = jaxpool.lse_pool(x, **geometry, temperature=temperature, normalize=False)
    assert (summed >= high - 1e-6).all()


# Shifts


@pytest.mark.optimized
@each(windowed, own)
@pytest.mark.parametrize(
    ("window", "strides"), [((2, 2), 2), ((3, 3), 2), ((3, 3), 1), ((5, 4), (4, 2))]
)
def test_circular_pools_shift_with_the_map_bit_for_bit(op: Op, window, strides):
    step = reference.per_axis(strides, 2)
    x = jnp.asarray(random("shift").normal(size=(2, 8, 12, 3)), FLOAT)
    pool = jax.jit(
        functools.partial(
            op.function, window_shape=window, strides=strides, padding="CIRCULAR", **op.options
        )
    )
    y = pool(x)
    for moves in [(1, 0), (0, 1), (1, 2), (-1, 1)]:
        shifted = jnp.roll(x, [m * s for m, s in zip(moves, step, strict=True)], (1, 2))
        assert_identical(pool(shifted), jnp.roll(y, moves, (1, 2)))


@each(selects, lambda op: op.covers)
def test_global_extremes_do_not_shift(op: Op):
    x = jnp.asarray(random("shift").normal(size=(2, 8, 12, 3)), FLOAT)
    assert_identical(op.function(jnp.roll(x, (3, 5), (1, 2))), op.function(x))
