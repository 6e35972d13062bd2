"""Every pooling as Python loops in float64, straight from its definition: the oracle of the tests.

A pooling is a geometry (`windows`: what each output position sees along one axis) times a reduction
(one window, as a list of numbers, becomes one number). `pool` and `global_pool` do nothing but join
the two, so nothing here is fast.

A reduction is called as `reduction(values, padded, **options)` and returns `(value, slopes)`:
`values` are the real elements of the window in row-major order, `padded` is the number of padding
elements that it sees besides, and `slopes[i]` is the derivative of the value by `values[i]`.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

PADDED = -1  # a position that explicit or SAME padding adds
OVERHANG = -2  # a position that only ceil_mode adds: it never counts
SAME_LIKE = ("SAME", "SAME_LOWER", "CIRCULAR", "REFLECT", "EDGE")
FILL = {"CIRCULAR": "wrap", "REFLECT": "reflect", "EDGE": "edge"}  # the modes of numpy.pad

Reduction = Callable[..., tuple[float, list[float]]]


# Geometry


def windows(
    length: int,
    window: int,
    stride: int,
    padding: str | tuple[int, int] = "VALID",
    dilation: int = 1,
    ceil_mode: bool = False,
) -> list[list[int]]:
    """List what each output position of one axis sees: 0 and up, PADDED or OVERHANG."""
    reach = dilation * (window - 1) + 1
    word = padding.upper() if isinstance(padding, str) else ""
    if word in SAME_LIKE:
        out = math.ceil(length / stride)
        total = max((out - 1) * stride + reach - length, 0)
        small, large = total // 2, total - total // 2
        low, high = (large, small) if word == "SAME_LOWER" else (small, large)
    else:
        low, high = (0, 0) if word == "VALID" else padding
        steps = (length + low + high - reach) / stride
        out = (math.ceil(steps) if ceil_mode else math.floor(steps)) + 1
        if ceil_mode and (out - 1) * stride >= length + low:
            out -= 1

    line = list(range(length))
    if word in FILL:
        line = np.pad(line, (low, high), mode=FILL[word]).tolist()
    else:
        line = [PADDED] * low + line + [PADDED] * high

    def at(position: int) -> int:
        return line[position] if position < len(line) else OVERHANG

    return [[at(o * stride + tap * dilation) for tap in range(window)] for o in range(out)]


def bins(length: int, out: int) -> list[list[int]]:
    """List what each of `out` adaptive bins sees: [floor(i*L/o), ceil((i+1)*L/o))."""
    return [
        [p for p in range(length) if p + 1 > i * length / out and p < (i + 1) * length / out]
        for i in range(out)
    ]


def per_axis(value, count: int) -> list:
    """Give each of `count` axes its entry of a value that is written once or per axis."""
    return [value] * count if isinstance(value, int | str) else list(value)


# Reductions


def _pick(
    values: Sequence[float], beats: Callable[[float, float], bool], empty: float
) -> tuple[float, list[float]]:
    """Take the first element that no other beats, or the first NaN."""
    if not values:
        return empty, []
    winner = 0
    for i, value in enumerate(values):
        if math.isnan(value):
            winner = i
            break
        if beats(value, values[winner]):
            winner = i
    return values[winner], [float(i == winner) for i in range(len(values))]


def maximum(values, padded):
    return _pick(values, lambda a, b: a > b, -math.inf)


def minimum(values, padded):
    return _pick(values, lambda a, b: a < b, math.inf)


def total(values, padded):
    return sum(values), [1.0] * len(values)


def mean(values, padded, *, count_include_pad=True, divisor_override=None):
    divisor = len(values) + (padded if count_include_pad else 0)
    if divisor_override is not None:
        divisor = divisor_override
    if divisor == 0:
        return 0.0, []
    return sum(values) / divisor, [1 / divisor] * len(values)


def _weights(values: Sequence[float], temperature: float) -> list[float]:
    """exp((v - max) / T), the elements of a sum that can neither overflow nor vanish."""
    top = max(values)
    return [math.exp((value - top) / temperature) for value in values]


def lse(values, padded, *, temperature=1.0, normalize=True):
    if not values or max(values) == -math.inf:
        return -math.inf, [0.0] * len(values)
    if any(map(math.isnan, values)):
        return math.nan, [math.nan] * len(values)
    weights = _weights(values, temperature)
    ratio = sum(weights) / (len(values) if normalize else 1)
    return max(values) + temperature * math.log(ratio), [w / sum(weights) for w in weights]


def softmax(values, padded, *, temperature=1.0):
    if not values:
        return 0.0, []
    if any(map(math.isnan, values)):
        return math.nan, [math.nan] * len(values)
    weights = _weights(values, temperature)
    weights = [w / sum(weights) for w in weights]
    pairs = list(zip(weights, values, strict=True))
    y = sum(w * v for w, v in pairs if w)  # -inf has no weight, and 0 * -inf would be NaN
    return y, [w * (1 + (v - y) / temperature) if w else 0.0 for w, v in pairs]


def expectation(values, padded):
    """The mean of an element drawn with its size as its odds."""
    if any(map(math.isnan, values)):
        return math.nan, [math.nan] * len(values)
    sizes = [max(value, 0.0) for value in values]
    whole = sum(sizes)
    if whole == 0:
        return 0.0, [0.0] * len(values)
    y = sum(size / whole * size for size in sizes)
    return y, [(2 * size - y) / whole if size > 0 else 0.0 for size in sizes]


def mixed(values, padded, *, alpha=0.5, count_include_pad=False):
    if not values:
        return 0.0, []
    top, tops = maximum(values, padded)
    average, shares = mean(values, padded, count_include_pad=count_include_pad)
    slopes = [alpha * a + (1 - alpha) * b for a, b in zip(tops, shares, strict=True)]
    return alpha * top + (1 - alpha) * average, slopes


def norm(values, padded, *, p=2.0, normalize=False):
    """In units of the largest element, so that no power overflows or vanishes."""
    if any(map(math.isnan, values)):
        return math.nan, [math.nan] * len(values)
    top = max(map(abs, values), default=0.0)
    if top == 0:
        return 0.0, [0.0] * len(values)
    n = len(values) if normalize else 1
    ratios = [abs(v) / top for v in values]
    level = sum(ratio**p for ratio in ratios) / n
    slopes = [ratio ** (p - 1) * level ** (1 / p - 1) / n if ratio else 0.0 for ratio in ratios]
    return top * level ** (1 / p), list(map(math.copysign, slopes, values))


def gem(values, padded, *, p=3.0, eps=1e-6):
    y, slopes = norm([v if not v < eps else eps for v in values], padded, p=p, normalize=True)
    return y, [0.0 if v < eps else slope for v, slope in zip(values, slopes, strict=True)]


# Pooling


@dataclass(frozen=True)
class Pooled:
    """The result of a pooling, and its derivative as (output index, input index, slope)."""

    values: np.ndarray
    slopes: list[tuple[tuple[int, ...], tuple[int, ...], float]]
    shape: tuple[int, ...]  # of x

    def pullback(self, cotangent) -> np.ndarray:
        """What one cotangent of the result is for x: the vector-Jacobian product."""
        cotangent = np.asarray(cotangent, float).reshape(self.values.shape)
        gradient = np.zeros(self.shape)
        for out, into, slope in self.slopes:
            if slope != 0:
                gradient[into] += slope * cotangent[out]
        return gradient

    def after(self, first: "Pooled") -> "Pooled":
        """This pooling of the values of the first one, as one pooling of its x: the chain rule."""
        found = {}
        for out, into, slope in first.slopes:
            found.setdefault(out, []).append((into, slope))
        slopes = [
            (out, into, slope * inner)
            for out, between, slope in self.slopes
            for into, inner in found.get(between, [])
        ]
        return Pooled(self.values, slopes, first.shape)

    def indices(self, axes: Sequence[int]) -> np.ndarray:
        """Where each winner was, counted over the pooled axes in array order; -1 for none."""
        sizes = [self.shape[a] for a in sorted(axes)]
        found = np.full(self.values.shape, -1)
        for out, into, slope in self.slopes:
            if slope:
                found[out] = np.ravel_multi_index([into[a] for a in sorted(axes)], sizes)
        return found


def pool(
    reduction: Reduction,
    x,
    window_shape,
    strides=None,
    padding="VALID",
    *,
    window_dilation=1,
    ceil_mode=False,
    axis=None,
    where=None,
    **options,
) -> Pooled:
    """Pool as the library does, from the same arguments."""
    axes = pooled_axes(np.ndim(x), window_shape, axis)
    window_shape = per_axis(window_shape, len(axes))
    seen = [
        windows(np.shape(x)[a], *geometry, ceil_mode)
        for a, *geometry in zip(
            axes,
            window_shape,
            window_shape if strides is None else per_axis(strides, len(axes)),
            [(p, p) if isinstance(p, int) else p for p in per_axis(padding, len(axes))],
            per_axis(window_dilation, len(axes)),
            strict=True,
        )
    ]
    return _pool(reduction, x, dict(zip(axes, seen, strict=True)), where, options)


def global_pool(
    reduction: Reduction, x, *, axis=None, keepdims=False, where=None, **options
) -> Pooled:
    """Pool whole axes: one window each, which sees every position."""
    if axis is None:
        axis = range(1, np.ndim(x) - 1)
    axes = [a % np.ndim(x) for a in ([axis] if isinstance(axis, int) else axis)]
    pooled = _pool(reduction, x, {a: [list(range(np.shape(x)[a]))] for a in axes}, where, options)
    if keepdims:
        return pooled
    # pullback reads only the order of the slopes' outputs, so these lose their pooled axes too.
    slopes = [
        (tuple(np.delete(out, axes).tolist()), into, slope) for out, into, slope in pooled.slopes
    ]
    return Pooled(pooled.values.squeeze(tuple(axes)), slopes, pooled.shape)


def adaptive_pool(
    reduction: Reduction, x, output_shape, *, axis=None, where=None, **options
) -> Pooled:
    """Pool into bins; None keeps an axis."""
    axes = pooled_axes(np.ndim(x), output_shape, axis)
    sizes = [output_shape] * len(axes) if np.ndim(output_shape) == 0 else output_shape
    seen = {
        a: bins(np.shape(x)[a], np.shape(x)[a] if out is None else out)
        for a, out in zip(axes, sizes, strict=True)
    }
    return _pool(reduction, x, seen, where, options)


def fraction_starts(length: int, window: int, out: int, u: Fraction) -> list[int]:
    """Where the pseudo-random windows of Graham (2014) start: floor(a*(i + u)) - floor(a*u)."""
    if out == 1:
        return [length - window]
    a = Fraction(length - window, out - 1)
    return [math.floor(a * (i + u)) - math.floor(a * u) for i in range(out)]


def fractional_pool(
    reduction: Reduction, x, window_shape, *, output_shape, axis=None, where=None
) -> Pooled:
    """Pool into windows at fractional distances, all samples 1/2."""
    axes = pooled_axes(np.ndim(x), window_shape, axis)
    seen = {}
    for a, k, out in zip(
        axes, per_axis(window_shape, len(axes)), per_axis(output_shape, len(axes)), strict=True
    ):
        starts = fraction_starts(np.shape(x)[a], k, out, Fraction(1, 2))
        seen[a] = [list(range(start, start + k)) for start in starts]
    return _pool(reduction, x, seen, where, {})


def blur_windows(length: int, size: int, stride: int, padding) -> list[list[int]]:
    """Every s-th of the windows of stride 1, each tap as often as its binomial coefficient says."""
    if padding == "NORMALIZED":
        padding = "SAME"
    weights = [math.comb(size - 1, tap) for tap in range(size)]
    return [
        [position for position, times in zip(seen, weights, strict=True) for _ in range(times)]
        for seen in windows(length, size, 1, padding)[::stride]
    ]


def blur_pool(
    reduction: Reduction, x, strides=2, *, filter_size=3, padding="REFLECT", axis=None
) -> Pooled:
    """The mean of windows that hold their taps binomially often: the weights of N axes multiply."""
    axes = pooled_axes(np.ndim(x), strides, axis, inner=isinstance(strides, int))
    n = len(axes)
    pads = [(p, p) if isinstance(p, int) else p for p in per_axis(padding, n)]
    geometry = zip(axes, per_axis(filter_size, n), per_axis(strides, n), pads, strict=True)
    seen = {a: blur_windows(np.shape(x)[a], *rest) for a, *rest in geometry}
    return _pool(reduction, x, seen, None, {"count_include_pad": padding != "NORMALIZED"})


def max_blur_pool(
    reduction: Reduction, x, window_shape, strides=2, *, padding="REFLECT", axis=None, **options
) -> Pooled:
    """A maximum at stride 1, whose windows end at the border or go around, then a blur."""
    inner = padding if padding in ("VALID", "SAME_LOWER", "CIRCULAR") else "SAME"
    axes = pooled_axes(np.ndim(x), window_shape, axis)
    first = pool(maximum, x, window_shape, 1, inner, axis=axes)
    blurred = blur_pool(reduction, first.values, strides, padding=padding, axis=axes, **options)
    return blurred.after(first)


def phase_norm(values: Sequence[float], *, order: float = 2) -> float:
    if order == math.inf:
        return math.nan if any(map(math.isnan, values)) else max(map(abs, values), default=0.0)
    return sum(abs(value) ** order for value in values) ** (1 / order)


def polyphase_pool(reduction: Callable, x, strides=2, *, axis=None, **options) -> Pooled:
    """Take from each example the phase of which `reduction` is largest."""
    x = np.asarray(x).astype(float)
    axes = pooled_axes(x.ndim, strides, axis, inner=isinstance(strides, int))
    step = dict(zip(axes, per_axis(strides, len(axes)), strict=True))
    others = [a for a in range(x.ndim) if a not in axes]
    batch = others[:-1]  # the last one is the channels
    shape = [math.ceil(n / step[a]) if a in step else n for a, n in enumerate(x.shape)]
    values, slopes = np.zeros(shape), []
    for example in np.ndindex(*(shape[a] for a in batch)):
        fixed = dict(zip(batch, example, strict=True))
        outs = [o for o in np.ndindex(*shape) if all(o[a] == i for a, i in fixed.items())]
        phases = []
        for phase in itertools.product(*(range(step[a]) for a in sorted(axes))):
            first = dict(zip(sorted(axes), phase, strict=True))
            phases.append(
                [
                    tuple(
                        (i * step[a] + first[a]) % x.shape[a] if a in step else i
                        for a, i in enumerate(out)
                    )
                    for out in outs
                ]
            )
        norms = [reduction([x[into].item() for into in phase], **options) for phase in phases]
        _, chosen = maximum(norms, 0)
        for out, into in zip(outs, phases[chosen.index(1.0)], strict=True):
            values[out] = x[into]
            slopes.append((out, into, 1.0))
    return Pooled(values, slopes, x.shape)


def pooled_axes(ndim: int, entries, axis=None, inner: bool = False) -> list[int]:
    """The axes that an argument with one entry per axis is about, in its order.

    `inner`: without `axis`, all but the first and the last.
    """
    if axis is None and inner:
        axis = range(1, ndim - 1)
    if axis is None:
        axis = range(ndim - 1 - len(entries), ndim - 1)
    return [a % ndim for a in ([axis] if isinstance(axis, int) else axis)]


def unpool(x, indices, output_shape, axes: Sequence[int]) -> np.ndarray:
    """Put x where its indices say, windows in row-major order, the first of equals staying."""
    shape, axes = list(np.shape(x)), [a % np.ndim(x) for a in axes]
    for a, size in zip(axes, output_shape, strict=True):
        shape[a] = size
    sizes = [shape[a] for a in sorted(axes)]
    out, taken = np.zeros(shape, np.asarray(x).dtype), np.zeros(shape, bool)
    for at in np.ndindex(*np.shape(x)):
        if 0 <= indices[at] < math.prod(sizes):
            into = list(at)
            for a, i in zip(sorted(axes), np.unravel_index(int(indices[at]), sizes), strict=True):
                into[a] = i
            if not taken[tuple(into)]:
                out[tuple(into)], taken[tuple(into)] = x[at], True
    return out


def indices(shape: Sequence[int], output_shape, axis=None) -> np.ndarray:
    """Some position of the result for each value: a few twice, a few outside."""
    axes = pooled_axes(len(shape), output_shape, axis)
    total = math.prod(per_axis(output_shape, len(axes)))
    return np.random.default_rng(total).integers(-1, total + 1, shape)


def unpool_pool(reduction: Reduction, x, output_shape, *, axis=None) -> Pooled:
    """Unpool by `indices`: a position's window is the one value that was put there, or empty."""
    axes = pooled_axes(np.ndim(x), output_shape, axis)
    x = x.astype(complex if np.iscomplexobj(x) else float)
    numbers = np.arange(1, x.size + 1).reshape(x.shape)
    places = indices(x.shape, output_shape, axis)
    owner = unpool(numbers, places, per_axis(output_shape, len(axes)), axes)
    values, slopes = np.zeros(owner.shape, x.dtype), []
    for out in np.ndindex(*owner.shape):
        inputs = [np.unravel_index(owner[out] - 1, x.shape)] if owner[out] else []
        values[out], slope = reduction([x[into].item() for into in inputs], 0)
        slopes += [(out, into, s) for into, s in zip(inputs, slope, strict=True)]
    return Pooled(values, slopes, x.shape)


def pyramid_pool(
    reduction: Reduction, x, levels, *, pool, axis=None, where=None, **options
) -> Pooled:
    """Pool into the bins of every level, all bins in one vector: of a bin, all channels."""
    axes = sorted(pooled_axes(np.ndim(x), (), range(1, np.ndim(x) - 1) if axis is None else axis))
    *others, channels = [a for a in range(np.ndim(x)) if a not in axes]
    order = axis if axis is not None else axes
    parts = [
        adaptive_pool(reduction, x, per_axis(level, len(axes)), axis=order, where=where, **options)
        for level in levels
    ]
    lead = [np.shape(x)[a] for a in others]
    values, slopes, start = [], [], 0
    for part in parts:
        flat = np.transpose(part.values, [*others, *axes, channels])
        sizes = flat.shape[len(others) :]
        values.append(flat.reshape(*lead, math.prod(sizes)))
        for out, into, slope in part.slopes:
            at = np.ravel_multi_index([out[a] for a in (*axes, channels)], sizes)
            slopes.append(((*(out[a] for a in others), start + int(at)), into, slope))
        start += math.prod(sizes)
    return Pooled(np.concatenate(values, -1), slopes, np.shape(x))


def _pool(
    reduction: Reduction, x, seen: dict[int, list[list[int]]], where, options: dict
) -> Pooled:
    x = np.asarray(x)
    x = x.astype(complex if np.iscomplexobj(x) else float)
    real = np.broadcast_to(True if where is None else where, x.shape)
    numbers = {  # one each, or an array that broadcasts against x
        name: np.broadcast_to(np.asarray(options[name], float), x.shape)
        for name in ("temperature", "p")
        if name in options
    }

    shape = tuple(len(seen[a]) if a in seen else size for a, size in enumerate(x.shape))
    values = np.zeros(shape, x.dtype)
    slopes = []
    for out in np.ndindex(*shape):
        inputs, padded = [], 0
        for into in itertools.product(
            *(seen[a][o] if a in seen else [o] for a, o in enumerate(out))
        ):
            if OVERHANG in into:
                continue
            if PADDED in into:
                padded += 1
            elif real[into]:
                inputs.append(into)
        corner = tuple(0 if a in seen else o for a, o in enumerate(out))
        here = {name: n[corner].item() if n.size else 1.0 for name, n in numbers.items()}
        options = {**options, **here}
        values[out], slope = reduction([x[into].item() for into in inputs], padded, **options)
        slopes += [(out, into, s) for into, s in zip(inputs, slope, strict=True)]
    return Pooled(values, slopes, x.shape)


def as_dtype(values: np.ndarray, dtype) -> np.ndarray:
    """Write float64 results in `dtype`.

    Infinity is an integer's end, integers wrap, and a sum of bools is their or.
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return values > 0
    if dtype.kind in "iu":
        ends = np.iinfo(dtype)
        finite = np.where(np.isfinite(values), values, 0).astype(np.int64).astype(dtype)
        return np.where(
            values == np.inf, ends.max, np.where(values == -np.inf, ends.min, finite)
        ).astype(dtype)
    return values.astype(dtype)
