"""Which pooling is exactly equivariant to what, and how much does it alias? Nothing is trained.

Command:  python -m experiments run equivariance
Time:     1 minute on 2 cores
Result:   for every pooling the error ||P(T_t x) - T_(t/s) P(x)||^2 / ||P(x)||^2 over the shift t,
          the bandwidth of x, the stride s and the padding

The maps x are images and white noise, both periodic. T_t rolls them, and shifts by fractions of a
pixel in their Fourier series. A shift by t of the map should shift the result by t/s:

- where t is a multiple of s, that is a whole number of elements, and with circular borders every
  pooling here does it exactly. With other padding the windows at the border see something else.
- where it is not, T_(t/s) shifts the Fourier series of the result. The sampling theorem says that
  nothing is lost if the result has no frequency above its own Nyquist frequency, which is 1/s of
  that of x. What is left is aliasing.
- adaptive polyphase sampling moves by whole elements at every t: its error is 0 against the *best*
  whole shift of the result.

Expected:

- Linear poolings (every s-th element, average, blur) have no error on maps below 1/s of Nyquist:
  Shannon, "Communication in the presence of noise", 1949. Others make frequencies of their own.
- The error falls from every s-th element to max to average, and with the size of a blur: Azulay and
  Weiss, "Why do deep convolutional networks generalize so poorly to small image transformations?",
  2019; Zhang, "Making convolutional networks shift-invariant again", 2019.
- Adaptive polyphase sampling: Chaman and Dokmanic, "Truly shift-invariant convolutional neural
  networks", 2021.

`check` holds stored results to what is exact: circular borders and multiples of the stride, bit for
bit; polyphase sampling at every shift, alone and in a net; global poolings, which no shift changes;
linear poolings, their gain, their frequency response and the sampling theorem.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxpool
from experiments import config as configs
from experiments import data, shifts
from experiments.config import UserError
from experiments.periodic import best_whole, distance, low_pass, moved, normal, rolled
from experiments.poolings import FAMILIES, NAMES, POOLINGS
from experiments.report import (
    Claim,
    Column,
    Picture,
    Row,
    Section,
    Sheet,
    by_variant,
    extremes,
    seeds_of,
)
from experiments.store import Cell

NAME = "equivariance"
QUESTION = "Which pooling is equivariant to what, and how much does it alias?"

ADAPTIVE = tuple(name for name in POOLINGS if name.endswith("aps"))
"""Those that move by whole elements at every shift."""


def binomial(size: int) -> np.ndarray:
    """The weights of a blur."""
    weights = np.ones(1)
    for _ in range(size - 1):
        weights = np.convolve(weights, [0.5, 0.5])
    return weights


TAPS: dict[str, Callable[[int], np.ndarray]] = {
    "stride": lambda k: np.ones(1),
    "avg": lambda k: np.full(k, 1 / k),
    "blur3": lambda k: binomial(3),
}
"""The weights of the linear ones along an axis, by the side of the window."""


@dataclass(frozen=True, kw_only=True)
class Config(configs.Config):
    """All that one measurement depends on.

    Maps are the middle `size` x `size` pixels of as many images, and as many maps of noise.
    `bands` are the highest frequencies that are kept, in periods per map; 0 keeps all.
    """

    experiment: str = NAME
    size: int
    images: int
    strides: tuple[int, ...]
    bands: tuple[int, ...]
    steps: int = 8


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How much to measure. The strides and 8 divide the size."""

    about: str
    data: str
    size: int
    images: int
    strides: tuple[int, ...]
    bands: tuple[int, ...]
    seeds: int = 1
    variants: tuple[str, ...] = tuple(POOLINGS)


PRESETS = {
    "smoke": Preset(
        about="seconds: does everything run?",
        data="digits",
        size=16,
        images=3,
        strides=(1, 2),
        bands=(0, 1, 3, 5),
        variants=("max", "avg", "max_aps"),
    ),
    "quick": Preset(
        about="1 minute on 2 cores",
        data="mnist5k",
        size=24,
        images=16,
        strides=(1, 2, 3, 4),
        bands=(0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11),
    ),
    "full": Preset(
        about="5 seeds of 64 images, 20 minutes",
        data="mnist5k",
        size=24,
        images=64,
        strides=(1, 2, 3, 4),
        bands=(0, *range(1, 12)),
        seeds=5,
    ),
}


def cells(
    preset: str,
    data_name: str | None = None,
    seeds: int | None = None,
    variants: Sequence[str] = (),
) -> list[Config]:
    """One cell for each pooling and seed; one seed has the same maps for all poolings."""
    chosen = PRESETS[configs.choose("preset", preset, PRESETS)]
    name = data_name or chosen.data
    size = data.known(name).size
    if size < chosen.size:
        raise UserError(
            f"The images of {name!r} have {size} pixels a side, but the preset {preset!r} takes "
            f"{chosen.size}: choose other data, or --preset smoke."
        )
    return configs.cells(Config, chosen, POOLINGS, data=name, seeds=seeds, variants=variants)


# ---- the maps ----


def maps(config: Config) -> np.ndarray:
    """Images and then noise in 0..1, float64 [N, size, size]."""
    side = data.known(config.data).size
    split = data.split(config.data, size=side, train=1, test=config.images, seed=config.seed)
    middle = slice((side - config.size) // 2, (side + config.size) // 2)
    images = split.test_images[:, middle, middle].mean(-1)
    noise = np.random.default_rng([config.seed, 2]).normal(size=images.shape)
    return normal(np.concatenate([images, noise]))


# ---- pooling ----


class Pool:
    """A pooling at a stride, of maps [N, size, size]."""

    def __init__(self, variant: str, s: int, padding: str = "CIRCULAR") -> None:
        self.variant, self.s, self.padding = variant, s, padding

    def __call__(self, x: np.ndarray) -> np.ndarray:
        y = _pooled(self.variant, self.s, self.padding, x[..., None].astype(np.float32))
        return np.asarray(y, np.float64)[..., 0]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _pooled(variant: str, s: int, padding: str, x: jax.Array) -> jax.Array:
    return POOLINGS[variant].pool(x, max(s, 2), s, padding)


# ---- what is measured ----


def work(config: Config) -> int:
    """Steps of about the same length: one for each stride, one for the rest."""
    return len(config.strides) + 1


def run(config: Config, tick: Callable[[int, float | None], None]) -> tuple[dict, dict]:
    """Measure one pooling: squared errors of every map and shift, and what is exact.

    For stride s, with K shifts, N maps and B bands:

        differing_s [K]                     at all multiples of s, circular borders: how many
                                            elements are not equal
        border_2 [K, N]                     the same shifts, other padding: squared errors
        error_s, best_s [B, K, N]           at all shifts below s but 0: against the Fourier series
                                            of the result, and against its best whole shift
        slide_s, slide_best_s [K, N]        to the right in eighths of a pixel, up to half of s
        energy_s, variance_s [B, N]         sums of P(x)^2, and of squares about its mean
        border_energy_2, slide_energy_s [N] the same, of P(x) there
    """
    x, arrays = maps(config), {}
    for s in config.strides:
        arrays |= {f"{name}_{s}": array for name, array in _at_stride(config, s, x).items()}
        tick(1, None)
    arrays |= _whole(config, x) | _linear(config, x) | _net(config, x)
    tick(1, None)
    return arrays, {}


def _at_stride(config: Config, s: int, x: np.ndarray) -> dict[str, np.ndarray]:
    pool, far = Pool(config.variant, s), shifts.exhaustive(config.size // s) * s
    here = pool(x)
    differing = [(pool(rolled(x, by)) != rolled(here, by // s)).sum() for by in far]
    found = {"differing": np.array(differing)}
    if s == 2:
        found |= _border(config, s, x, far)
    return found if s == 1 else found | _between(config, pool, x)


def _border(config: Config, s: int, x: np.ndarray, far: np.ndarray) -> dict[str, np.ndarray]:
    """Shifts by multiples of the stride, with nothing or zeros outside the map."""
    pool = Pool(config.variant, s, "SAME")
    here = pool(x)
    off = [distance(pool(rolled(x, by)), rolled(here, by // s)) for by in far]
    return {"border": np.stack(off), "border_energy": _energy(here)}


def _between(config: Config, pool: Pool, x: np.ndarray) -> dict[str, np.ndarray]:
    """Shifts that are no multiples of the stride, for maps of every bandwidth."""
    near, kept = shifts.exhaustive(pool.s)[1:], [low_pass(x, band) for band in config.bands]
    off, best = np.stack([_errors(pool, each, near) for each in kept], 1)
    pooled = np.stack([pool(each) for each in kept])
    right = np.arange(pool.s * config.steps // 2 + 1) / config.steps
    # Without Nyquist's frequency, which has no direction to move by a fraction.
    smooth = low_pass(x, config.size // 2 - 1)
    slide, slide_best = _errors(pool, smooth, [(0, by) for by in right])
    return {
        "error": off,
        "best": best,
        "energy": _energy(pooled),
        "variance": _energy(pooled - pooled.mean((-2, -1), keepdims=True)),
        "slide": slide,
        "slide_best": slide_best,
        "slide_energy": _energy(pool(smooth)),
    }


def _energy(y: np.ndarray) -> np.ndarray:
    return (y**2).sum((-2, -1))


def _errors(pool: Pool, x: np.ndarray, by: Any) -> np.ndarray:
    """Squared errors, against the Fourier series and the best whole shift of P(x), [2, K, N]."""
    here = pool(x)

    def errors(down: float, right: float) -> tuple[np.ndarray, np.ndarray]:
        whole = down == int(down) and right == int(right)
        there = pool(rolled(x, (int(down), int(right))) if whole else moved(x, down, right))
        expected = moved(here, down / pool.s, right / pool.s)
        return distance(there, expected), distance(there, best_whole(there, here))

    return np.stack([errors(*each) for each in by], 1)


def _whole(config: Config, x: np.ndarray) -> dict[str, np.ndarray]:
    """The global form, where there is one, at every shift: [K, N]."""
    whole = POOLINGS[config.variant].whole
    if whole is None:
        return {}
    every = shifts.exhaustive(config.size)
    pool = jax.jit(whole)
    return {
        "whole": np.stack([pool(rolled(x, by)[..., None].astype(np.float32)) for by in every])[
            ..., 0
        ]
    }


def _linear(config: Config, x: np.ndarray) -> dict[str, np.ndarray]:
    """What linear poolings have: superposition, the gain of constants, a frequency response."""
    if config.variant not in TAPS:
        return {}
    pool, smooth = Pool(config.variant, 2), Pool(config.variant, 1)
    one, other = x, x[::-1]
    sums = pool(3 * one - other) - (3 * pool(one) - pool(other))
    waves = waves_of(config.size)
    gains = np.sqrt((smooth(waves) ** 2).mean((-2, -1)) / (waves**2).mean((-2, -1)))
    found = {
        "superposition": np.abs(sums).max((-2, -1)),
        "constant": pool(np.full_like(x[:1], 0.7))[0] / np.float32(0.7),
        "gains": gains,
    }
    if config.variant == "avg":
        blurred = _blurred(x[..., None].astype(np.float32))
        found["blur2"] = np.asarray(blurred)[..., 0] - pool(x)
    return found


_blurred = jax.jit(partial(jaxpool.blur_pool, strides=2, filter_size=2, padding="CIRCULAR"))


def waves_of(size: int) -> np.ndarray:
    """A wave along the last axis for every frequency up to Nyquist's, [size/2 + 1, size, size]."""
    phase = np.arange(size // 2 + 1)[:, None] * np.arange(size) * 2 * np.pi / size
    return np.repeat(np.cos(phase)[:, None], size, 1)


def response(taps: np.ndarray, size: int) -> np.ndarray:
    """|H| of weights at the frequencies of `waves_of`: |sum_j h_j exp(-i w j)|."""
    w = np.arange(size // 2 + 1) * 2 * np.pi / size
    return np.abs(np.exp(-1j * w[:, None] * np.arange(len(taps))) @ taps)


WIDTHS = (1, 8, 8, 8, 10)
PERIOD = 2 ** (len(WIDTHS) - 2)
"""Pixels, after which the logits of the net repeat."""


def _net(config: Config, x: np.ndarray) -> dict[str, np.ndarray]:
    """Logits of an untrained net at all shifts of one period, and at its multiples, [K, N, 10]."""
    random = np.random.default_rng([config.seed, 3])
    kernels = [
        random.normal(0, (2 / (9 * a)) ** 0.5, (3, 3, a, b)).astype(np.float32)
        for a, b in pairwise(WIDTHS[:-1])
    ]
    head = random.normal(0, 1, WIDTHS[-2:]).astype(np.float32)

    def logits(shift: np.ndarray) -> np.ndarray:
        images = rolled(x, shift)[..., None].astype(np.float32)
        return np.asarray(_logits(config.variant, kernels, head, images))

    by = np.concatenate([shifts.exhaustive(PERIOD), shifts.multiples(PERIOD, config.size)])
    return {"net_shifts": by, "net": np.stack([logits(shift) for shift in by])}


@partial(jax.jit, static_argnums=0)
def _logits(variant: str, kernels: list[jax.Array], head: jax.Array, x: jax.Array) -> jax.Array:
    for kernel in kernels:
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
        numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(
            lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)
        )
        x = POOLINGS[variant].pool(x, 2, 2, "CIRCULAR")
    return jaxpool.global_avg_pool(x) @ head


# ---- what is exact ----

ROUNDING = 1e-6
"""Of sums in float32, at values up to 1."""
BELOW = 1e-10
"""Of squared errors, where nothing but rounding is left."""


def check(cell: Cell) -> list[str]:
    """The exact statements that a stored cell breaks, as sentences."""
    return [
        f"{sentence} (largest: {most:.2g}, allowed: {allowed:g})"
        for sentence, most, allowed in _statements(cell)
        if not most <= allowed
    ]


def _statements(cell: Cell) -> list[tuple[str, float, float]]:
    """What is broken if the number is larger than the one behind it."""
    found, name = cell.arrays, cell.variant
    said: list[tuple[str, Any, float]] = [
        (f"values differ after shifts by multiples of stride {s}", found[f"differing_{s}"], 0)
        for s in cell.config["strides"]
    ]
    changes = np.abs(found["net"] - found["net"][0])
    far = changes[PERIOD**2 :]
    said.append((f"logits change after shifts by multiples of {PERIOD}", far, 1e-4))
    if name in ADAPTIVE:
        said += [
            (f"no whole shift of the result fits at stride {s}", found[f"best_{s}"][0], 0)
            for s in _strides(cell)
        ]
        said.append(("logits change after a shift", changes, 1e-4))
    if "whole" in found:
        whole = found["whole"]
        off = np.abs(whole - whole[0]) / np.maximum(np.abs(whole[0]), ROUNDING)
        said.append(("the global pooling changes with a shift", off, 10 * ROUNDING))
    return [
        (text, float(np.max(values, initial=0)), most)
        for text, values, most in said + _linearity(cell)
    ]


def _linearity(cell: Cell) -> list[tuple[str, Any, float]]:
    """The same for linear poolings."""
    found, name, size = cell.arrays, cell.variant, cell.config["size"]
    if name not in TAPS:
        return []
    expected = response(TAPS[name](2), size)
    said: list[tuple[str, Any, float]] = [
        ("a sum of maps is not pooled to the sum", found["superposition"], 4 * ROUNDING),
        ("a constant is changed", np.abs(found["constant"] - 1), ROUNDING),
        ("a wave has another gain than |H|", np.abs(found["gains"] - expected), ROUNDING),
    ]
    for s in _strides(cell):
        below = [0 < band < size / (2 * s) for band in cell.config["bands"]]
        alias = relative(cell, s)[below]
        said.append((f"maps below 1/{s} of Nyquist alias", alias, BELOW))
    if name == "avg":
        said.append(("a blur of 2 is another average", np.abs(found["blur2"]), ROUNDING))
    return said


def _strides(cell: Cell) -> list[int]:
    return [s for s in cell.config["strides"] if s > 1]


# ---- the numbers ----


def relative(cell: Cell, s: int, what: str = "error", to: str = "energy") -> np.ndarray:
    """Errors over P(x)^2, both summed over the images: [B, K]."""
    return _over(cell.arrays[f"{what}_{s}"], cell.arrays[f"{to}_{s}"][:, None], _images(cell))


def sliding(cell: Cell, what: str = "slide") -> np.ndarray:
    """Errors over P(x)^2, both summed over the images, at fractions of a pixel: [K], stride 2."""
    return _over(cell.arrays[f"{what}_2"], cell.arrays["slide_energy_2"], _images(cell))


def _images(cell: Cell) -> slice:
    return slice(cell.config["images"])


def _noise(cell: Cell) -> slice:
    return slice(cell.config["images"], None)


def _over(errors: np.ndarray, energy: np.ndarray, maps: slice) -> np.ndarray:
    return errors[..., maps].sum(-1) / energy[..., maps].sum(-1)


def metrics(cell: Cell) -> dict[str, float]:
    """Means over the shifts, at stride 2 unless the name says another."""
    found, bands = cell.arrays, list(cell.config["bands"])
    whole = bands.index(0)
    half = bands.index(max(band for band in bands if band < cell.config["size"] / 4))
    border = _over(found["border_2"], found["border_energy_2"], _images(cell))
    noise = _over(found["error_2"][whole], found["energy_2"][whole], _noise(cell))
    return {
        "differing": float(sum(found[f"differing_{s}"].sum() for s in cell.config["strides"])),
        "error": float(relative(cell, 2)[whole].mean()),
        "variance": float(relative(cell, 2, to="variance")[whole].mean()),
        "noise": float(noise.mean()),
        "half": float(relative(cell, 2)[half].mean()),
        **{f"error_{s}": float(relative(cell, s)[whole].mean()) for s in _strides(cell) if s > 2},
        "best": float(relative(cell, 2, "best")[whole].mean()),
        "border": float(border.mean()),
        "net": _logits_moved(found["net"].astype(float), found["net_shifts"]),
    }


def _logits_moved(logits: np.ndarray, by: np.ndarray) -> float:
    """Mean square change with a shift, over the variance between maps. (0, 0) and multiples of the
    period do not count: these change nothing, by theorem."""
    between = (by % PERIOD).any(axis=1)
    return float(np.mean((logits[between] - logits[0]) ** 2) / logits.var(axis=1).mean())


# ---- the report ----


def _share(values: np.ndarray) -> str:
    """In percent, with two digits; 0 says that it is exact."""
    value = 100 * float(np.mean(values))
    if value >= 10:
        return f"{value:.0f}"
    return "0" if value == 0 else "rounding" if value < 1e-8 else f"{value:.2g}"


def _column(key: str, title: str, meaning: str) -> Column:
    return Column(key, title, meaning, show=_share)


def _columns(strides: Sequence[int]) -> list[Column]:
    return [
        Column(
            "differing",
            "at multiples (count)",
            "How many elements differ after shifts by multiples of the stride, of all strides.",
            show=lambda values: f"{np.sum(values):,.0f}",
        ),
        _column(
            "error",
            "between",
            "||P(T x) - T P(x)||^2 / ||P(x)||^2 after shifts by 1 pixel right, down or both, "
            "stride 2, both summed over the images; T P(x) shifts the Fourier series.",
        ),
        _column("variance", "of variance", "The same over the variance of P(x)."),
        _column("noise", "noise", "As “between”, for white noise."),
        _column(
            "half", "band-limited", "As “between”, for images with nothing from half of Nyquist on."
        ),
        *(
            _column(
                f"error_{s}", f"stride {s}", f"As “between”, for stride {s} and shifts below it."
            )
            for s in strides
            if s > 2
        ),
        _column("best", "best whole shift", "As “between”, against the best whole shift of P(x)."),
        _column(
            "border",
            "border",
            "After shifts by multiples of 2, with zeros (or nothing) outside the map.",
        ),
        _column(
            "net",
            "net",
            "An untrained net of three convolutions, ReLU and poolings: mean square change of the "
            f"logits over shifts that are no multiples of {PERIOD}, over their variance between "
            "maps.",
        ),
    ]


METHOD = (
    "The maps are images and as many maps of white noise, each scaled to 0..1 and taken as "
    "periodic: what leaves on one side comes back on the other. Windows have the stride as their "
    "side, and overlapping ones one more; at stride 1 they have 2. Nothing is trained.",
    NAMES,
    "P is the pooling, T_t a shift of its input by t pixels. P(T_t x) is compared with P(x) "
    "shifted by t/s, which is no whole number of elements where the stride s does not divide t: "
    "then the Fourier series of P(x) is shifted. Whole shifts of x move its pixels.",
    "The error is divided by ||P(x)||^2, the mean square. It is small where the result has a large "
    "mean, as a maximum has: the second column divides by the variance instead. A band-limited map "
    "has no frequency above the given one along each axis.",
)


def section(found: Sequence[Cell]) -> Section:
    """A table and two pictures, the smallest error first."""
    rows, config = _rows(found), found[0].config
    source = data.SOURCES[config["data"]]
    n = (
        f"{config['images']} images ({source.name}) and as many maps of noise, {config['size']}x"
        f"{config['size']}; {seeds_of(found)}"
    )
    return Section(
        question=QUESTION,
        answer=_answer(rows),
        pictures=[_slide(found, n), _bandwidth(found, n)],
        sheets=[
            Sheet(
                "", "The errors, in percent of the squared norm", _columns(config["strides"]), rows
            )
        ],
        size=f"{n}. Stride 2 unless said; 0 is exact. {ERROR}",
        claims=_claims(found, rows),
        method=METHOD,
    )


def _rows(found: Sequence[Cell]) -> list[Row]:
    titles = {name: pooling.title for name, pooling in POOLINGS.items()}
    return sorted(by_variant(found, titles, metrics), key=lambda row: row.values["error"].mean())


ERROR = (
    "The error is ||P(T x) - T P(x)||^2 as a share of the squared norm ||P(x)||^2, where P is the "
    "pooling and T a shift."
)


def _answer(rows: Sequence[Row]) -> str:
    """What is exact, then who aliases least and most."""
    exact = [row for row in rows if row.variant in ADAPTIVE]
    others = [row for row in rows if row.variant not in ADAPTIVE]
    shown = [row for row in others if row in (*others[:1], *others[-1:]) or row.variant == "max"]
    ranking = ", ".join(f"{_share(row.values['error'])} % for {row.title}" for row in shown)
    broken = int(sum(row.values["differing"].sum() for row in rows))
    start = (
        f"{broken:,} values break what is exact: see below."
        if broken
        else "With circular borders, all are equivariant to shifts by multiples of their stride, "
        f"bit for bit{', and those with polyphase sampling to every shift' if exact else ''}."
    )
    between = (
        " Between these multiples, at stride 2, pooling a shifted map and shifting the pooled map "
        f"differ by {ranking}, as a share of the squared norm."
    )
    between = between if shown else ""
    return start + between


def _claims(found: Sequence[Cell], rows: Sequence[Row]) -> list[Claim]:
    """What the header expects, and what is stored."""
    differing = int(sum(row.values["differing"].sum() for row in rows))
    asked = sum(
        len(cell.arrays[f"differing_{s}"]) for cell in found for s in cell.config["strides"]
    )
    apart = [row for row in rows if row.variant in APART]
    claims = [
        Claim(
            "Circular borders: shifts by multiples of the stride change nothing, bit for bit",
            f"{differing:,} values differ, over {asked:,} shifts of all maps.",
            not differing,
            "exact for windows that follow the stride",
        )
    ]
    if apart:
        border = max(float(row.values["border"].max()) for row in apart)
        claims.append(
            Claim(
                "Windows that neither overlap nor reach over the border need no circular one",
                f"largest error {border:.1g}.",
                not border,
                "they see no padding",
            )
        )
    return [*claims, *_adaptive(found), *_sampling(found), *_orders(rows)]


APART = [name for name in POOLINGS if "blur" not in name and name not in ("max_wide", "max_aps")]


def _adaptive(found: Sequence[Cell]) -> list[Claim]:
    ours = [cell for cell in found if cell.variant in ADAPTIVE]
    if not ours:
        return []
    best = max(cell.arrays[f"best_{s}"][0].max() for cell in ours for s in _strides(cell))
    logits = max(np.abs(cell.arrays["net"] - cell.arrays["net"][0]).max() for cell in ours)
    return [
        Claim(
            "Adaptive polyphase sampling: every shift of x shifts the result, by whole elements",
            f"largest error {best:.1g}; logits of an untrained net change by {logits:.1g} at most.",
            bool(best == 0 and logits <= 1e-4),
            "Chaman and Dokmanic 2021",
        )
    ]


def _sampling(found: Sequence[Cell]) -> list[Claim]:
    """The sampling theorem, for the linear ones and for the others."""

    def below(cell: Cell) -> np.ndarray:
        size, bands = cell.config["size"], cell.config["bands"]
        return np.concatenate(
            [
                relative(cell, s)[[0 < band < size / (2 * s) for band in bands]].ravel()
                for s in _strides(cell)
            ]
        )

    linear = [below(cell).max() for cell in found if cell.variant in TAPS]
    others = {c.variant: below(c).mean() for c in found if c.variant == "max"}
    claims = []
    if linear:
        claims.append(
            Claim(
                "Linear poolings do not alias maps below 1/s of Nyquist",
                f"largest error {max(linear):.1g}, which is rounding.",
                bool(max(linear) < BELOW),
                "Shannon 1949",
            )
        )
    if others:
        claims.append(
            Claim(
                "Max does: it makes frequencies that its input has not",
                f"mean error {100 * others['max']:.1g} % on the same maps.",
                bool(others["max"] > BELOW),
                "it is not linear",
            )
        )
    return claims


ORDERS = [
    (("avg", "max", "stride"), "Azulay and Weiss 2019; Zhang 2019"),
    (("maxblur5", "maxblur3", "maxblur2", "max"), "Zhang 2019"),
    (("blur3", "stride"), "Zhang 2019"),
]


def _orders(rows: Sequence[Row]) -> list[Claim]:
    """Who has the smaller error between the multiples of the stride."""
    by = {row.variant: row for row in rows}
    claims = []
    for names, source in ORDERS:
        if all(name in by for name in names):
            errors = [by[name].values["error"].mean() for name in names]
            titles = " < ".join(POOLINGS[name].title for name in names)
            seen = ", ".join(f"{100 * error:.2g} %" for error in errors)
            held = all(a < b for a, b in pairwise(errors))
            claims.append(Claim(f"Error: {titles}", f"{seen}.", held, source))
    return claims


# ---- the pictures ----

UNSEEN = ("l2", "gem", "lse", "softmax")
"""Left out of the pictures, where they lie on other lines."""
REFERENCE = "max"
"""In every panel."""
LEAST = 1e-5
ERROR_LABEL = "equivariance error (% of the squared norm)"


def _panels(read: Callable[[Cell], Any], found: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """family -> title -> style and mean over seeds of what is read."""
    panels: dict[str, dict[str, Any]] = {}
    there = {cell.variant for cell in found}
    for family in FAMILIES:
        names = [n for n in POOLINGS if POOLINGS[n].family == family and n not in UNSEEN]
        others = [n for n in names if n in there and n != REFERENCE]
        styles = [i for i in range(10) if i != 6]
        styled = dict(zip(others, styles, strict=False)) | {REFERENCE: 6} if others else {}
        panels[family.capitalize()] = {
            POOLINGS[name].title: (style, np.mean([read(c) for c in found if c.variant == name], 0))
            for name, style in styled.items()
            if name in there
        }
    return {title: lines for title, lines in panels.items() if lines}


def _picture(
    panels: dict[str, dict[str, Any]], x: np.ndarray, label: str, mark: float | None = None
) -> Callable[[bool], Any]:
    def draw(narrow: bool) -> Any:
        from experiments import figures

        curves = {
            title: {
                name: figures.Curve((x, 100 * y), (x, 100 * y), style)
                for name, (style, y) in lines.items()
            }
            for title, lines in panels.items()
        }
        return figures.curves(
            curves, label, ERROR_LABEL, least=100 * LEAST, zero="0", mark=mark, narrow=narrow
        )

    return draw


def _at_the_end(panels: Mapping[str, Mapping[str, Any]]) -> str:
    """The least and the largest error at the right end of some panels."""
    return extremes({name: y[-1] for of in panels.values() for name, (_, y) in of.items()})


def _slide(found: Sequence[Cell], n: str) -> Picture:
    panels = _panels(sliding, found)
    seen = f"at one pixel, {_at_the_end(panels)}."
    panels["Against the best whole shift"] = {
        POOLINGS[name].title: (style, np.mean(best, 0))
        for name, style in BESIDE.items()
        if (best := [sliding(cell, "slide_best") for cell in found if cell.variant == name])
    }
    x = np.arange(len(found[0].arrays["slide_2"])) / found[0].config["steps"]
    return Picture(
        "slide",
        "The error of shifts by fractions of a pixel",
        "Stride 2: from no shift to half of the stride; from there to 2 pixels the error goes back "
        "the same way. In the last panel the result is shifted by whole elements alone, as far as "
        "fits best; polyphase sampling then fits exactly at 1. Logarithmic; 0 is below "
        f"{100 * LEAST:g} %. {n}.",
        _picture(panels, x, "shift to the right (pixels)"),
        seen,
    )


BESIDE = {"stride": 0, "avg": 1, "maxblur3": 2, "aps": 3, "max_aps": 4, "max": 6}
"""What is compared with its best whole shift, and how it is drawn."""


def _bandwidth(found: Sequence[Cell], n: str) -> Picture:
    config = found[0].config
    nyquist = config["size"] // 2
    order = np.argsort([band or nyquist for band in config["bands"]])
    x = np.array([band or nyquist for band in config["bands"]])[order] / nyquist

    def read(cell: Cell) -> np.ndarray:
        return relative(cell, 2).mean(1)[order]

    panels = _panels(read, found)
    return Picture(
        "bandwidth",
        "The error over the bandwidth of the maps",
        "Stride 2, shifts by one pixel. At 1 the images are as they are; to the left, everything "
        "above that share of Nyquist's frequency is taken away. The grey line is the Nyquist "
        f"frequency of the result. Logarithmic; 0 is below {100 * LEAST:g} %. {n}.",
        _picture(panels, x, "highest frequency / Nyquist", 0.5),
        f"of images as they are, {_at_the_end(panels)}.",
    )
