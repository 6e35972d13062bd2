"""Every bad call gets one clear sentence: the function, the rule, the values, and the way out.

The texts are held to what they say, not to how they say it: each pattern is looked for anywhere in
the message.
"""

import functools
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

import jaxpool

HOME = Path(jaxpool.__file__).parent
IMAGE = (2, 8, 8, 3)
X = jnp.asarray(np.arange(np.prod(IMAGE), dtype=np.float32).reshape(IMAGE))


@functools.wraps(jaxpool.stochastic_pool)
def stochastic_pool(x, *args, **options):
    return jaxpool.stochastic_pool(jax.random.key(0), x, *args, **options)


WINDOWED = [
    jaxpool.max_pool,
    jaxpool.min_pool,
    jaxpool.sum_pool,
    jaxpool.avg_pool,
    jaxpool.lse_pool,
    jaxpool.softmax_pool,
    jaxpool.mixed_pool,
    stochastic_pool,
    jaxpool.lp_pool,
    jaxpool.gem_pool,
]
GLOBAL = [
    jaxpool.global_max_pool,
    jaxpool.global_min_pool,
    jaxpool.global_sum_pool,
    jaxpool.global_avg_pool,
    jaxpool.global_lse_pool,
    jaxpool.global_softmax_pool,
    jaxpool.global_lp_pool,
    jaxpool.global_gem_pool,
]
ADAPTIVE = [
    jaxpool.adaptive_max_pool,
    jaxpool.adaptive_min_pool,
    jaxpool.adaptive_sum_pool,
    jaxpool.adaptive_avg_pool,
    jaxpool.adaptive_lse_pool,
    jaxpool.adaptive_softmax_pool,
    jaxpool.adaptive_lp_pool,
    jaxpool.adaptive_max_pool_with_indices,
]
LOCATED = [jaxpool.max_pool_with_indices, jaxpool.min_pool_with_indices]
BLURS = [jaxpool.blur_pool, jaxpool.max_blur_pool]
ALL = [*WINDOWED, *GLOBAL, *ADAPTIVE, *LOCATED]
SOFT = [f for f in ALL if "lse" in f.__name__ or "softmax" in f.__name__]
POWERS = [f for f in ALL if "lp" in f.__name__ or "gem" in f.__name__]


def arguments(function: Callable) -> tuple:
    """What a pooling of X needs besides X."""
    return () if function in GLOBAL else ((2, 2),)


def names(functions: list[Callable]) -> list[str]:
    return [function.__name__ for function in functions]


def refuses(
    error: type[Exception], function: Callable, *args: Any, says: list[str], **options: Any
):
    """Call, expect `error`, and hold its message to the rules of all messages and to `says`."""
    with pytest.raises((TypeError, ValueError)) as caught:
        function(*args, **options)
    message = str(caught.value)
    assert type(caught.value) is error, message
    assert message.startswith(f"{function.__name__}: "), message
    assert re.search(r"\b(write|use|give|name)\b", message, re.IGNORECASE), f"no way out: {message}"
    assert message.endswith("."), message
    assert len(message) < 400, message
    assert Path(traceback.extract_tb(caught.tb)[-1].filename).is_relative_to(HOME), "not ours"
    for pattern in says:
        assert re.search(pattern, message), f"{pattern!r} not in: {message}"


# Each entry: what is wrong, the error, the arguments after x of shape IMAGE, and what to say.
BAD_GEOMETRY: dict[str, tuple[type[Exception], tuple, dict[str, Any], list[str]]] = {
    # The window
    "one number, many axes": (
        ValueError,
        (2,),
        {},
        [r"window_shape=2", r"\(2, 8, 8, 3\)", r"window_shape=\(2, 2\)", r"axis=\(1, 2\)"],
    ),
    "zero window": (ValueError, ((0, 2),), {}, [r"window_shape=\(0, 2\)", r"0"]),
    "negative window": (ValueError, ((2, -3),), {}, [r"window_shape=\(2, -3\)"]),
    "zero window, named axis": (ValueError, (0,), {"axis": 1}, [r"window_shape=0"]),
    "bool window": (TypeError, ((True, 2),), {}, [r"window_shape=\(True, 2\)", r"bool|True"]),
    "one bool window": (TypeError, (True,), {"axis": 1}, [r"window_shape=True"]),
    "float window": (TypeError, ((2.0, 2),), {}, [r"window_shape=\(2\.0, 2\)", r"float|whole|int"]),
    "one float window": (TypeError, (2.5,), {"axis": 1}, [r"window_shape=2\.5"]),
    "array of floats": (TypeError, (np.array([2.0, 2.0]),), {}, [r"window_shape=", r"2\."]),
    "window as text": (TypeError, ("22",), {}, [r"window_shape='22'"]),
    "no window": (TypeError, (None,), {}, [r"window_shape=None"]),
    "window with a hole": (TypeError, ((2, None),), {}, [r"window_shape=\(2, None\)"]),
    "empty window": (ValueError, ((),), {}, [r"window_shape=\(\)"]),
    "window too long for x": (
        ValueError,
        ((2, 2, 2, 2),),
        {},
        [r"window_shape=\(2, 2, 2, 2\)", r"\(2, 8, 8, 3\)", r"axis"],
    ),
    "window larger than the map": (
        ValueError,
        ((9, 2),),
        {},
        [r"window_shape=\(9, 2\)|window_shape.*9", r"\b8\b", r"\b9\b", r"pad|SAME|smaller"],
    ),
    "window larger than the padded map": (
        ValueError,
        ((2, 13), None, ((0, 0), (1, 3))),
        {},
        [r"\b13\b", r"\b12\b"],
    ),
    "dilated window larger than the map": (
        ValueError,
        ((5, 5),),
        {"window_dilation": 2},
        [r"window_dilation=2", r"\b9\b", r"\b8\b"],
    ),
    "window larger than the map in ceil mode": (
        ValueError,
        ((10, 2), 2),
        {"ceil_mode": True},
        [r"\b10\b", r"\b8\b"],
    ),
    # Strides
    "zero stride": (ValueError, ((2, 2), 0), {}, [r"strides=0"]),
    "one zero stride": (ValueError, ((2, 2), (2, 0)), {}, [r"strides=\(2, 0\)"]),
    "negative stride": (ValueError, ((2, 2), -1), {}, [r"strides=-1"]),
    "too many strides": (ValueError, ((2, 2), (1, 2, 3)), {}, [r"strides=\(1, 2, 3\)", r"\b2\b"]),
    "too few strides": (ValueError, ((2, 2), (1,)), {}, [r"strides=\(1,\)", r"\b2\b"]),
    "float stride": (TypeError, ((2, 2), 2.0), {}, [r"strides=2\.0"]),
    "bool stride": (TypeError, ((2, 2), (True, 1)), {}, [r"strides=\(True, 1\)"]),
    # Dilation
    "zero dilation": (ValueError, ((2, 2),), {"window_dilation": 0}, [r"window_dilation=0"]),
    "negative dilation": (
        ValueError,
        ((2, 2),),
        {"window_dilation": (1, -2)},
        [r"window_dilation=\(1, -2\)"],
    ),
    "too many dilations": (
        ValueError,
        ((2, 2),),
        {"window_dilation": (1, 1, 1)},
        [r"window_dilation=\(1, 1, 1\)", r"\b2\b"],
    ),
    "float dilation": (TypeError, ((2, 2),), {"window_dilation": 1.5}, [r"window_dilation=1\.5"]),
    "no dilation": (TypeError, ((2, 2),), {"window_dilation": None}, [r"window_dilation=None"]),
    # Padding
    "unknown word": (
        ValueError,
        ((2, 2), None, "SAMEE"),
        {},
        ["'SAMEE'|\"SAMEE\"", "VALID", "SAME", "SAME_LOWER", "CIRCULAR", "REFLECT", "EDGE"],
    ),
    "a word of the blurs": (ValueError, ((2, 2), None, "NORMALIZED"), {}, ["NORMALIZED", "SAME"]),
    "negative padding": (ValueError, ((2, 2), None, -1), {}, [r"padding=-1"]),
    "a word in another place": (
        TypeError,
        ("SAME",),
        {},
        ["window_shape='SAME'", "padding='SAME'"],
    ),
    "a word that blurs know": (
        TypeError,
        ("normalized",),
        {},
        ["'normalized', of type str. Write w"],
    ),
    "a word per axis": (TypeError, ((2, 2), None, ("SAME", "VALID")), {}, ["padding='SAME', one"]),
    "one negative padding": (ValueError, ((2, 2), None, (0, -2)), {}, [r"padding=\(0, -2\)"]),
    "negative pad in a pair": (
        ValueError,
        ((2, 2), None, ((1, 1), (0, -1))),
        {},
        [r"padding=\(\(1, 1\), \(0, -1\)\)"],
    ),
    "too many paddings": (ValueError, ((2, 2), None, (1, 1, 1)), {}, [r"padding=\(1, 1, 1\)"]),
    "too many pairs": (
        ValueError,
        ((2, 2), None, ((1, 1), (1, 1), (1, 1))),
        {},
        [r"padding=\(\(1, 1\), \(1, 1\), \(1, 1\)\)"],
    ),
    "a pair of three": (
        ValueError,
        ((2, 2), None, ((1, 1, 1), (0, 0, 0))),
        {},
        [r"padding=\(\(1, 1, 1\), \(0, 0, 0\)\)", r"low"],
    ),
    "float padding": (TypeError, ((2, 2), None, 1.0), {}, [r"padding=1\.0"]),
    "bool padding": (TypeError, ((2, 2), None, True), {}, [r"padding=True"]),
    "no padding": (TypeError, ((2, 2), None, None), {}, ["padding=None", "'VALID'"]),
    "float in a pair": (TypeError, ((2, 2), None, ((0.5, 0), (0, 0))), {}, [r"0\.5"]),
    # Axes
    "repeated axis": (ValueError, ((2, 2),), {"axis": (1, 1)}, [r"axis=\(1, 1\)"]),
    "axis repeated from the back": (
        ValueError,
        ((2, 2),),
        {"axis": (1, -3)},
        [r"axis=\(1, -3\)", r"\(2, 8, 8, 3\)|4"],
    ),
    "axis out of range": (ValueError, (2,), {"axis": 4}, [r"axis=4", r"\(2, 8, 8, 3\)"]),
    "negative axis out of range": (
        ValueError,
        ((2, 2),),
        {"axis": (1, -5)},
        [r"axis=\(1, -5\)|-5", r"\(2, 8, 8, 3\)"],
    ),
    "fewer axes than windows": (
        ValueError,
        ((2, 2),),
        {"axis": 1},
        [r"window_shape=\(2, 2\)", r"axis=1"],
    ),
    "more axes than windows": (
        ValueError,
        ((2, 2),),
        {"axis": (0, 1, 2)},
        [r"window_shape=\(2, 2\)", r"axis=\(0, 1, 2\)"],
    ),
    "float axis": (TypeError, (2,), {"axis": 1.0}, [r"axis=1\.0"]),
    "bool axis": (TypeError, (2,), {"axis": True}, [r"axis=True"]),
}


@pytest.mark.parametrize("bad", BAD_GEOMETRY)
@pytest.mark.parametrize("function", WINDOWED + LOCATED, ids=names(WINDOWED + LOCATED))
def test_bad_geometry(function: Callable, bad: str):
    error, args, options, says = BAD_GEOMETRY[bad]
    refuses(error, function, X, *args, says=says, **options)


@pytest.mark.parametrize("bad", BAD_GEOMETRY)
def test_output_shape_refuses_the_same_geometry(bad: str):
    error, args, options, says = BAD_GEOMETRY[bad]
    refuses(error, jaxpool.output_shape, IMAGE, *args, says=says, **options)


@pytest.mark.parametrize("bad", BAD_GEOMETRY)
def test_bad_geometry_under_jit_and_vmap(bad: str):
    error, args, options, _ = BAD_GEOMETRY[bad]
    for transform in (jax.jit, jax.vmap):
        # One more batch axis in front, which vmap takes away again.
        x = X if transform is jax.jit else X[None]
        with pytest.raises(error, match="^max_pool: "):
            transform(lambda x: jaxpool.max_pool(x, *args, **options))(x)


@pytest.mark.parametrize("function", WINDOWED, ids=names(WINDOWED))
@pytest.mark.parametrize("shape", [(), (5,)])
def test_x_of_too_few_axes(function: Callable, shape: tuple[int, ...]):
    x = jnp.zeros(shape)
    refuses(ValueError, function, x, (2,), says=[r"window_shape=\(2,\)", re.escape(str(shape))])
    refuses(ValueError, function, x, 2, says=[r"window_shape=2", re.escape(str(shape))])


@pytest.mark.parametrize("function", GLOBAL, ids=names(GLOBAL))
@pytest.mark.parametrize(
    ("error", "axis"),
    [
        (ValueError, 4),
        (ValueError, -5),
        (ValueError, (1, 1)),
        (ValueError, (0, -4)),
        (TypeError, 1.0),
        (TypeError, True),
        (TypeError, "1"),
        (TypeError, "SAME"),
    ],
)
def test_bad_axes_of_global_pools(function: Callable, error: type[Exception], axis):
    says = [rf"axis={re.escape(repr(axis))}", "^(?!.*padding)"]
    refuses(error, function, X, axis=axis, says=says)


BAD_OUTPUTS: dict[str, tuple[type[Exception], Any, dict[str, Any], list[str]]] = {
    "one number, many axes": (
        ValueError,
        7,
        {},
        ["output_shape=7", r"\(2, 8, 8, 3\)", "be about", r"shape=\(7, 7\)", r"axis=\(1, 2\)"],
    ),
    "zero": (ValueError, (0, 2), {}, [r"output_shape=\(0, 2\)", "at least 1"]),
    "negative": (ValueError, -3, {"axis": 1}, [r"output_shape=-3"]),
    "a float": (TypeError, (2.0, 2), {}, [r"output_shape=\(2\.0, 2\)", "float|whole"]),
    "a bool": (TypeError, (True, None), {}, [r"output_shape=\(True, None\)"]),
    "nothing": (TypeError, None, {}, [r"output_shape=None"]),
    "text": (TypeError, "7", {"axis": 1}, [r"output_shape='7'"]),
    "empty": (ValueError, (), {}, [r"output_shape=\(\)"]),
    "too long for x": (ValueError, (1, 2, 3, 4), {}, [r"\(1, 2, 3, 4\)", "axis"]),
    "fewer axes": (ValueError, (7, 7), {"axis": 1}, [r"output_shape=\(7, 7\)", "axis=1"]),
    "an axis twice": (ValueError, 7, {"axis": (1, -3)}, [r"axis=\(1, -3\)"]),
    "an axis out of range": (ValueError, 7, {"axis": 4}, ["axis=4", r"\(2, 8, 8, 3\)"]),
}


@pytest.mark.parametrize("bad", BAD_OUTPUTS)
@pytest.mark.parametrize("function", ADAPTIVE, ids=names(ADAPTIVE))
def test_bad_output_shapes(function: Callable, bad: str):
    error, output_shape, options, says = BAD_OUTPUTS[bad]
    refuses(error, function, X, output_shape, says=says, **options)


@pytest.mark.parametrize("function", ADAPTIVE, ids=names(ADAPTIVE))
def test_an_empty_axis_has_no_bins(function: Callable):
    says = [r"output_shape=\(2,\)", r"\(2, 0, 3\)", "no elements"]
    refuses(ValueError, function, jnp.zeros((2, 0, 3)), (2,), says=says)
    says = [r"\(2, 0, 3\)", "no elements", "Write a larger map"]  # and not: None for that axis
    refuses(ValueError, function, jnp.zeros((2, 0, 3)), (None,), says=says)


@pytest.mark.parametrize("function", [*LOCATED, ADAPTIVE[-1]], ids=names([*LOCATED, ADAPTIVE[-1]]))
def test_more_positions_than_an_int32_counts(function: Callable):
    x = jax.ShapeDtypeStruct((2**16, 2**15, 1), jnp.int8)
    with pytest.raises(ValueError, match=rf"^{function.__name__}: .*32768\).* 2147483648 .*int32"):
        jax.eval_shape(lambda x: function(x, (2, 2)), x)


def test_more_elements_than_an_int32_numbers_have_no_gradient():
    x = jax.ShapeDtypeStruct((2**16, 2**16, 1), jnp.float32)
    pool = functools.partial(jaxpool.global_max_pool, axis=(0, 1))
    assert jax.eval_shape(pool, x).shape == (1,)
    with pytest.raises(ValueError, match="window of more than 2147483647 .*Write fewer axes"):
        jax.eval_shape(jax.grad(lambda x: pool(x)[0]), x)


# Indices

AT = np.zeros(IMAGE, np.int32)
BAD_UNPOOLS: dict[str, tuple[type[Exception], tuple, dict[str, Any], list[str]]] = {
    "floats": (TypeError, (np.zeros(IMAGE), (9, 9)), {}, ["indices", "float"]),
    "another shape": (
        ValueError,
        (AT[:1], (9, 9)),
        {},
        [r"\(1, 8, 8, 3\)", r"\(2, 8, 8, 3\)"],
    ),
    "one number": (ValueError, (AT, 9), {}, ["output_shape=9", r"output_shape=\(9, 9\)", "axis"]),
    "none": (TypeError, (AT, (None, 9)), {}, [r"output_shape=\(None, 9\)"]),
    "zero": (ValueError, (AT, (0, 9)), {}, [r"output_shape=\(0, 9\)"]),
    "another batch": (
        ValueError,
        (AT, (3, 9, 9, 3)),
        {"axis": (1, 2)},
        [r"output_shape=\(3, 9, 9, 3\)", r"\(2, 8, 8, 3\)", "axis 0"],
    ),
    "the whole shape, no axis": (
        ValueError,
        (AT, (2, 9, 9, 3)),
        {},
        [r"Write output_shape=\(9, 9\), or axis=\(1, 2\) beside it"],
    ),
    "the same shape, no axis": (ValueError, (AT, IMAGE), {}, [r"axis=\(1, 2\) beside it"]),
    "the whole shape, channels first": (
        ValueError,
        (AT, (2, 8, 16, 6)),
        {},
        [r"were pooled\. Write axis=\(2, 3\) beside it"],  # (16, 6) alone would be other axes
    ),
    "too large": (ValueError, (AT, (2**16, 2**15)), {}, ["2147483648"]),
    "text": (TypeError, ("indices", (9, 9)), {}, ["indices='indices'"]),
}


@pytest.mark.parametrize("bad", BAD_UNPOOLS)
def test_bad_unpools(bad: str):
    error, args, options, says = BAD_UNPOOLS[bad]
    refuses(error, jaxpool.max_unpool, X, *args, says=says, **options)


# Phases

BAD_PHASES: dict[str, tuple[type[Exception], tuple, dict[str, Any], list[str]]] = {
    "no axes between": (ValueError, (X[0, 0],), {}, [r"\(8, 3\)", "axis="]),
    "an empty axis": (ValueError, (X[:, :0],), {}, [r"\(2, 0, 8, 3\)", "axis 1", "no elements"]),
    "zero stride": (ValueError, (X, 0), {}, ["strides=0", "at least 1"]),
    "three strides": (ValueError, (X, (2, 2, 2, 2)), {}, [r"strides=\(2, 2, 2, 2\)", "4 entries"]),
    "strides of other axes": (
        ValueError,
        (X, (2, 2)),
        {"axis": 1},
        [r"strides=\(2, 2\)", "axis=1"],
    ),
    "float stride": (TypeError, (X, 2.0), {}, [r"strides=2\.0"]),
    "an axis twice": (ValueError, (X,), {"axis": (1, -3)}, [r"axis=\(1, -3\)"]),
    "an order of 3": (ValueError, (X,), {"order": 3}, ["order=3", "1, 2 or inf"]),
    "an order of text": (ValueError, (X,), {"order": "2"}, ["order='2'"]),
    "two orders": (ValueError, (X,), {"order": np.array([1, 2])}, [r"order=\[1, 2\]"]),
    "a bool order": (ValueError, (X,), {"order": True}, ["order=True"]),
    "sizes that do not divide": (
        ValueError,
        (X, (2, 3)),
        {"strict": True},
        [r"strides=\(2, 3\)", r"\b8\b", "axis 2", r"\b9\b", "strict=False"],
    ),
    "phases of floats": (TypeError, (X,), {"phase": np.zeros(2)}, ["phase", "float"]),
    "a phase per channel": (
        ValueError,
        (X,),
        {"phase": np.zeros((2, 3), np.int32)},
        [r"\(2, 3\)", r"\(2, 8, 8, 3\)", r"\(2,\)"],
    ),
    "one phase": (ValueError, (X,), {"phase": 0}, [r"phase of shape \(\)"]),
    "text": (TypeError, ("image",), {}, [r"\bx\b"]),
    "complex": (TypeError, (X.astype(jnp.complex64),), {}, ["complex64"]),
}


@pytest.mark.parametrize("bad", BAD_PHASES)
def test_bad_phases(bad: str):
    error, args, options, says = BAD_PHASES[bad]
    refuses(error, jaxpool.polyphase_pool, *args, says=says, **options)


BAD_RETURNS: dict[str, tuple[type[Exception], dict[str, Any], list[str]]] = {
    "too small": (ValueError, {"output_shape": 14}, ["output_shape=14", "7", "axis 1", "15 to 16"]),
    "too large": (ValueError, {"output_shape": (16, 17)}, ["axis 2", "15 to 16"]),
    "three sizes": (ValueError, {"output_shape": (16, 16, 3)}, [r"\(16, 16, 3\)", "3 entries"]),
    "zero": (ValueError, {"output_shape": 0}, ["output_shape=0"]),
    "another stride": (ValueError, {"strides": 3, "output_shape": 16}, ["strides=3", "22 to 24"]),
    "phases of floats": (TypeError, {"phase": np.zeros(2)}, ["phase", "float"]),
    "phases of another batch": (ValueError, {"phase": np.zeros(3, int)}, [r"\(3,\)", r"\(2,\)"]),
}


@pytest.mark.parametrize("bad", BAD_RETURNS)
def test_bad_ways_back(bad: str):
    error, options, says = BAD_RETURNS[bad]
    options = {"phase": np.zeros(2, np.int32), **options}
    refuses(error, jaxpool.polyphase_unpool, X, says=says, **options)


# Fractions, pyramids and stacks

BAD_FRACTIONS: dict[str, tuple[dict[str, Any], type[Exception], list[str]]] = {
    "no size": ({}, ValueError, ["output_shape", "output_ratio", "neither"]),
    "two sizes": ({"output_shape": 3, "output_ratio": 0.5}, ValueError, ["both"]),
    "too many windows": ({"output_shape": (3, 8)}, ValueError, [r"\b8\b", r"\b9\b", "axis 2"]),
    "zero windows": ({"output_shape": 0}, ValueError, ["output_shape=0"]),
    "three sizes": ({"output_shape": (1, 2, 3)}, ValueError, [r"output_shape=\(1, 2, 3\)"]),
    "a float size": ({"output_shape": 3.0}, TypeError, [r"output_shape=3\.0"]),
    "a ratio of 1": ({"output_ratio": 1}, ValueError, ["output_ratio=1", "between 0 and 1"]),
    "a negative ratio": ({"output_ratio": -0.5}, ValueError, [r"output_ratio=-0\.5"]),
    "a ratio of text": ({"output_ratio": "half"}, TypeError, ["output_ratio='half'"]),
    "three ratios": ({"output_ratio": (0.5,) * 3}, ValueError, ["output_ratio=", "3 entries"]),
    "a sequence": ({"output_shape": 3, "sequence": "chaotic"}, ValueError, ["sequence='chaotic'"]),
    "two sequences": (
        {"output_shape": 3, "sequence": np.array(["random", "x"])},
        ValueError,
        [r"sequence=\['random', 'x'\]"],
    ),
    "no key": ({"output_shape": 3, "key": None}, TypeError, ["key=None", "jax.random.key"]),
    "a seed": ({"output_shape": 3, "key": 0}, TypeError, ["key=0", "jax.random.key"]),
    "keys": (
        {"output_shape": 3, "key": jax.random.split(jax.random.key(0))},
        ValueError,
        [r"\(2,\)", "vmap"],
    ),
    "samples of the random": (
        {"output_shape": 3, "samples": (0.5, 0.5), "sequence": "random"},
        ValueError,
        ["samples", "pseudorandom"],
    ),
    "one sample": ({"output_shape": 3, "samples": (0.5,)}, ValueError, [r"\(1,\)", r"\b2\b"]),
    "a complex sample": (
        {"output_shape": 3, "samples": (0.5, 0.5j)},
        TypeError,
        ["samples=", "real"],
    ),
    "a sample of 1": ({"output_shape": 3, "samples": (0.5, 1)}, ValueError, [r"samples=\(0\.5, 1"]),
}


@pytest.mark.parametrize("bad", BAD_FRACTIONS)
def test_bad_fractions(bad: str):
    options, error, says = BAD_FRACTIONS[bad]
    options = {"key": jax.random.key(0), "x": X, "window_shape": (2, 2), **options}
    refuses(error, jaxpool.fractional_max_pool, says=says, **options)


@pytest.mark.parametrize(
    ("error", "options", "says"),
    [
        (ValueError, {"levels": (1, 0)}, ["levels=0", "at least 1"]),
        (ValueError, {"levels": ()}, [r"levels=\(\)"]),
        (ValueError, {"levels": 4}, ["levels=4", r"\(1, 2, 4\)"]),
        (ValueError, {"levels": (1, (2, 2, 2))}, [r"levels=\(2, 2, 2\)", "3 entries"]),
        (TypeError, {"levels": (1, 2.0)}, [r"levels=2\.0"]),
        (ValueError, {"pool": "median"}, ["pool='median'", "softmax"]),
        (ValueError, {"pool": ["max"]}, [r"pool=\[.max.\]", "softmax"]),
        (ValueError, {"axis": (1, 1)}, [r"axis=\(1, 1\)"]),
    ],
)
def test_bad_pyramids(error: type[Exception], options: dict[str, Any], says: list[str]):
    refuses(error, jaxpool.spatial_pyramid_pool, X, says=says, **options)
    if "pool" not in options:
        refuses(error, jaxpool.pyramid_output_shape, IMAGE, says=says, **options)


BAD_BLURS: dict[str, tuple[type[Exception], dict[str, Any], list[str]]] = {
    "zero stride": (ValueError, {"strides": 0}, ["strides=0", "at least 1"]),
    "three strides": (ValueError, {"strides": (2, 2, 2), "axis": (1, 2)}, ["3 entries", "names 2"]),
    "a float stride": (TypeError, {"strides": 2.0}, [r"strides=2\.0"]),
    "no stride": (TypeError, {"strides": None}, ["strides=None"]),
    "zero filter": (ValueError, {"filter_size": (3, 0)}, [r"filter_size=\(3, 0\)", "at least 1"]),
    "wide filter": (ValueError, {"filter_size": 9}, ["filter_size=9", r"\b7\b", "strides=1"]),
    "a float filter": (TypeError, {"filter_size": 3.0}, [r"filter_size=3\.0"]),
    "three filters": (ValueError, {"filter_size": (3, 3, 3)}, [r"filter_size=\(3, 3, 3\)", "2"]),
    "unknown word": (ValueError, {"padding": "ZERO"}, ["'ZERO'", "'NORMALIZED'", "'REFLECT'"]),
    "no padding": (TypeError, {"padding": None}, ["padding=None"]),
    "negative padding": (ValueError, {"padding": -1}, ["padding=-1"]),
    "three paddings": (ValueError, {"padding": (1, 1, 1)}, [r"padding=\(1, 1, 1\)"]),
    "axis twice": (ValueError, {"axis": (1, 1)}, [r"axis=\(1, 1\)"]),
    "axis out of range": (ValueError, {"axis": (1, 4)}, [r"axis=\(1, 4\)", r"\(2, 8, 8, 3\)"]),
}


@pytest.mark.parametrize("bad", BAD_BLURS)
@pytest.mark.parametrize("function", BLURS, ids=names(BLURS))
def test_bad_blurs(function: Callable, bad: str):
    error, options, says = BAD_BLURS[bad]
    if function is jaxpool.max_blur_pool:
        options = {"window_shape": (2, 2), **options}
        if bad == "three strides":
            says = ["3 entries", r"\b2 entries"]
    refuses(error, function, X, says=says, **options)


def test_blurs_need_a_map():
    refuses(ValueError, jaxpool.blur_pool, jnp.zeros((5, 3)), says=[r"\(5, 3\)", "axis=1"])
    refuses(ValueError, jaxpool.blur_pool, X, (2,) * 4, says=[r"strides=\(2, 2, 2, 2\)", "axis"])
    says = ["filter_size=5", r"\b5\b", r"\b4\b", r"padding='VALID'", "REFLECT"]
    refuses(ValueError, jaxpool.blur_pool, X[:, :4], filter_size=5, padding="VALID", says=says)
    refuses(ValueError, jaxpool.blur_pool, X[:, :0], says=["axis 1", r"\b0\b"])
    refuses(TypeError, jaxpool.blur_pool, "image", says=[r"\bx\b"])


def test_the_maximum_before_a_blur_needs_a_window():
    refuses(ValueError, jaxpool.max_blur_pool, X, 2, says=["window_shape=2", r"\(2, 2\)"])
    refuses(ValueError, jaxpool.max_blur_pool, X, (0, 2), says=[r"window_shape=\(0, 2\)"])
    says = [r"window_shape=\(9, 2\)", r"\b8\b"]
    refuses(ValueError, jaxpool.max_blur_pool, X, (9, 2), padding="VALID", says=says)
    says = ["filter_size=3", r"more than the 1 .*axis 1 .*\(2, 1, 7, 3\)"]
    refuses(ValueError, jaxpool.max_blur_pool, X, (8, 2), padding="VALID", says=says)
    x = jnp.zeros(IMAGE, jnp.complex64)
    refuses(TypeError, jaxpool.max_blur_pool, x, (2, 2), says=["complex64"])


@pytest.mark.parametrize("sizes", [{2, 3}, {2: 3, 3: 2}.keys(), {1: 2, 2: 3}], ids=str)
def test_what_has_no_order_is_not_one_entry_per_axis(sizes):
    kind = f"of type {type(sizes).__name__}.*Write whole numbers"
    refuses(TypeError, jaxpool.max_pool, X, sizes, says=["window_shape=", kind])
    refuses(TypeError, jaxpool.max_pool, X, (2, 2), sizes, says=["strides=", kind])
    refuses(TypeError, jaxpool.max_pool, X, (2, 2), axis=sizes, says=["axis=", kind])
    refuses(TypeError, jaxpool.adaptive_max_pool, X, sizes, says=["output_shape=", kind])
    refuses(TypeError, jaxpool.max_pool, X, (2, 2), padding=sizes, says=["padding=", kind])


def test_long_values_are_cut():
    refuses(ValueError, jaxpool.max_pool, X, [2] * 99, says=[r"\[2, 2.* \.\.\. has 99"])


def test_large_arrays_are_told_by_their_shapes():
    many, shown = -np.ones(IMAGE, np.float32), r"<array of shape \(2, 8, 8, 3\), float32>"
    refuses(
        ValueError, jaxpool.lse_pool, X, (2, 2), temperature=many, says=[f"temperature={shown} is"]
    )
    refuses(TypeError, jaxpool.max_pool, X, X, says=[f"window_shape={shown} holds"])
    refuses(TypeError, jaxpool.output_shape, X, (2, 2), says=[f"x_shape={shown} .*Write x.shape"])


def test_a_key_comes_first():
    swapped = jaxpool.stochastic_pool
    says = ["key=.*not one random key", r"Write jax.random.key\(0\) as the first argument"]
    refuses(TypeError, swapped, X, jax.random.key(0), (2, 2), says=says)


def test_a_padding_in_the_place_of_strides():
    refuses(TypeError, jaxpool.max_pool, X, (2, 2), "same", says=["Write padding='SAME', one word"])


def test_a_number_has_no_axes_to_slide_over():
    refuses(ValueError, jaxpool.max_pool, 3.0, (2,), says=["Write an x that has axes"])


def test_what_has_no_axes_has_none_to_name():
    refuses(ValueError, jaxpool.max_pool, 3.0, 2, axis=0, says=["axis=0", "has axes"])


def test_what_is_iterable_may_be_levels():
    y = jaxpool.spatial_pyramid_pool(X, (level for level in (1, 2)))
    np.testing.assert_array_equal(y, jaxpool.spatial_pyramid_pool(X, (1, 2)))


@pytest.mark.parametrize("function", GLOBAL, ids=names(GLOBAL))
def test_keepdims_may_be_numpys(function: Callable):
    assert function(X, keepdims=np.array(True)).shape == (2, 1, 1, 3)


@pytest.mark.parametrize("pool", ["lse", "softmax"])
def test_a_pyramid_speaks_for_its_pool(pool: str):
    x = jnp.zeros(IMAGE, jnp.int32)
    refuses(TypeError, jaxpool.spatial_pyramid_pool, x, pool=pool, says=["int32"])


@pytest.mark.parametrize(
    ("error", "layer", "says"),
    [
        (ValueError, (), [r"\(\)", "0 entries"]),
        (ValueError, (3, 2, 1, 1, 1), ["5 entries"]),
        (ValueError, (0,), [r"layers=\(0,\)", "at least 1"]),
        (ValueError, (3, 0), [r"layers=\(3, 0\)"]),
        (ValueError, (3, 1, -1), [r"layers=\(3, 1, -1\)"]),
        (TypeError, (3.0, 1), [r"3\.0"]),
        (TypeError, "3", ["'3'"]),
        (ValueError, (3, 2, "SAME"), ["padding='SAME'"]),
        (ValueError, (3, 2, (1, -5)), [r"layers=\(3, 2, \(1, -5\)\)", "at least 0"]),
        (TypeError, (3, 2, (1, "x")), ["'x'"]),
        (ValueError, (3, 2, (1, 1, 1)), [r"padding=\(1, 1, 1\)", "3 entries", r"\(low, high\)"]),
    ],
)
def test_bad_layers(error: type[Exception], layer, says: list[str]):
    refuses(error, jaxpool.receptive_field, [(3, 1), layer], says=says)


def test_layers_are_several_and_may_be_arrays():
    refuses(TypeError, jaxpool.receptive_field, 3, says=["layers=3"])
    layers = [np.array([7, 2, 3]), (3, 2, np.array([1, 0]))]
    assert jaxpool.receptive_field(layers) == jaxpool.receptive_field([(7, 2, 3), (3, 2, 1)])


# What has to be known before tracing, and an argument that is not.
TRACED: dict[str, Callable] = {
    "window_shape": lambda n: jaxpool.max_pool(X, n, axis=1),
    "strides": lambda n: jaxpool.max_pool(X, (2, 2), n),
    "padding": lambda n: jaxpool.max_pool(X, (2, 2), padding=n),
    "axis": lambda n: jaxpool.max_pool(X, 2, axis=n),
    "output_shape": lambda n: jaxpool.adaptive_max_pool(X, n, axis=1),
    "divisor_override": lambda n: jaxpool.avg_pool(X, (2, 2), divisor_override=n),
    "eps": lambda n: jaxpool.gem_pool(X, (2, 2), eps=n),
    "output_ratio": lambda n: jaxpool.fractional_max_pool(
        jax.random.key(0), X, (2, 2), output_ratio=n
    ),
    "levels": lambda n: jaxpool.spatial_pyramid_pool(X, n),
    "order": lambda n: jaxpool.polyphase_pool(X, order=n),
    "key": lambda n: jaxpool.stochastic_pool(n, X, (2, 2)),
    "temperature": lambda n: jaxpool.lse_pool(X, (2, 2), temperature=n > 1),
    "ceil_mode": lambda n: jaxpool.max_pool(X, (2, 2), ceil_mode=n > 1),
    "count_include_pad": lambda n: jaxpool.avg_pool(X, (2, 2), count_include_pad=n > 1),
    "keepdims": lambda n: jaxpool.global_max_pool(X, keepdims=n > 1),
    "normalize": lambda n: jaxpool.lse_pool(X, (2, 2), normalize=n > 1),
    "overlapping": lambda n: jaxpool.fractional_max_pool(
        jax.random.key(0), X, (2, 2), output_ratio=0.7, overlapping=n > 1
    ),
    "deterministic": lambda n: jaxpool.stochastic_pool(None, X, (2, 2), deterministic=n > 1),
    "strict": lambda n: jaxpool.polyphase_pool(X, strict=n > 1),
    "return_phase": lambda n: jaxpool.polyphase_pool(X, return_phase=n > 1),
}

FLAGS = [
    (jaxpool.global_sum_pool, (), "keepdims"),
    (jaxpool.global_avg_pool, (), "keepdims"),
    (jaxpool.global_lse_pool, (), "keepdims"),
    (jaxpool.global_softmax_pool, (), "keepdims"),
    (jaxpool.global_lp_pool, (), "keepdims"),
    (jaxpool.global_gem_pool, (), "keepdims"),
    (jaxpool.global_lp_pool, (), "normalize"),
    (jaxpool.global_lse_pool, (), "normalize"),
    (jaxpool.adaptive_lp_pool, ((2, 2),), "normalize"),
    (jaxpool.adaptive_lse_pool, ((2, 2),), "normalize"),
    (jaxpool.mixed_pool, ((2, 2),), "count_include_pad"),
    (jaxpool.lp_pool, ((2, 2),), "ceil_mode"),
]


@pytest.mark.parametrize(("function", "args", "flag"), FLAGS)
def test_a_flag_is_true_or_false(function: Callable, args: tuple, flag: str):
    for value in ("False", np.ones(2), [False], None, 2, float("nan"), jax.random.key(0)):
        refuses(TypeError, function, X, *args, **{flag: value}, says=[f"{flag}=.*True or False"])
    same = function(X, *args, **{flag: True})
    for value in (np.True_, 1, jnp.array(True)):
        assert np.array_equal(function(X, *args, **{flag: value}), same)


@pytest.mark.parametrize("argument", TRACED)
def test_what_has_to_be_known_is_not_traced(argument: str):
    with pytest.raises((TypeError, ValueError), match=f"^[a-z_]+: {argument}=.* Write ") as caught:
        jax.jit(TRACED[argument])(2)
    assert "jax" not in type(caught.value).__module__, "JAX's own"


@pytest.mark.parametrize("bad", ["zero window", "unknown word", "axis out of range"])
def test_costs_refuse_the_same_geometry(bad: str):
    error, args, options, says = BAD_GEOMETRY[bad]
    refuses(error, jaxpool.pooling_cost, IMAGE, *args, says=says, **options)


@pytest.mark.parametrize("dtype", ["floaty", None, {}, "object", "S3"])
def test_costs_need_a_dtype(dtype):
    says = [f"dtype={re.escape(repr(dtype))}"]
    refuses(TypeError, jaxpool.pooling_cost, IMAGE, (2, 2), dtype=dtype, says=says)


@pytest.mark.parametrize("pool", [jaxpool.max_pool, jaxpool.blur_pool, jaxpool.polyphase_pool])
@pytest.mark.parametrize("padding", ["SAME", "REFLECT"])
def test_an_empty_axis_is_called_empty(pool: Callable, padding: str):
    how = {} if pool is jaxpool.polyphase_pool else {"padding": padding}
    refuses(ValueError, pool, X[:, :0], (2, 2), says=["axis 1.*no elements", "larger map"], **how)


@pytest.mark.parametrize("two", [2, np.int64(2), np.array(2)])
def test_a_window_of_one_number_is_shown_plainly(two):
    refuses(ValueError, jaxpool.max_pool, X, two, says=[r"Write window_shape=\(2, 2\) for images"])


def test_sizes_beyond_all_arrays_are_refused():
    refuses(ValueError, jaxpool.max_pool, X, (2, 2), 2, (2**70, 2), says=["holds 11805.*below 2"])
    refuses(ValueError, jaxpool.adaptive_max_pool, X, (2**31, 2), says=["holds 2147483648.*below"])


SHAPES = {
    jaxpool.output_shape: ((2, 2),),
    jaxpool.pooling_cost: ((2, 2),),
    jaxpool.adaptive_output_shape: ((2, 2),),
    jaxpool.global_output_shape: (),
    jaxpool.pyramid_output_shape: (),
}


@pytest.mark.parametrize("function", SHAPES, ids=names(list(SHAPES)))
def test_what_is_no_shape(function: Callable):
    refuses(TypeError, function, 28, *SHAPES[function], says=["x_shape=28"])
    refuses(ValueError, function, (2, -8, 8, 3), *SHAPES[function], says=["-8"])


# Masks

BAD_MASKS: dict[str, tuple[type[Exception], Any, list[str]]] = {
    "another length": (ValueError, np.ones((2, 8, 7, 3), bool), [r"\(2, 8, 7, 3\)"]),
    "the channels first": (ValueError, np.ones((2, 1, 8, 8), bool), [r"\(2, 1, 8, 8\)"]),
    "the batch alone": (ValueError, np.ones((2,), bool), [r"\(2,\)"]),
    "more axes than x": (ValueError, np.ones((1, 2, 8, 8, 3), bool), [r"\(1, 2, 8, 8, 3\)"]),
    "floats": (TypeError, np.ones((2, 8, 8, 3)), [r"float64|float32"]),
    "ints": (TypeError, np.ones((2, 8, 8, 3), np.int32), [r"int32"]),
    "a list of ints": (TypeError, [1, 0, 1], [r"int"]),
}


@pytest.mark.parametrize("bad", BAD_MASKS)
@pytest.mark.parametrize("function", ALL, ids=names(ALL))
def test_bad_masks(function: Callable, bad: str):
    error, where, says = BAD_MASKS[bad]
    args = (X, *arguments(function))
    if error is ValueError:
        says = [*says, r"\(2, 8, 8, 3\)"]
    refuses(error, function, *args, where=where, says=["where", *says])


def test_a_mask_may_not_widen_x():
    x = jnp.zeros((1, 8, 8, 3))
    mask = np.ones((2, 8, 8, 1), bool)
    refuses(ValueError, jaxpool.max_pool, x, (2, 2), where=mask, says=[r"\(2, 8, 8, 1\)"])


# Temperatures

BAD_TEMPERATURES: dict[str, tuple[type[Exception], Any, list[str]]] = {
    "zero": (ValueError, 0, [r"temperature=0"]),
    "zero as a float": (ValueError, 0.0, [r"temperature=0"]),
    "negative": (ValueError, -1.5, [r"temperature=-1\.5"]),
    "not a number": (ValueError, float("nan"), [r"temperature=nan"]),
    "too hot for float32": (ValueError, 1e38, [r"temperature=1e\+38", "1e37"]),
    "too cold for float32": (ValueError, 1e-38, [r"temperature=1e-38", "1e-37"]),
    "a NumPy zero": (ValueError, np.float32(0), [r"temperature"]),
    "negative for one channel": (ValueError, jnp.asarray([1.0, -1.0, 2.0]), [r"-1"]),
    "two for three channels": (ValueError, np.ones(2, np.float32), [r"\(2,\)", r"\(2, 8, 8, 3\)"]),
    "more axes than x": (
        ValueError,
        np.ones((1, 1, 1, 1, 3), np.float32),
        [r"\(1, 1, 1, 1, 3\)", r"\(2, 8, 8, 3\)"],
    ),
    "not the same within a window": (
        ValueError,
        np.ones((8, 1, 1), np.float32),
        [r"\(8, 1, 1\)", r"\(2, 8, 8, 3\)"],
    ),
    "complex": (TypeError, 1j, [r"complex|1j"]),
    "text": (TypeError, "1", [r"temperature='1'", "Write a number above 0"]),
    "none": (TypeError, None, [r"temperature=None", "Write a number above 0"]),
}


@pytest.mark.parametrize("bad", BAD_TEMPERATURES)
@pytest.mark.parametrize("function", SOFT, ids=names(SOFT))
def test_bad_temperatures(function: Callable, bad: str):
    error, temperature, says = BAD_TEMPERATURES[bad]
    args = (X, *arguments(function))
    refuses(error, function, *args, temperature=temperature, says=["temperature", *says])


@pytest.mark.parametrize("function", SOFT, ids=names(SOFT))
def test_the_sign_of_a_traced_temperature_is_not_checked(function: Callable):
    args = arguments(function)
    assert jax.jit(lambda t: function(X, *args, temperature=t))(1.0).shape[0] == 2
    with pytest.raises(ValueError, match=rf"^{function.__name__}: .*temperature"):
        jax.jit(lambda t: function(X, *args, temperature=t))(jnp.ones(2))


# Shares

BAD_ALPHAS: dict[str, tuple[type[Exception], Any, list[str]]] = {
    "above 1": (ValueError, 1.5, [r"alpha=1\.5", "between 0 and 1"]),
    "negative for one channel": (ValueError, np.array([0.5, -0.5, 1]), [r"-0\.5"]),
    "not a number": (ValueError, float("nan"), ["alpha=nan"]),
    "two for three channels": (ValueError, np.ones(2, np.float32), [r"\(2,\)", r"\(2, 8, 8, 3\)"]),
    "one per row": (ValueError, np.ones((8, 1, 1), np.float32), [r"\(8, 1, 1\)"]),
    "a word": (TypeError, "random", ["alpha='random'", "a number from 0 to 1"]),
    "none": (TypeError, None, ["alpha=None", "a number from 0 to 1"]),
}


@pytest.mark.parametrize("bad", BAD_ALPHAS)
def test_bad_alphas(bad: str):
    error, alpha, says = BAD_ALPHAS[bad]
    refuses(error, jaxpool.mixed_pool, X, (2, 2), alpha=alpha, says=["alpha", *says])


@pytest.mark.parametrize(
    ("error", "key", "says"),
    [
        (TypeError, None, ["key=None", "jax.random.key"]),
        (TypeError, 0, ["key=0", "jax.random.key"]),
        (ValueError, jax.random.split(jax.random.key(0)), [r"\(2,\)", "vmap"]),
    ],
)
def test_bad_keys(error: type[Exception], key, says: list[str]):
    refuses(error, jaxpool.stochastic_pool, key, X, (2, 2), says=says)
    assert jaxpool.stochastic_pool(key, X, (2, 2), deterministic=True).shape == (2, 4, 4, 3)


# Powers

BAD_POWERS: dict[str, tuple[type[Exception], Any, list[str]]] = {
    "below 1": (ValueError, 0.5, [r"p=0\.5", "at least 1"]),
    "not a number": (ValueError, float("nan"), ["p=nan"]),
    "below 1 for one channel": (ValueError, jnp.asarray([1.0, 0.5, 2.0]), [r"0\.5"]),
    "two for three channels": (ValueError, np.ones(2, np.float32), [r"\(2,\)", r"\(2, 8, 8, 3\)"]),
    "complex": (TypeError, 1j, [r"complex|1j"]),
    "text": (TypeError, "2", ["p='2'"]),
    "none": (TypeError, None, ["p=None"]),
}


@pytest.mark.parametrize("bad", BAD_POWERS)
@pytest.mark.parametrize("function", POWERS, ids=names(POWERS))
def test_bad_powers(function: Callable, bad: str):
    error, p, says = BAD_POWERS[bad]
    refuses(error, function, X, *arguments(function), p=p, says=[r"\bp\b", *says])


@pytest.mark.parametrize(
    ("error", "eps"),
    [(ValueError, -1e-6), (ValueError, float("nan")), (TypeError, "0"), (TypeError, None)],
)
@pytest.mark.parametrize("function", [jaxpool.gem_pool, jaxpool.global_gem_pool])
def test_bad_least_elements(function: Callable, error: type[Exception], eps):
    refuses(error, function, X, *arguments(function), eps=eps, says=[f"eps={eps!r}"])


# Types of x


SMOOTH = [*SOFT, *POWERS, stochastic_pool]


@pytest.mark.parametrize("function", SMOOTH, ids=names(SMOOTH))
@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_smooth_poolings_refuse_integers(function: Callable, dtype: str):
    args = arguments(function)
    refuses(TypeError, function, jnp.zeros(IMAGE, dtype), *args, says=[dtype, r"float|astype"])


@pytest.mark.parametrize(
    "function",
    [f for f in ALL if "sum" not in f.__name__ and "avg" not in f.__name__],
    ids=lambda function: function.__name__,
)
def test_an_order_needs_real_numbers(function: Callable):
    args = arguments(function)
    refuses(TypeError, function, jnp.zeros(IMAGE, jnp.complex64), *args, says=["complex64"])


@pytest.mark.parametrize("function", ALL, ids=names(ALL))
@pytest.mark.parametrize(
    "x",
    [None, "image", object(), jax.random.split(jax.random.key(0), IMAGE)],
    ids=["none", "text", "object", "keys"],
)
def test_what_is_no_array(function: Callable, x):
    args = arguments(function)
    refuses(TypeError, function, x, *args, says=[r"\bx\b"])


@pytest.mark.parametrize("function", ALL, ids=names(ALL))
def test_whole_numbers_that_do_not_fit(function: Callable):
    args = arguments(function)
    says = [r"\bx\b", "whole number", "floats"]
    refuses(ValueError, function, np.full(IMAGE, 2**40).tolist(), *args, says=says)


def test_a_whole_number_that_fits_nowhere():
    says = ["temperature=1000", r"\.\.\."]
    refuses(ValueError, jaxpool.lse_pool, X, (2, 2), temperature=10**400, says=says)


@pytest.mark.parametrize("data", [[object()] * 6, ["a"] * 6])
def test_arrays_of_no_numbers_say_of_what(data):
    x = np.array(data)
    refuses(TypeError, jaxpool.max_pool, x, 2, axis=0, says=[f"dtype {re.escape(str(x.dtype))}"])


def test_keys_of_another_length():
    key = np.zeros(3, np.uint32)
    says = ["key=.* is not one random key"]
    refuses(TypeError, jaxpool.stochastic_pool, key, X, (2, 2), says=says)


@pytest.mark.parametrize(
    ("error", "function", "args", "option"),
    [
        (TypeError, jaxpool.gem_pool, ((2, 2),), "eps"),
        (ValueError, jaxpool.polyphase_pool, (), "order"),
    ],
)
def test_numbers_that_are_traced(error: type[Exception], function: Callable, args, option: str):
    @functools.wraps(function)
    def run(x):
        return jax.jit(lambda x, n: function(x, *args, **{option: n}))(x, 1.0)

    refuses(error, run, X, says=[f"{option}=", "known before tracing"])


# Averages


@pytest.mark.parametrize(
    ("error", "divisor"),
    [(ValueError, 0), (TypeError, True), (TypeError, "3"), (ValueError, 1e-50), (ValueError, 1e50)],
)
def test_bad_divisors(error: type[Exception], divisor):
    says = [rf"divisor_override={re.escape(repr(divisor))}"]
    refuses(error, jaxpool.avg_pool, X, (2, 2), divisor_override=divisor, says=says)


# What is accepted instead


@pytest.mark.parametrize("function", WINDOWED, ids=names(WINDOWED))
def test_lists_and_numpy_are_accepted(function: Callable):
    expected = function(X, (2, 3), (1, 2), ((0, 1), (1, 0)), window_dilation=(2, 1), axis=(1, 2))
    for sequence in (list, np.array, lambda entries: np.array(entries, np.uint8)):
        actual = function(
            X,
            sequence([2, 3]),
            sequence([1, 2]),
            sequence([[0, 1], [1, 0]]),
            window_dilation=sequence([2, 1]),
            axis=sequence([1, 2]),
        )
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("function", WINDOWED, ids=names(WINDOWED))
def test_numpy_integers_are_accepted(function: Callable):
    expected = function(X, 2, 1, 1, window_dilation=2, axis=1)
    for number in (np.int64, np.int8, np.uint16, np.array):
        two, one = number(2), number(1)
        actual = function(X, two, one, one, window_dilation=two, axis=one)
        np.testing.assert_array_equal(actual, expected)
    expected = function(X, (2, 1))
    np.testing.assert_array_equal(function(X, (np.int64(2), 1)), expected)


@pytest.mark.parametrize("function", WINDOWED, ids=names(WINDOWED))
def test_one_number_serves_every_named_axis(function: Callable):
    expected = function(X, (2, 2), (1, 1), (1, 1), window_dilation=(2, 2))
    actual = function(X, 2, 1, 1, window_dilation=2, axis=(1, 2))
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("function", WINDOWED + GLOBAL, ids=names(WINDOWED + GLOBAL))
def test_lists_and_numpy_arrays_are_accepted_as_x(function: Callable):
    args = arguments(function)
    x = X[:, :2, :2]
    expected = function(x, *args)
    assert isinstance(expected, jax.Array)
    for same in (np.asarray(x), x.tolist()):
        actual = function(same, *args)
        assert isinstance(actual, jax.Array)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
    where = np.arange(3) != 1
    expected = function(x, *args, where=where)
    np.testing.assert_array_equal(function(x, *args, where=where.tolist()), expected)


def fractional_max_pool(x, output_shape):
    return jaxpool.fractional_max_pool(jax.random.key(0), x, (2, 2), output_shape=output_shape)


SAMPLED = [jaxpool.blur_pool, jaxpool.polyphase_pool]
SPLIT = [*ALL, *SAMPLED, jaxpool.max_blur_pool, fractional_max_pool]


@pytest.mark.parametrize("function", SPLIT, ids=names(SPLIT))
def test_axes_that_are_split_over_devices_are_not_pooled_unasked(function: Callable):
    args = () if function in GLOBAL + SAMPLED else ((3, 3),)  # windows, or bins
    mesh = AbstractMesh((4,), ("devices",), axis_types=(AxisType.Explicit,))
    split = NamedSharding(mesh, PartitionSpec(None, "devices"))
    x = jax.ShapeDtypeStruct((2, 8, 6, 3), jnp.float32, sharding=split)

    @functools.wraps(function)
    def run(x):
        return jax.eval_shape(lambda x: function(x, *args), x)

    refuses(ValueError, run, x, says=["axis 1 of x", "8@devices", "4 devices", "out_sharding"])


def test_blurs_and_unpooling_need_elements_of_several_devices():
    mesh = AbstractMesh((4,), ("devices",), axis_types=(AxisType.Explicit,))
    split = NamedSharding(mesh, PartitionSpec(None, "devices"))
    x = jax.ShapeDtypeStruct((2, 8, 6, 3), jnp.float32, sharding=split)

    @functools.wraps(jaxpool.max_blur_pool)
    def blur(x):
        return jax.eval_shape(lambda x: jaxpool.max_blur_pool(x, (1, 1)), x)

    @functools.wraps(jaxpool.max_unpool)
    def unpool(x):
        return jax.eval_shape(lambda x: jaxpool.max_unpool(x, x.astype(int), (16, 12)), x)

    @functools.wraps(jaxpool.polyphase_unpool)
    def unphase(x):
        phase = jnp.zeros(2, jnp.int32)
        return jax.eval_shape(
            lambda x: jaxpool.polyphase_unpool(x, phase, output_shape=(15, 12)), x
        )

    for run in (blur, unpool, unphase):
        refuses(ValueError, run, x, says=["axis 1 of x", "4 devices", "out_sharding"])

    @functools.wraps(jaxpool.max_unpool)
    def located(indices):
        whole = jnp.zeros(indices.shape)
        return jax.eval_shape(lambda i: jaxpool.max_unpool(whole, i, (16, 12)), indices)

    indices = jax.ShapeDtypeStruct(x.shape, jnp.int32, sharding=split)
    refuses(ValueError, located, indices, says=["axis 1 of indices", "4 devices"])


def test_channels_that_are_split_over_devices_are_not_put_into_one_vector():
    mesh = AbstractMesh((3,), ("devices",), axis_types=(AxisType.Explicit,))
    split = NamedSharding(mesh, PartitionSpec(None, None, None, "devices"))

    @functools.wraps(jaxpool.spatial_pyramid_pool)
    def run(x):
        return jax.eval_shape(jaxpool.spatial_pyramid_pool, x)

    x = jax.ShapeDtypeStruct(IMAGE, jnp.float32, sharding=split)
    refuses(ValueError, run, x, says=["axis 3 of x", "3 devices"])


def test_output_shape_accepts_what_the_functions_do():
    expected = (2, 4, 4, 3)
    assert jaxpool.output_shape(list(IMAGE), [2, 2], [2, 2], "valid") == expected
    assert jaxpool.output_shape(np.array(IMAGE), np.array([2, 2])) == expected
    assert jaxpool.output_shape(IMAGE, np.int64(2), axis=[1, 2]) == expected
    assert all(type(size) is int for size in jaxpool.output_shape(np.array(IMAGE), (2, 2)))
