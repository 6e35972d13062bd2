"""From the arguments of a pooling call to its windows, or to the one clear sentence that says what
to write instead: integers only, nothing here is ever traced.

What padding, ceil mode, dilation, bins and axes mean is decided here and nowhere else.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from math import prod
from typing import Any, NoReturn

from jaxpool._window import Bins, Bordered, Fraction, Window

Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]
PerAxis = int | Sequence[int]
Axes = int | Sequence[int]
Ratio = float | Sequence[float]

# Flax's convolution words for padding by the map itself, and what numpy.pad calls the same thing.
BORDERS = {"CIRCULAR": "wrap", "REFLECT": "reflect", "EDGE": "edge"}
WORDS = ("VALID", "SAME", "SAME_LOWER", *BORDERS)
BLUR_WORDS = (*WORDS, "NORMALIZED")
WIDEST_BLUR = 7


def windows(
    name: str,
    shape: Sequence[Any],
    window_shape: Any,
    strides: Any = None,
    padding: Any = "VALID",
    window_dilation: Any = 1,
    ceil_mode: bool = False,
    axis: Any = None,
) -> tuple[tuple[Window, ...], str | None]:
    """One `Window` per pooled axis, in array order, and numpy.pad's word for a filled border."""
    shape = tuple(shape)
    size, axes = _size_and_axes(name, shape, window_shape, axis)
    n = len(axes)
    size = [integer(name, "window_shape", window_shape, k, least=1) for k in size]
    stride = size if strides is None else _each(name, "strides", strides, n, least=1)
    dilation = _each(name, "window_dilation", window_dilation, n, least=1)
    word, pads = _padding(name, padding, n)
    rounded_up = flag(name, "ceil_mode", ceil_mode)
    found = []
    for a, k, s, d, pad in zip(axes, size, stride, dilation, pads, strict=True):
        length = _some(name, shape, a)
        extent = d * (k - 1) + 1
        if word is not None and word != "VALID":
            pad = _same(length, extent, s, lower=word == "SAME_LOWER")
        low, high = pad
        spare = length + low + high - extent
        out = spare // s + 1
        if rounded_up and word in (None, "VALID"):
            out = -(-spare // s) + 1
            out -= (out - 1) * s >= length + low
        if out < 1:
            fail(
                name,
                f"window_shape={show(window_shape)} with window_dilation={show(window_dilation)}"
                f" spans {extent}"
                f" elements, more than the {length + low + high} that axis {a} of shape {shape} has"
                f" with padding={show(padding)}",
                'a smaller window, or more padding such as padding="SAME"',
            )
        found.append(Window(a - len(shape), length, k, s, d, low, high, out))
    border = BORDERS.get(word or "")
    return tuple(sorted(found, key=lambda window: window.axis)), border


def blurs(
    name: str,
    shape: Sequence[Any],
    strides: Any,
    filter_size: Any,
    padding: Any,
    axes: Sequence[int],
) -> tuple[tuple[Window, ...], str | None]:
    """One window per axis, in array order, and the padding's word: windows of stride 1, of which
    every s-th is kept."""
    shape, n = tuple(shape), len(axes)
    stride = _each(name, "strides", strides, n, least=1)
    size = _each(name, "filter_size", filter_size, n, least=1)
    if max(size) > WIDEST_BLUR:
        fail(
            name,
            f"filter_size={show(filter_size)} holds {max(size)}, more than {WIDEST_BLUR}",
            f"at most {WIDEST_BLUR}, or blur with strides=1 before:"
            " filters of a and of b are one of a + b - 1",
        )
    word, pads = _padding(name, padding, n, BLUR_WORDS)
    found = []
    for a, k, s, (low, high) in zip(axes, size, stride, pads, strict=True):
        length = _some(name, shape, a)
        if word is not None and word != "VALID":
            low, high = _same(length, k, 1, lower=word == "SAME_LOWER")
        if k > length + low + high:
            fail(
                name,
                f"filter_size={show(filter_size)} spans {k} elements, more than the"
                f" {length + low + high} that axis {a} of a map of shape {shape} has with"
                f" padding={show(padding)}",
                'a smaller filter, or more padding such as padding="REFLECT"',
            )
        out = (length + low + high - k) // s + 1
        window = (a - len(shape), length, k, s, 1, low, high, out)
        border = BORDERS.get(word or "")
        found.append(Window(*window) if border is None else Bordered(*window, border))
    return tuple(sorted(found, key=lambda window: window.axis)), word


def whole(name: str, shape: Sequence[Any], axis: Any) -> tuple[Window, ...]:
    """One window over the whole of each axis: all but the first and the last where axis is None."""
    shape = tuple(shape)
    if axis is None:
        axes = tuple(range(1, len(shape) - 1))
        if not axes:
            fail(
                name,
                f"x of shape {shape} has no axes to pool between the first (batch)"
                " and the last (channels)",
                f"the axes to pool, for example axis={max(len(shape) - 1, 0)}",
                TypeError if not shape else ValueError,
            )
    else:
        axes = _axes(name, shape, axis)
    found = []
    for a in sorted(axes):
        length = _length(name, shape, a)
        size = max(length, 1)  # an empty axis is one window that sees padding alone
        found.append(Window(a - len(shape), length, size, size, 1, 0, 0, 1))
    return tuple(found)


def phases(
    name: str, shape: Sequence[Any], strides: Any, axis: Any, strict: bool = False
) -> tuple[Window, ...]:
    """One window per pooled axis, in array order, as long as its stride: its tap p is phase p. The
    last one may reach beyond the map, unless `strict`."""
    strict, found = flag(name, "strict", strict), []
    for a, s, length in _sampled(name, tuple(shape), strides, axis):
        out = -(-length // s)
        if strict and length % s:
            fail(
                name,
                f"strides={show(strides)} do not divide the {length} elements of axis {a} of x of"
                f" shape {shape}, as strict=True demands",
                f"a map of {out * s} elements there, or strict=False",
            )
        found.append(Window(a - len(shape), length, s, s, 1, 0, out * s - length, out))
    return tuple(sorted(found, key=lambda window: window.axis))


def unphased(
    name: str, shape: Sequence[Any], strides: Any, output_shape: Any, axis: Any
) -> tuple[Window, ...]:
    """The windows of `phases` over a map of which x, of this shape, is one phase."""
    sampled = _sampled(name, tuple(shape), strides, axis)
    if output_shape is None:
        lengths = [out * s for _, s, out in sampled]
    else:
        lengths = _each(name, "output_shape", output_shape, len(sampled), least=1)
    found = []
    for (a, s, out), length in zip(sampled, lengths, strict=True):
        if -(-length // s) != out:
            fail(
                name,
                f"output_shape={show(output_shape)} with strides={show(strides)} has phases of"
                f" {_many(-(-length // s), 'element')}, but axis {a} of x of shape {shape} has"
                f" {out}",
                f"a size from {(out - 1) * s + 1} to {out * s} there",
            )
        found.append(Window(a - len(shape), length, s, s, 1, 0, 0, out))
    return tuple(sorted(found, key=lambda window: window.axis))


def _sampled(name: str, shape: tuple, strides: Any, axis: Any) -> list[tuple[int, int, int]]:
    """Each axis to subsample, in the order of the arguments, its stride and its length."""
    axes = sampled_axes(name, shape, strides, axis)
    stride = _each(name, "strides", strides, len(axes), least=1)
    lengths = [_some(name, shape, a) for a in axes]
    return list(zip(axes, stride, lengths, strict=True))


def adaptive(
    name: str, shape: Sequence[Any], output_shape: Any, axis: Any, keep: bool = False
) -> tuple[Window | Bins, ...]:
    """Bin i of o over L elements, [floor(i*L/o), ceil((i+1)*L/o)), for each axis in array order.

    Where o divides L, that is a window. None leaves an axis out; with `keep`, or where there is no
    other axis, it is windows of one element.
    """
    shape = tuple(shape)
    sizes, axes = _size_and_axes(name, shape, output_shape, axis, "output_shape")
    keep = keep or all(o is None for o in sizes)
    found: list[Window | Bins] = []
    for a, o in zip(axes, sizes, strict=True):
        if o is None and not keep:
            continue
        length = _length(name, shape, a) if o is not None else _some(name, shape, a)
        out = length if o is None else integer(name, "output_shape", output_shape, o, least=1)
        if not length:
            fail(
                name,
                f"axis {a} of x of shape {shape} has no elements to put into"
                f" output_shape={show(output_shape)}",
                "None for that axis",
            )
        if length % out == 0:
            size = length // out
            found.append(Window(a - len(shape), length, size, size, 1, 0, 0, out))
        else:
            starts = tuple(i * length // out for i in range(out))
            stops = tuple(-(-(i + 1) * length // out) for i in range(out))
            found.append(Bins(a - len(shape), length, starts, stops))
    return tuple(sorted(found, key=lambda bins: bins.axis))


def fractional(
    name: str,
    shape: Sequence[Any],
    window_shape: Any,
    output_shape: Any,
    output_ratio: Any,
    axis: Any,
) -> tuple[Fraction, ...]:
    """One `Fraction` per pooled axis, in the order of the arguments."""
    shape = tuple(shape)
    size, axes = _size_and_axes(name, shape, window_shape, axis)
    if (output_shape is None) == (output_ratio is None):
        what = "neither is" if output_shape is None else "both are"
        fail(
            name,
            f"the output size is given by output_shape or by output_ratio, and {what} here",
            "output_shape=(7, 7), or output_ratio=0.7",
        )
    lengths = [_length(name, shape, a) for a in axes]
    if output_ratio is None:
        outs = _each(name, "output_shape", output_shape, len(axes), least=1)
    else:
        outs = _ratios(name, output_ratio, lengths)
    found = []
    for a, length, k, out in zip(axes, lengths, size, outs, strict=True):
        k = integer(name, "window_shape", window_shape, k, least=1)
        if out + k - 1 > length:
            fail(
                name,
                f"{out} windows of {k} elements with a step of at least 1 span {out + k - 1}, more"
                f" than the {length} of axis {a} of x of shape {shape}",
                "a smaller output or a smaller window",
            )
        found.append(Fraction(a - len(shape), length, k, out))
    return tuple(found)


def _ratios(name: str, ratio: Any, lengths: Sequence[int]) -> list[int]:
    entries = [ratio] * len(lengths) if scalar(ratio) else list(ratio)
    if len(entries) != len(lengths):
        fail(
            name,
            f"output_ratio={show(ratio)} has {_entries(len(entries))}, but"
            f" {_many(len(lengths), 'axis', 'axes')} are pooled",
            f"one number, or {_entries(len(lengths))}",
        )
    outs = []
    for length, entry in zip(lengths, entries, strict=True):
        try:
            if isinstance(entry, bool | str):
                raise TypeError
            number = float(entry)
        except Exception as error:
            raise TypeError(
                f"{name}: output_ratio={show(ratio)} is not a number known before tracing."
                " Write a number between 0 and 1, such as 0.7."
            ) from error
        if not 0 < number < 1:
            fail(
                name,
                f"output_ratio={show(ratio)} is not between 0 and 1",
                "a number between 0 and 1, such as 0.7",
            )
        outs.append(max(int(length * number), 1))
    return outs


Levels = Sequence[int | Sequence[int]]


def pyramid(
    name: str, shape: Sequence[Any], levels: Any, axis: Any
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The pooled axes in array order, and for each level the bins along them."""
    if axis is None:
        axes = tuple(window.axis + len(shape) for window in whole(name, shape, axis))
    else:
        axes = _axes(name, tuple(shape), axis)
    for a in axes:
        _some(name, tuple(shape), a)
    given = [] if scalar(levels) else list(levels)
    if not given:
        fail(name, f"levels={show(levels)} is no list of levels", "levels=(1, 2, 4)")
    order = sorted(range(len(axes)), key=lambda i: axes[i])
    bins = [_each(name, "levels", level, len(axes), least=1) for level in given]
    return tuple(axes[i] for i in order), [tuple(level[i] for i in order) for level in bins]


def unpooled(name: str, shape: Sequence[Any], output_shape: Any, axis: Any) -> dict[int, int]:
    """{axis: its size before pooling}, from the sizes of these axes or from the whole shape."""
    shape = tuple(shape)
    sizes = output_shape
    if axis is not None and not scalar(output_shape):
        axes, whole = _axes(name, shape, axis), list(output_shape)
        if len(whole) == len(shape) != len(axes):
            other = [a for a in range(len(shape)) if a not in axes and whole[a] != shape[a]]
            if other:
                fail(
                    name,
                    f"output_shape={show(output_shape)} differs from x of shape {shape} along axis"
                    f" {other[0]}, which axis={show(axis)} does not name",
                    "the sizes of the pooled axes alone",
                )
            sizes = [whole[a] for a in axes]
    elif axis is None and not scalar(output_shape) and len(list(output_shape)) == len(shape) > 1:
        axes = tuple(a for a, n in enumerate(output_shape) if n != shape[a]) or _inner(len(shape))
        remedy = f"axis={axes} beside it"
        if axes == tuple(range(len(shape) - 1 - len(axes), len(shape) - 1)):  # what no axis means
            remedy = f"output_shape={tuple(output_shape[a] for a in axes)}, or {remedy}"
        fail(
            name,
            f"output_shape={show(output_shape)} is the whole shape, which does not say what axes of"
            f" x of shape {shape} were pooled",
            remedy,
        )
    sizes, axes = _size_and_axes(name, shape, sizes, axis, "output_shape")
    found = [integer(name, "output_shape", output_shape, n, least=1) for n in sizes]
    return dict(zip(axes, found, strict=True))


def _size_and_axes(
    name: str, shape: tuple, window_shape: Any, axis: Any, argument: str = "window_shape"
) -> tuple[Sequence[Any], tuple[int, ...]]:
    one = scalar(window_shape)
    if axis is not None:
        axes = _axes(name, shape, axis)
        size = [window_shape] * len(axes) if one else list(window_shape)
        if len(size) != len(axes):
            fail(
                name,
                f"{argument}={show(window_shape)} has {_entries(len(size))},"
                f" but axis={show(axis)} names {len(axes)}",
                "one entry per axis, or one int for all of them",
            )
        return size, axes
    ndim = len(shape)
    if one:
        if window_shape is None:
            remedy = "whole numbers, one for each axis to pool"
            fail(name, f"{argument}=None gives no size", remedy, TypeError)
        size = integer(name, argument, window_shape, window_shape, least=1)
        inner = _inner(ndim)
        what = "be about" if argument == "output_shape" else "slide over"
        several = f"has several axes it could {what}" if ndim > 2 else "does not name its axis"
        what = {1: "sequences", 2: "images", 3: "volumes"}.get(len(inner), "this shape")
        fail(
            name,
            f"{argument}={show(window_shape)} is one number, but x of shape {shape} {several}",
            f"{argument}={(size,) * len(inner)} for {what},"
            f" or name the axes: axis={inner if len(inner) > 1 else inner[0]}",
        )
    size = list(window_shape)
    if not size:
        fail(name, f"{argument}={show(window_shape)} is empty", "one entry per axis to pool")
    if len(size) > ndim - 1:
        fail(
            name,
            f"{argument}={show(window_shape)} has {_entries(len(size))},"
            f" but x of shape {shape} has {_many(max(ndim - 1, 0), 'axis', 'axes')} before its"
            " last",
            _fewer(ndim, len(size)),
        )
    return size, tuple(range(ndim - 1 - len(size), ndim - 1))


def _inner(ndim: int) -> tuple[int, ...]:
    """The axes that a map has in most cases: all between examples and channels."""
    return tuple(range(1, ndim - 1)) or (0,)


def _fewer(ndim: int, entries: int) -> str:
    """What to write instead of more entries than there are axes before the last."""
    if not ndim:
        return "an x that has axes"
    return "fewer entries" if entries > ndim else f"axis={tuple(range(entries))}, or others"


def sampled_axes(name: str, shape: Sequence[Any], strides: Any, axis: Any) -> tuple[int, ...]:
    """The axes that strides are about: without `axis`, one int is about all but the first and the
    last, and several are about those before the last."""
    if axis is None and scalar(strides):
        return tuple(window.axis + len(shape) for window in whole(name, shape, None))
    return window_axes(name, shape, strides, axis, "strides")


def window_axes(
    name: str, shape: Sequence[Any], window_shape: Any, axis: Any, argument: str = "window_shape"
) -> tuple[int, ...]:
    """The axes that an argument with one entry per axis is about, in its order."""
    return _size_and_axes(name, tuple(shape), window_shape, axis, argument)[1]


def _axes(name: str, shape: tuple, axis: Any) -> tuple[int, ...]:
    ndim = len(shape)
    found = []
    for entry in [axis] if scalar(axis) else list(axis):
        a = integer(name, "axis", axis, entry)
        if not -ndim <= a < ndim:
            fail(
                name,
                f"axis={show(axis)} is out of range for x of shape {shape}",
                f"axes from {-ndim} to {ndim - 1}" if ndim else "an x that has axes",
            )
        found.append(a % ndim)
    if len(set(found)) < len(found) or not found:
        what = "names an axis twice" if found else "names no axis"
        fail(name, f"axis={show(axis)} {what} of x of shape {shape}", "each axis to pool, once")
    return tuple(found)


def _each(name: str, argument: str, value: Any, n: int, least: int) -> list[int]:
    entries = [value] * n if scalar(value) else list(value)
    if len(entries) != n:
        fail(
            name,
            f"{argument}={show(value)} has {_entries(len(entries))},"
            f" but the window slides over {_many(n, 'axis', 'axes')}",
            f"one int, or {_entries(n)}",
        )
    return [integer(name, argument, value, entry, least=least) for entry in entries]


def _padding(
    name: str, padding: Any, n: int, words: Sequence[str] = WORDS
) -> tuple[str | None, list[tuple[int, int]]]:
    if isinstance(padding, str):
        word = padding.upper()
        if word not in words:
            fail(
                name,
                f"padding={padding!r} is not a padding this function knows",
                f"one of {', '.join(map(repr, words))}, an int, or (low, high) per axis",
            )
        return word, [(0, 0)] * n
    entries = [padding] * n if scalar(padding) else list(padding)
    if len(entries) != n:
        fail(
            name,
            f"padding={show(padding)} has {_entries(len(entries))},"
            f" but the window slides over {_many(n, 'axis', 'axes')}",
            f"one int, or one int or (low, high) pair per axis, such as {((1, 1),) * n}",
        )
    pads = []
    for entry in entries:
        pair = [entry, entry] if scalar(entry) else list(entry)
        if len(pair) != 2:
            fail(
                name,
                f"padding={show(padding)} has an entry of {len(pair)} numbers",
                f"(low, high) for each axis, such as {((1, 1),) * n}",
            )
        low, high = (integer(name, "padding", padding, p, least=0) for p in pair)
        pads.append((low, high))
    return None, pads


def _same(length: int, extent: int, stride: int, lower: bool) -> tuple[int, int]:
    """TensorFlow's SAME: ceil(L / s) outputs, the odd element high, or low for SAME_LOWER."""
    total = max((-(-length // stride) - 1) * stride + extent - length, 0)
    low = (total + lower) // 2
    return low, total - low


def _length(name: str, shape: tuple, axis: int) -> int:
    try:
        return operator.index(shape[axis])
    except Exception as error:
        raise ValueError(
            f"{name}: axis {axis} of x of shape {shape} has no fixed size, so its windows cannot be"
            " laid out. Give pooled axes a fixed size; batch and channel axes may stay symbolic."
        ) from error


def _some(name: str, shape: tuple, axis: int) -> int:
    """The length of an axis that has elements."""
    if not (length := _length(name, shape, axis)):
        fail(name, f"axis {axis} of x of shape {shape} has no elements", "a larger map")
    return length


# ---- messages ----

LONGEST, FEW = 120, 12  # characters of a value, elements of an array
# Where a word for padding may stand that is meant for `padding`.
BEFORE_PADDING = ("window_shape", "strides", "window_dilation", "filter_size", "padding")


def fail(name: str, problem: str, remedy: str, kind: type[Exception] = ValueError) -> NoReturn:
    """Function, rule, the values as the user wrote them, the way out."""
    raise kind(f"{name}: {problem}. Write {remedy}.")


def show(value: Any) -> str:
    """A value as its user wrote it, less NumPy's dressing and what makes it long."""
    array = hasattr(value, "tolist") and hasattr(value, "shape") and not traced(value)
    if array and prod(value.shape) > FEW:
        return f"<array of shape {value.shape}, {value.dtype}>"
    text = repr(value.tolist() if array else value).replace("\n", " ")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def traced(value: Any) -> bool:
    """Whether JAX stands in for it (this file knows no JAX)."""
    return "Tracer" in type(value).__name__


def symbolic(value: Any) -> bool:
    """Whether it is a size that JAX leaves open, as in `jax.export.symbolic_shape`."""
    return "DimExpr" in type(value).__name__


def integer(name: str, argument: str, written: Any, entry: Any, least: int | None = None) -> int:
    """`entry` as a Python int, or the sentence that says why it is none."""
    try:
        if isinstance(entry, bool) or str(getattr(entry, "dtype", "")) == "bool":
            raise TypeError
        number = operator.index(entry)
    except TypeError:
        what = "a traced value" if traced(entry) else f"of type {type(entry).__name__}"
        remedy = "Python ints, known before tracing" if traced(entry) else "whole numbers"
        if isinstance(entry, str) and entry.upper() in WORDS and argument in BEFORE_PADDING:
            remedy = f"padding={entry.upper()!r}, one word for all axes"
        elif argument == "padding" and not traced(entry):
            remedy += f", or one word for all axes, such as {WORDS[0]!r}"
        fail(name, f"{argument}={show(written)} holds {show(entry)}, {what}", remedy, TypeError)
    if least is not None and number < least:
        fail(
            name, f"{argument}={show(written)} holds {number}", f"whole numbers of at least {least}"
        )
    if number >= 2**31:
        fail(name, f"{argument}={show(written)} holds {number}", "whole numbers below 2**31")
    return number


def flag(name: str, argument: str, value: Any) -> bool:
    """`value` as True or False, or the sentence that says why it is neither."""
    with suppress(Exception):
        number = value.item() if getattr(value, "ndim", None) == 0 else value
        if isinstance(number, int) and number in (0, 1):
            return bool(number)
    what = "a traced value" if traced(value) else f"of type {type(value).__name__}"
    remedy = "True or False" + (", known before tracing" if traced(value) else "")
    fail(name, f"{argument}={show(value)} is {what}", remedy, TypeError)


def _many(n: int, one: str, more: str = "") -> str:
    return f"{n} {one if n == 1 else more or one + 's'}"


def _entries(n: int) -> str:
    return _many(n, "entry", "entries")


def scalar(value: Any) -> bool:
    """One number (or no sequence at all, to be told so later: sets have no order), not one entry
    per axis."""
    if isinstance(value, str | bytes | Set | Mapping):
        return True
    return getattr(value, "ndim", None) == 0 or not isinstance(value, Iterable)
