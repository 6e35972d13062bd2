"""Shifted images, and what a net says about them.

A shift is (down, right) in pixels, by which the content of an image moves. Its family says what
comes in on the other side:

    roll         what left; the family of the exact theory below
    zero_fill    black
    crop         what lies there: the window moves over a larger image, from its centre
    fractional   what left, for parts of a pixel: each frequency is given another phase, which
                 interpolates by sinc (`data.glyphs` draws letters anew instead)

The exact theory:

    In a net of circular convolutions and L reductions by 2, followed by a global pooling, the
    answer depends on a roll only modulo 2^L.

So with L = 3 the 64 shifts of `exhaustive(8)` stand for all 1,024 shifts of a 32x32 image, each
for 16 of them, and averages over the 64 are averages over the 1,024 without sampling noise.
`multiples(8, 32)` are the shifts at which the statement itself is tested.

Where there are several devices, `spread` measures as many shifts at a time, one on each.

`PROTOCOLS` are those of the papers. They draw shifts at random; here all of them are measured, and
what would be seen on average is computed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments import metrics, periodic
from experiments.config import EXHAUSTIVE, UserError, choose
from experiments.nets import apply

BATCH = 128


# ---- which shifts ----


def exhaustive(period: int) -> np.ndarray:
    """Every shift within one period, int32 [period^2, 2], row by row; the first one is (0, 0)."""
    return np.argwhere(np.ones((period, period))).astype(np.int32)


def multiples(period: int, size: int) -> np.ndarray:
    """Every multiple of the period in an image of this size, (0, 0) left out."""
    return exhaustive(size // period)[1:] * np.int32(period)


def signed(shifts: np.ndarray, period: int) -> np.ndarray:
    """The same shifts modulo the period, each the shortest way: 7 of 8 is -1."""
    return (shifts + period // 2) % period - period // 2


@dataclass(frozen=True)
class Protocol:
    """How a paper measures consistency: `low` to `high` pixels along each axis, of `of` pixels.

    `samples` shifts are drawn independently, and must all agree; with 0, each shift is compared
    with the unshifted image. Where `of` is 0, the shifts are not scaled to the size of the image.
    """

    name: str
    family: str
    low: int
    high: int
    of: int
    samples: int
    source: str

    def span(self, size: int) -> tuple[int, int]:
        """`low` and `high` for images of this size; what was not 0 does not become 0."""

        def scaled(pixels: int) -> int:
            near = max(1, round(abs(pixels) * size / self.of)) if pixels and self.of else pixels
            return -near if pixels < 0 < self.of else near

        low, high = scaled(self.low), scaled(self.high)
        # A crop starts `high - low` pixels from the border at most; the middle one is unshifted.
        return ((high - low) // 2 - (high - low), (high - low) // 2) if self.crops else (low, high)

    @property
    def crops(self) -> bool:
        return self.family == "crop"

    def margin(self, size: int) -> int:
        """How much larger than `size` the images must be."""
        low, high = self.span(size)
        return high - low if self.crops else 0

    def shifts(self, size: int) -> np.ndarray:
        """All shifts, int32 [K, 2]; the first one is (0, 0), also where it is not one of them."""
        low, high = self.span(size)
        grid = exhaustive(high - low + 1) + np.int32(low)
        others = grid[grid.any(axis=1)]
        return np.concatenate([np.zeros((1, 2), np.int32), others])

    def consistency(self, predictions: np.ndarray) -> float:
        """What the paper calls consistency, from the predictions at `shifts`."""
        drawn = slice(None if self.low <= 0 <= self.high else 1, None)
        if self.samples:
            return metrics.all_agree(predictions[drawn], self.samples)
        return float(metrics.agreement(predictions)[drawn].mean())

    def title(self, size: int) -> str:
        """In words, with the scale."""
        low, high = self.span(size)
        papers = f"{self.low}..{self.high} of {self.of} pixels, here " if self.of else ""
        against = f"{self.samples} agree" if self.samples else "against the unshifted"
        return f"{self.name}: {self.family} {papers}{low}..{high} of {size}, {against}"


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("zhang", "crop", 0, 31, 224, 2, "Zhang 2019"),
        Protocol("chaman-cifar", "roll", -3, 2, 32, 2, "Chaman and Dokmanic 2021"),
        Protocol("chaman-imagenet", "roll", -32, 31, 224, 2, "Chaman and Dokmanic 2021"),
        Protocol("lps", "roll", -32, 31, 224, 2, "Rojas-Gomez et al. 2022"),
        Protocol("alias-free", "roll", 1, 31, 224, 0, "Michaeli et al. 2023"),
        Protocol(EXHAUSTIVE, "roll", 0, 7, 0, 0, "all shifts, modulo the period"),
    )
}


def protocol(name: str, *, period: int = 8, samples: int | None = None) -> Protocol:
    """A protocol by its name.

    Args:
      name: one of `PROTOCOLS`.
      period: how far `exhaustive` goes: 2^L for L reductions by 2.
      samples: for another number of shifts that must agree, such as the m of `lps`.
    """
    found = PROTOCOLS[choose("protocol", name, PROTOCOLS)]
    if name == EXHAUSTIVE:
        found = replace(found, high=period - 1)
    return found if samples is None else replace(found, samples=samples)


# ---- shifting ----


def roll(images: jax.Array, shift: jax.Array) -> jax.Array:
    """Whole pixels; what leaves comes back."""
    return jnp.roll(images, shift, axis=(1, 2))


def zero_fill(images: jax.Array, shift: jax.Array) -> jax.Array:
    """Whole pixels; what leaves is lost, and black comes in."""
    height, width = images.shape[1:3]
    rows = jnp.arange(height, dtype=shift.dtype) - shift[0]
    columns = jnp.arange(width, dtype=shift.dtype) - shift[1]
    rows, columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    inside = rows[None, :, None, None] & columns[None, None, :, None]
    return jnp.where(inside, roll(images, shift), jnp.zeros_like(images))


def fractional(images: jax.Array, shift: jax.Array) -> jax.Array:
    """Any part of a pixel. A shift by whole pixels is `roll`, and a shift back undoes a shift.

    That does not hold for the highest frequency of an even side: half a pixel away it is invisible.
    """
    return periodic.moved(images, *shift, axes=(1, 2), xp=jnp)


def _crop(images: jax.Array, shift: jax.Array, size: int) -> jax.Array:
    """The window of this size, which moves against the shift from the centre of the images."""
    _, height, width, channels = images.shape
    top, left = (height - size) // 2 - shift[0], (width - size) // 2 - shift[1]
    return jax.lax.dynamic_slice(images, (0, top, left, 0), (images.shape[0], size, size, channels))


FAMILIES = {"roll": roll, "zero_fill": zero_fill, "fractional": fractional}


def move(images: jax.Array, shift: jax.Array, family: str, size: int) -> jax.Array:
    """Shift all images [N, height, width, channels] by one shift."""
    return _crop(images, shift, size) if family == "crop" else FAMILIES[family](images, shift)


def _possible(images: np.ndarray, shifts: np.ndarray, family: str, size: int) -> None:
    """Refuse what would silently be something else."""
    choose("family of shifts", family, [*FAMILIES, "crop"])
    if family != "fractional" and shifts.dtype.kind != "i":
        raise UserError(f"A {family} is by whole pixels: write family='fractional' for parts.")
    around = np.array(images.shape[1:3]) - size
    start = around // 2 - shifts
    if family == "crop" and ((start < 0) | (start > around)).any():
        raise UserError(
            f"The shifts of a crop go up to {np.abs(shifts).max()} pixels, but images of "
            f"{images.shape[1]}x{images.shape[2]} have not so much around {size}x{size}: "
            "pad them by the margin of the protocol."
        )


# ---- measuring ----


_devices: Sequence[jax.Device] = ()  # of all threads, which a context variable is not


@contextmanager
def spread(devices: Sequence[jax.Device]) -> Iterator[None]:
    """In here, `measure` runs the net at one shift on each of the devices at the same time."""
    global _devices
    before, _devices = _devices, devices
    try:
        yield
    finally:
        _devices = before


def _mesh() -> Mesh:
    """One axis, `shifts`: over the devices of `spread`, and otherwise over one device."""
    return Mesh(np.array(_devices or jax.local_devices()[:1]), "shifts")


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _logits(
    net: nn.Module,
    family: str,
    size: int,
    mesh: Mesh,
    params: Any,
    images: jax.Array,
    shifts: jax.Array,
) -> jax.Array:
    """The logits [devices, N, classes] at the shifts [devices, 2]; each device has all images."""

    def one(params: Any, images: jax.Array, shift: jax.Array) -> jax.Array:
        return apply(net, params, move(images, shift[0], family, size))[None]

    whole, split = PartitionSpec(), PartitionSpec("shifts")
    # No device needs another's values, so there is nothing to check about their exchange.
    each = jax.shard_map(
        one, mesh=mesh, in_specs=(whole, whole, split), out_specs=split, check_vma=False
    )
    return each(params, images, shifts)


def _in_batches(images: np.ndarray, where: NamedSharding) -> list[jax.Array]:
    """Equal batches, the last one filled with black images: one shape, one compilation."""
    missing = -len(images) % BATCH
    images = np.pad(images, ((0, missing),) + ((0, 0),) * (images.ndim - 1))
    return [jax.device_put(part, where) for part in np.split(images, len(images) // BATCH)]


def logits(net: nn.Module, params: Any, images: np.ndarray) -> np.ndarray:
    """The logits of the images as they are, float32 [N, classes]."""
    none = np.zeros((0, 2), np.int32)
    return measure(net, params, images, none)["logits"]


def predictions(
    net: nn.Module,
    params: Any,
    images: np.ndarray,
    shifts: np.ndarray,
    tick: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """The class that the net calls each image at each roll, uint8 [K, N]; see `measure`."""
    return measure(net, params, images, shifts, tick)["predictions"]


def measure(
    net: nn.Module,
    params: Any,
    images: np.ndarray,
    shifts: np.ndarray,
    tick: Callable[[int], None] = lambda count: None,
    *,
    family: str = "roll",
    size: int | None = None,
    classes: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """What the net says about N images at K shifts, as arrays to store.

    Args:
      net, params: the net.
      images: [N, height, width, channels].
      shifts: [K, 2], whole numbers unless the family is fractional.
      tick: called after every shift, or every few, with the number of images seen.
      family: how to shift.
      size: of the net's images, where crops are taken from larger ones.
      classes: one for each image, whose probability is wanted; what it is called unshifted if None.

    Returns:
      `logits` of the unshifted images, float32 [N, classes], and for every shift [K, N]:
      `predictions`, the class, uint8; `top`, the probability of the class that is wanted, float32;
      `distances`, how far the logits are from the unshifted ones, float32.
    """
    size = images.shape[1] if size is None else size
    _possible(images, shifts, family, size)
    mesh, count = _mesh(), len(images)
    everywhere = NamedSharding(mesh, PartitionSpec())
    params, parts = jax.device_put(params, everywhere), _in_batches(images, everywhere)

    def at(some: np.ndarray) -> np.ndarray:
        """The logits [shifts, N, classes]; devices without a shift repeat one."""
        filled = np.resize(some, (mesh.size, 2))
        each = [np.asarray(_logits(net, family, size, mesh, params, x, filled)) for x in parts]
        return np.concatenate(each, axis=1)[: len(some), :count]

    start = at(np.zeros((1, 2), shifts.dtype))[0]
    wanted = np.arange(count), start.argmax(-1) if classes is None else classes
    found = {
        "predictions": np.empty((len(shifts), count), np.uint8),
        "top": np.empty((len(shifts), count), np.float32),
        "distances": np.empty((len(shifts), count), np.float32),
    }
    for row in range(0, len(shifts), mesh.size):
        rows = slice(row, row + mesh.size)
        there = at(shifts[rows])
        found["predictions"][rows] = there.argmax(-1)
        found["top"][rows] = metrics.probabilities(there)[:, *wanted]
        found["distances"][rows] = np.linalg.norm(there - start, axis=-1)
        tick(len(there) * count)
    return {"logits": start, **found}


# ---- layer by layer ----


@cache
def _captured(net: nn.Module) -> tuple[Callable[..., list[jax.Array]], list[str]]:
    """A function that returns all feature maps, and their names, which its first call fills in."""
    names: list[str] = []

    @jax.jit
    def run(params: Any, images: jax.Array) -> list[jax.Array]:
        options: dict[str, Any] = {"capture_intermediates": True, "mutable": ["intermediates"]}
        _, state = net.apply(params, images, **options)
        flat: dict[Any, Any] = flatten_dict(state["intermediates"])
        maps = {"/".join(path[:-1]): x for path, (x,) in flat.items() if x.ndim == 4}
        names[:] = maps
        return list(maps.values())

    return run, names


def layers(net: nn.Module, params: Any, images: jax.Array) -> dict[str, jax.Array]:
    """The map [N, height, width, channels] that each module of a Linen net returns, in order."""
    run, names = _captured(net)
    maps = run(params, images)
    return dict(zip(names, maps, strict=True))


def equivariance(
    net: nn.Module, params: Any, images: np.ndarray, shift: tuple[float, float]
) -> dict[str, float]:
    """How far each layer F is from shifting with its input: ||F(Tx) - T F(x)||^2 / ||F(x)||^2.

    T is circular. On a map that is smaller than the image it shifts by as much less, by a Fourier
    phase where these are no whole pixels.
    """

    def moved(x: jax.Array) -> jax.Array:
        by = [s * side / whole for s, side, whole in zip(shift, x.shape[1:3], size, strict=True)]
        if all(s == int(s) for s in by):
            return roll(x, jnp.array(by, jnp.int32))
        return fractional(x, jnp.array(by, x.dtype))

    x, size = jnp.asarray(images), images.shape[1:3]
    here, there = layers(net, params, x), layers(net, params, moved(x))
    return {
        name: metrics.relative_error(np.asarray(there[name]), np.asarray(moved(y)), np.asarray(y))
        for name, y in here.items()
    }
