"""Does a net that saw digits at one place know them at others? Does pooling forgive deformations?

Command:  python -m experiments run transfer --preset quick
Time:     3 minutes on 2 cores (45 nets)
Result:   the map of accuracy over the place of test, for each pooling and kind of net; how far a
          smooth deformation moves what each layer says, before training and after each epoch

Small pictures are put into the top left corner of a black canvas. A net is trained on them there,
and tested at every place of a grid. There are three kinds of net:

    circular    circular borders, and a global average before the dense layer
    zero        zeros outside the canvas, and a global average
    flat        zeros outside the canvas, and a dense layer that has weights of its own for every
                place of the last map

A deformation moves each pixel by a field of a few low Fourier modes, of a fixed root mean square.
How far it moves a layer is said as Ruderman et al. do: the cosine distance of the maps of an image
and of its deformed copy, over that of the maps of two images, both as medians. 0 is stable; at 1 a
deformed image is as strange as another one.

Expected:

- Without a global average, what is learned at one place is of little use elsewhere; with one, much
  of it is. So this project expects after Kauderer-Abrams, "Quantifying translation-invariance in
  convolutional neural networks", 2017, and Biscione and Bowers, "Learning translation invariance in
  CNNs", 2020, who do not draw the line at a half.
- With circular borders more carries over than with zeros, by which a net can tell places: after
  Kayhan and van Gemert, "On translation invariance in CNNs", 2020.
- Exactly: with circular borders, the answers at places that are multiples of 2^L pixels away are
  those at home, and with adaptive polyphase sampling (APS) those at every place are.
- Before training, pooling is more stable against deformations than strided convolution; training
  takes that advantage away: Ruderman, Rabinowitz, Morcos, Zoran, "Pooling is neither necessary nor
  sufficient for appropriate deformation stability in CNNs", 2018.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.ndimage import map_coordinates

from experiments import config as configs
from experiments import data, nets, shifts, stats, train, trained
from experiments.nets import Net
from experiments.poolings import NAMES
from experiments.report import (
    Claim,
    Column,
    Picture,
    Row,
    Section,
    Sheet,
    after,
    by_variant,
    counted,
    extremes,
    means,
    number,
    seeds_of,
)
from experiments.store import Cell

NAME = "transfer"
QUESTION = (
    "Does a net that saw digits at one place know them at others, and does pooling make it stable "
    "against deformations?"
)


@dataclass(frozen=True)
class Kind:
    """A kind of net: what it is called, its borders, and whether its dense layer sees places."""

    title: str
    short: str
    padding: str
    flat: bool = False


KINDS = {
    "circular": Kind("Circular borders, global average", "circular", "CIRCULAR"),
    "zero": Kind("Zeros outside, global average", "zeros", "SAME"),
    "flat": Kind("Zeros outside, no global average", "zeros, flat", "SAME", flat=True),
}

# A variant is a pooling and a kind of net: max@zero.
VARIANTS = [f"{pooling}@{kind}" for kind in KINDS for pooling in nets.VARIANTS]

LAYERS = ("image", "block 1", "block 2", "block 3", "global average")
"""Where the effect of a deformation is measured."""

WHEN = ("before", "after")
"""When it is, seen from training."""


@dataclass(frozen=True, kw_only=True)
class Config(trained.Config):
    """All that one net and its measurement depend on.

    Pictures of `side` pixels lie on a canvas of `size` pixels, and are tested at every place that
    is a multiple of `step` pixels from the corner. A deformation is of `rms` pixels on the canvas,
    and of up to `modes` periods per picture along each axis.
    """

    experiment: str = NAME
    size: int
    side: int = 16
    step: int = 1
    probe_images: int = 512
    rms: float = 1.0
    modes: int = 2


@dataclass(frozen=True, kw_only=True)
class Preset(trained.Preset):
    """How large a study is: everything but the variant and the seed."""

    size: int
    step: int


def _all_kinds(*poolings: str) -> tuple[str, ...]:
    return tuple(f"{pooling}@{kind}" for kind in KINDS for pooling in poolings)


PRESETS = {
    "smoke": Preset(
        about="seconds: does everything run?",
        data="digits",
        seeds=1,
        size=24,
        step=4,
        train_images=256,
        test_images=64,
        epochs=2,
        batch=32,
        widths=(4, 4, 4),
        variants=("max@circular", "stride@flat"),
    ),
    "quick": Preset(
        about="3 minutes on 2 cores: 5 poolings, 3 kinds of net, 3 seeds",
        data="mnist5k",
        seeds=3,
        size=32,
        step=1,
        train_images=2000,
        test_images=128,
        epochs=6,
        batch=64,
        widths=(16, 32, 64),
        variants=_all_kinds("stride", "max", "avg", "maxblur3", "max_aps"),
    ),
    "full": Preset(
        about="about 2 hours on 2 cores: 8 poolings, 10 seeds, three times as much training",
        data="mnist5k",
        seeds=10,
        size=32,
        step=1,
        train_images=4000,
        test_images=256,
        epochs=10,
        batch=64,
        widths=(16, 32, 64),
        variants=_all_kinds(
            "stride", "max", "avg", "softmax", "blur3", "maxblur3", "aps", "max_aps"
        ),
    ),
}


def cells(
    preset: str,
    data_name: str | None = None,
    seeds: int | None = None,
    variants: Sequence[str] = (),
) -> list[Config]:
    """The cells of a preset, all variants of one seed before the next seed."""
    chosen = PRESETS[configs.choose("preset", preset, PRESETS)]
    name = data_name or chosen.data
    data.known(name)
    return configs.cells(Config, chosen, VARIANTS, data=name, seeds=seeds, variants=variants)


def _parts(variant: str) -> tuple[nets.Variant, Kind]:
    pooling, kind = variant.split("@")
    return nets.VARIANTS[pooling], KINDS[kind]


def _net(config: Config, classes: int = 10) -> Net:
    pooling, kind = _parts(config.variant)
    return Net(pooling, config.widths, classes, kind.padding, kind.flat)


def places(size: int, side: int, step: int) -> np.ndarray:
    """How far from the corner a picture is put, int32 [K, 2]; the first place is the corner."""
    return shifts.exhaustive((size - side) // step + 1) * np.int32(step)


# ---- pictures ----


def field(random: np.random.Generator, size: int, modes: int, rms: float) -> np.ndarray:
    """A periodic field of displacements, [2, size, size], that moves nothing as a whole."""
    low = np.abs(np.fft.fftfreq(size, 1 / size)) <= modes
    kept = low[:, None] & low
    kept[0, 0] = False
    drawn = np.fft.ifft2(np.fft.fft2(random.normal(size=(2, size, size))) * kept).real
    return drawn * (rms / np.sqrt((drawn**2).sum(0).mean()))


def deformed(images: np.ndarray, fields: np.ndarray) -> np.ndarray:
    """Each image [height, width, channels], read at its pixels plus a field [2, height, width].

    Between pixels it is interpolated linearly, and beyond its borders it is periodic.
    """

    def one(image: np.ndarray, displaced: np.ndarray) -> np.ndarray:
        at = np.indices(displaced.shape[1:]) + displaced
        channels = np.moveaxis(image, -1, 0)
        return np.stack([map_coordinates(x, at, order=1, mode="grid-wrap") for x in channels], -1)

    return np.stack([one(*pair) for pair in zip(images, fields, strict=True)])


def shrunk(images: np.ndarray, by: int) -> np.ndarray:
    """Averages over squares of `by` x `by` pixels."""
    count, height, width, channels = images.shape
    squares = images.reshape(count, height // by, by, width // by, by, channels)
    return squares.mean((2, 4))


def _split(config: Config) -> data.Split:
    """The images, padded to a multiple of the side of a picture."""
    by = -(-data.known(config.data).size // config.side)
    return trained.split(config, by * config.side)


def _bent(images: np.ndarray, config: Config) -> np.ndarray:
    """A deformed copy of each image, not shrunk yet."""
    random, side = np.random.default_rng([config.seed, 4]), images.shape[1]
    rms = config.rms * side / config.side
    return deformed(images, np.stack([field(random, side, config.modes, rms) for _ in images]))


def _at_home(images: np.ndarray, config: Config) -> np.ndarray:
    """Shrink the images to the side of a picture, and put them into the corner of the canvas."""
    pictures = shrunk(images, images.shape[1] // config.side)
    around = (0, config.size - config.side)
    return np.pad(pictures, ((0, 0), around, around, (0, 0)))


# ---- the measurement ----


def _measured(config: Config) -> int:
    """How many times a test image passes through the net."""
    return len(places(config.size, config.side, config.step)) + 2 * (config.epochs + 1)


def work(config: Config) -> int:
    """How long a cell takes, in images passed through the net; training counts three times."""
    return trained.work(config) + _measured(config) * config.test_images


def run(config: Config, tick: trained.Tick) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train one net at one place, and measure it at all, and at deformed images.

    Beside what `shifts.measure` returns there are cosine distances [epochs + 1, layers, images]:
    `moved`, of an image from its deformed copy, and `apart`, from the next image.
    """
    split = _split(config)
    net = _net(config, split.classes)
    seen, images = (_at_home(x, config) for x in (split.train_images, split.test_images))
    bent = _at_home(_bent(split.test_images, config), config)
    moved, apart = [], []

    def watch(epochs: int, params: train.Params) -> None:
        here, there = (layers(net, params, x) for x in (images, bent))
        moved.append([cosine_distance(a, b) for a, b in zip(here, there, strict=True)])
        apart.append([cosine_distance(a, np.roll(a, 1, 0)) for a in here])
        tick(2 * len(images), None)

    params, losses = trained.fit(config, net, seen, split.train_labels, tick, watch=watch)
    grid = places(config.size, config.side, config.step)
    probe = slice(config.probe_images)

    def at(x: np.ndarray, where: np.ndarray, tick: Callable[[int], None]) -> dict[str, np.ndarray]:
        return shifts.measure(net, params, x, where, tick, family="zero_fill")

    arrays = {
        "places": grid,
        **at(images, grid, lambda count: tick(count, None)),
        "labels": split.test_labels.astype(np.uint8),
        "images": split.test_index.astype(np.int32),
        "train_predictions": at(seen[probe], grid[:1], lambda count: None)["predictions"][0],
        "train_labels": split.train_labels[probe].astype(np.uint8),
        "moved": np.array(moved, np.float32),
        "apart": np.array(apart, np.float32),
    }
    return arrays, {"losses": losses}


def layers(net: Net, params: train.Params, images: np.ndarray) -> list[np.ndarray]:
    """What each of `LAYERS` says about N images, [N, features].

    A block ends behind its reduction, where that is a convolution behind the ReLU.
    """
    maps = shifts.layers(net, params, jnp.asarray(images))
    ends = {name.rpartition("_")[2]: x for name, x in maps.items() if "/" not in name}
    blocks = [np.maximum(x, 0) for _, x in sorted(ends.items())]
    found = [images, *blocks, blocks[-1].mean((1, 2))]
    return [np.asarray(x).reshape(len(images), -1) for x in found]


def cosine_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 - cos of the angle between rows, [N]; 1 where a row is 0."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return 1 - (a * b).sum(1) / np.where(norms > 0, norms, 1)


# ---- the numbers ----


def accuracy_map(cell: Cell) -> np.ndarray:
    """The share of the test images called right at each place, [down, right]."""
    right = cell.arrays["predictions"] == cell.arrays["labels"]
    side = int(np.sqrt(len(right)))
    return right.mean(1).reshape(side, side)


def stability(cell: Cell) -> np.ndarray:
    """How far a deformation moves each layer, [epochs + 1, layers]; 1: as far as another."""
    moved, apart = (np.median(cell.arrays[name], axis=-1) for name in ("moved", "apart"))
    return moved / np.where(apart > 0, apart, np.nan)


def _multiples(cell: Cell) -> np.ndarray:
    """Which places are multiples of the stride of the whole net, as home is, bool [K]."""
    return ~(cell.arrays["places"] % 2 ** len(cell.config["widths"])).any(1)


def numbers(cell: Cell) -> dict[str, float]:
    """All that is said of a stored cell, from its raw predictions and distances.

    Places at multiples of the stride of the whole net do not count as elsewhere, whatever the
    borders: with circular ones, they are as home by theorem.
    """
    arrays, every = cell.arrays, accuracy_map(cell).ravel()
    elsewhere = ~_multiples(cell)
    home, away = float(every[0]), every[elsewhere]
    before, *_, after = stability(cell)
    chance = 1 / arrays["logits"].shape[-1]
    return {
        "home": home,
        "train": float((arrays["train_predictions"] == arrays["train_labels"]).mean()),
        "elsewhere": float(away.mean()),
        "worst": float(min(home, away.min())),
        "kept": float((away.mean() - chance) / (home - chance)) if home > chance else np.nan,
        "same": float((arrays["predictions"][elsewhere] == arrays["predictions"][0]).mean()),
        **{f"before {name}": float(x) for name, x in zip(LAYERS, before, strict=True)},
        **{f"after {name}": float(x) for name, x in zip(LAYERS, after, strict=True)},
    }


# ---- what is exact ----


def _equal_places(cell: Cell) -> np.ndarray:
    """At which places the answers must be those at home, bool [K]."""
    pooling, kind = _parts(cell.variant)
    if kind.padding != "CIRCULAR":
        return np.zeros(len(cell.arrays["places"]), bool)
    return pooling.exact | _multiples(cell)


def changed(cell: Cell) -> np.ndarray:
    """Which images are called otherwise at some place where they must not be, bool [N]."""
    found = cell.arrays["predictions"]
    return (found[_equal_places(cell)] != found[0]).any(0)


def check(cell: Cell) -> list[str]:
    """The exact statements that a stored cell breaks, as sentences; none if all is well."""
    arrays, config, broken = cell.arrays, cell.config, []
    if not np.array_equal(arrays["places"], places(config["size"], config["side"], config["step"])):
        return ["its places are not those of the grid"]
    if count := changed(cell).sum():
        broken.append(f"{count} images are called otherwise at places where they must not be")
    broken += trained.unsound(arrays, "answers at home")
    distances = np.stack([arrays["moved"], arrays["apart"]])
    if not ((distances > -ROUNDING) & (distances < 2 + ROUNDING)).all():
        broken.append("its distances are not those of angles")
    return broken


ROUNDING = 1e-6
"""Of cosines in float32."""


# ---- the report ----


def _ratio(values: np.ndarray) -> str:
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"


COLUMNS = (
    Column("home", "at home", "Test images called right at the place of training."),
    Column(
        "elsewhere",
        "elsewhere",
        "The same, mean over all other places but those at multiples of 8 pixels.",
    ),
    Column(
        "kept",
        "kept",
        "The accuracy elsewhere over that at home, both beyond chance: 0 where a net guesses.",
    ),
    Column("worst", "worst place", "The same, at the place where it is least, home or elsewhere."),
    Column("same", "same answer", "Images elsewhere that are called the same as at home."),
    Column("train", "train", "Training images (the first 512) that are called right."),
)

STABILITY = tuple(
    Column(
        f"{when} {name}",
        f"{name}, {when}",
        f"The effect of a deformation, {when} training, on the {name}.",
        on_terminal=name in LAYERS[-2:],
        show=_ratio,
    )
    for name in LAYERS[1:]
    for when in WHEN
)

METHOD = (
    "Each net has three blocks of convolution 3x3, ReLU and a reduction by 2, then a global "
    "average, except where said, and one dense layer. The nets of one seed start from the same "
    "parameters and see the same images in the same order. Pictures of 16 pixels lie on a black "
    "canvas; they are shrunk to that by averages where they are larger. Training sees them in the "
    "top left corner only.",
    NAMES,
    "A place is how far the picture is from there. With circular borders and three reductions by 2 "
    "the answer depends on it only modulo 8 pixels; with polyphase sampling it does not at all. "
    "So places at multiples of 8 pixels test the theorem and say nothing of a pooling: whatever "
    "the borders, they do not count as elsewhere. "
    "With zeros outside the canvas a convolution sees the border, and what it saw in the corner "
    "is not there elsewhere.",
    "A deformation reads each test picture at its pixels plus a smooth random field of its own, of "
    "Fourier modes of up to 2 periods along each axis without the mean, at 1 pixel root mean "
    "square; between pixels it is linear. The picture is shrunk after that. Its effect on a "
    "layer is the median cosine distance of the maps of an image and its copy, over the median "
    "cosine distance of the maps of two images. Maps are taken behind the reduction, so they "
    "differ in nothing but that. Those of polyphase sampling jump by a whole element where a "
    "deformation makes another phase the largest, which an average over the map does not see.",
    "Training is short and the same for all. A reduction that learns slowly (low accuracy on the "
    "training images) has not shown what it can reach. Digits of MNIST all fill the same rows, so "
    "accuracy may depend on the place down more than on that to the right.",
)


def section(found: Sequence[Cell]) -> Section:
    """Maps of accuracy over places, and the effect of deformations layer by layer."""
    config = found[0].config
    shown = by_variant(found, {name: _parts(name)[0].title for name in VARIANTS}, numbers)
    seeds = seeds_of(found)
    n = f"{seeds}, {config['test_images']} test images, {len(found[0].arrays['places'])} places"
    sheets = [
        Sheet(kind, KINDS[kind].title, COLUMNS, of) for kind in KINDS if (of := _of(shown, kind))
    ]
    sheets += [
        Sheet(f"stability-{kind}", f"Deformations. {KINDS[kind].title}", STABILITY, of, "")
        for kind in KINDS
        if (of := _of(shown, kind))
    ]
    return Section(
        question=QUESTION,
        answer=_answer(shown),
        pictures=[_maps(found, shown, n), *_lines(found, seeds)],
        sheets=sheets,
        size=f"{n}; {counted(config['epochs'], 'epoch')} of {config['train_images']:,} training "
        f"images in batches of {config['batch']}. Mean ± standard deviation over seeds.",
        claims=_claims(found, shown),
        method=METHOD,
    )


def _of(shown: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in shown if row.variant.endswith(f"@{kind}")]


def _answer(rows: Sequence[Row]) -> str:
    """One sentence about places and one about deformations, from the numbers."""
    of = {kind: some for kind in KINDS if (some := _of(rows, kind))}
    carried = [f"{_ends(some)} ({KINDS[kind].title.lower()})" for kind, some in of.items()]
    effects = [
        f"{row.title} "
        + " and ".join(f"{row.values[f'{when} {LAST}'].mean():.2f}" for when in WHEN)
        for row in next(iter(of.values()))
    ]
    return (
        "Of their accuracy beyond chance at the place of training, nets keep elsewhere, not "
        f"counting multiples of 8 pixels, {'; '.join(carried)}. "
        "A deformation moves the last maps by this share of the distance to another image, before "
        f"and after training: {', '.join(effects)}."
    )


def _ends(rows: Sequence[Row]) -> str:
    """The poolings with which least and most carries over."""
    shares = {row.title: float(row.values["kept"].mean()) for row in rows}
    ends = dict.fromkeys(pick(shares, key=shares.__getitem__) for pick in (min, max))
    return " to ".join(f"{100 * shares[title]:.0f} % with {title}" for title in ends)


LAST = "block 3"

PICTURED = ("stride", "max", "maxblur3")
"""The poolings whose maps are drawn, on a phone the last two; where none is there, others are."""


def _maps(found: Sequence[Cell], rows: Sequence[Row], n: str) -> Picture:
    told = [(kind, of) for kind in KINDS if (of := _of(rows, kind))]
    there = [name for name in nets.VARIANTS if any(c.variant.split("@")[0] == name for c in found)]
    pictured = [name for name in PICTURED if name in there] or there[: len(PICTURED)]
    by = {
        (pooling, kind): np.mean([accuracy_map(cell) for cell in of], axis=0)
        for kind in KINDS
        for pooling in pictured
        if (of := [cell for cell in found if cell.variant == f"{pooling}@{kind}"])
    }

    def draw(narrow: bool) -> Any:
        from experiments import figures

        shown = {
            f"{nets.VARIANTS[pooling].title},\n{KINDS[kind].short}": values
            for (pooling, kind), values in by.items()
            if not narrow or pooling != pictured[0] or len(by) <= len(PICTURED)
        }
        return figures.maps(
            list(shown),
            list(shown.values()),
            x="place, pixels to the right",
            y="place, pixels down",
            label="test images called right (%)",
            step=found[0].config["step"],
            narrow=narrow,
        )

    return Picture(
        "maps",
        "Accuracy over the place of test",
        "The share of the test images called right at each place; all nets were trained at the top "
        f"left one. Below each name, the mean over all places, among them those at multiples of 8 "
        f"pixels, which the tables leave out. Zeros: outside the canvas; flat: without a global "
        f"average. Mean over {n}.",
        draw,
        "; ".join(f"{KINDS[kind].title}, {extremes(means(of, 'elsewhere'))}" for kind, of in told)
        + ".",
    )


def _lines(found: Sequence[Cell], seeds: str) -> list[Picture]:
    """The effect of deformations over the layers, and over the epochs, of the first kind of net."""
    kind = next(kind for kind in KINDS if any(cell.variant.endswith(kind) for cell in found))
    mean = {
        pooling: np.mean([stability(cell) for cell in of], axis=0)
        for pooling in nets.VARIANTS
        if (of := [cell for cell in found if cell.variant == f"{pooling}@{kind}"])
    }
    depth, epochs = np.arange(len(LAYERS)), np.arange(len(next(iter(mean.values()))))
    by_layer = {
        f"{when} training": {name: (depth, x[row]) for name, x in mean.items()}
        for when, row in (("before", 0), ("after", -1))
    }
    by_epoch = {
        name: {pooling: (epochs, x[:, LAYERS.index(name)]) for pooling, x in mean.items()}
        for name in (LAST, "global average")
    }
    what = "The effect of a deformation of 1 pixel: 1 is as far as to another image."
    n = f"{KINDS[kind].title}; mean over {seeds}."
    return [
        _picture(
            "layers",
            "The effect of deformations, layer by layer",
            f"{what} 0 is the image, 1 to 3 are the blocks, 4 is the global average. {n}",
            by_layer,
            "layer",
        ),
        _picture(
            "epochs",
            "The effect of deformations, through training",
            f"{what} {n}",
            by_epoch,
            "epochs of training",
        ),
    ]


def _picture(
    name: str,
    alt: str,
    caption: str,
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    x: str,
) -> Picture:
    def draw(narrow: bool) -> Any:
        from experiments import figures

        drawn = {
            title: {
                nets.VARIANTS[pooling].title: figures.Curve(
                    line, line, list(nets.VARIANTS).index(pooling)
                )
                for pooling, line in lines.items()
            }
            for title, lines in panels.items()
        }
        return figures.curves(
            drawn, x, "effect of a deformation", least=0, log_y=False, narrow=narrow
        )

    return Picture(name, alt, caption, draw)


# ---- what was expected ----


def _claims(found: Sequence[Cell], rows: Sequence[Row]) -> list[Claim]:
    """What the header expects, and what is stored."""
    of = {kind: _of(rows, kind) for kind in KINDS}
    claims = [_carried(kind, some) for kind, some in of.items() if some]
    claims += _borders(of["circular"], of["zero"])
    first = next(filter(None, of.values()))
    for layer in LAYERS[-2:]:
        claims += _deformations(first, layer)
    exact = [cell for cell in found if _equal_places(cell).any()]
    return claims + ([_never(exact)] if exact else [])


def _carried(kind: str, rows: Sequence[Row]) -> Claim:
    shares = [float(row.values["kept"].mean()) for row in rows]
    flat, title = KINDS[kind].flat, KINDS[kind].title
    return Claim(
        f"{title}: elsewhere there is {'less' if flat else 'more'} than half of the accuracy at "
        "home, beyond chance, for every pooling",
        f"{round(100 * min(shares))} % to {round(100 * max(shares))} %."
        if np.isfinite(shares).all()
        else "some nets are no better than a guess at home.",
        stats.every(
            (share < 0.5 if flat else share > 0.5) if np.isfinite(share) else None
            for share in shares
        ),
        after("Kauderer-Abrams 2017; Biscione and Bowers 2020"),
    )


def _borders(circular: Sequence[Row], zero: Sequence[Row]) -> list[Claim]:
    """Circular borders against zeros, seed by seed; nothing where no net has a twin."""
    theirs = {row.title: row.by_seed("kept") for row in zero}
    pairs = [
        pair
        for row in circular
        for pair in stats.paired(row.by_seed("kept"), theirs.get(row.title, {}))
        if np.isfinite(pair)
    ]
    held = sum(pair > 0 for pair in pairs)
    claim = Claim(
        "More carries over with circular borders than with zeros, for every pooling and seed",
        f"in {held} of {len(pairs)} pairs of nets.",
        held == len(pairs),
        after("Kayhan and van Gemert 2020"),
    )
    return [claim] if pairs else []


def _deformations(rows: Sequence[Row], layer: str) -> list[Claim]:
    """Poolings against strided convolution at a layer, before and after training. Polyphase
    sampling is not among them: where it takes another phase, maps jump."""
    base = [row for row in rows if row.variant.startswith("stride@")]
    others = [row for row in rows if not row.variant.startswith("stride@")]
    others = [row for row in others if not _parts(row.variant)[0].exact]
    if not base or not others:
        return []
    kind = f"{layer.capitalize()}, {_parts(base[0].variant)[1].short}"
    before, after = (_against_stride(base[0], others, f"{when} {layer}") for when in WHEN)
    ahead = [row for row in others if before[row.title].lower]
    return [
        _effect(
            f"{kind}: before training, every pooling is more stable than strided convolution",
            base[0].values[f"before {layer}"],
            before,
            stats.every(each.lower for each in before.values()),
        ),
        _effect(
            f"{kind}: after training, no pooling is more stable than strided convolution",
            base[0].values[f"after {layer}"],
            after,
            stats.every(each.higher for each in after.values()),
        ),
        *([_taken(kind, base[0], ahead, layer)] if ahead else []),
    ]


RUDERMAN = "Ruderman et al. 2018"


def _against_stride(base: Row, others: Sequence[Row], key: str) -> dict[str, stats.Difference]:
    """An effect, of each pooling minus strided convolution, by title."""
    values = {row.title: row.by_seed(key) for row in [base, *others]}
    return stats.against(values, base.title)


def _taken(kind: str, base: Row, ahead: Sequence[Row], layer: str) -> Claim:
    """Whether poolings come nearer to strided convolution in training, as a share of its effect:
    all effects shrink, and so do their differences."""
    old, new = (
        {row.title: _relative(row, base, f"{when} {layer}") for row in ahead} for when in WHEN
    )
    found = stats.corrected({title: stats.difference(new[title], old[title]) for title in old})

    def mean(values: Mapping[int, float]) -> str:
        return f"{np.mean(list(values.values())):.2f}"

    said = (
        f"{title} {mean(old[title])} to {mean(new[title])}{_p(each)}"
        for title, each in found.items()
    )
    return Claim(
        f"{kind}: where pooling starts more stable, training takes some of that away",
        f"{', '.join(said)} times the effect with strided convolution.",
        stats.every(each.higher for each in found.values()),
        RUDERMAN,
    )


def _relative(row: Row, base: Row, key: str) -> dict[int, float]:
    """An effect over that of a base, of the seeds that both have."""
    ours, theirs = (each.by_seed(key) for each in (row, base))
    return {seed: ours[seed] / theirs[seed] for seed in sorted(ours.keys() & theirs.keys())}


def _effect(
    expected: str, base: np.ndarray, found: Mapping[str, stats.Difference], holds: bool | None
) -> Claim:
    said = ", ".join(f"{title} {_difference(each)}" for title, each in found.items())
    return Claim(
        expected,
        f"strided convolution {_ratio(base)}; from there {said}.",
        holds,
        RUDERMAN,
    )


def _difference(found: stats.Difference) -> str:
    return f"{number(found.mean, 2, '+')}{_p(found)}"


def _p(found: stats.Difference) -> str:
    return "" if found.adjusted is None else f" (p = {found.adjusted:.2g})"


def _never(found: Sequence[Cell]) -> Claim:
    """No answer changes where none may; images are independent, places are not."""
    return Claim(
        "Circular borders: at multiples of 8 pixels, with APS at every place, the answer is that "
        "at home",
        f"{trained.of_images(found, changed)} images were called otherwise in at least one net.",
        not any(changed(cell).any() for cell in found),
        "exact for three reductions by 2; Chaman and Dokmanic 2021",
    )
