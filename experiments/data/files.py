"""Images in files of the usual formats: IDX, CIFAR, .npz, a folder of images for each class.

A file that is damaged, or whose labels do not fit its images, is named. It is left out only where
that was asked for.
"""

import gzip
import math
import pickle
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from experiments.config import UserError

CLASSES = 256
"""As many as predictions of one byte can name."""

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
HELD_OUT = re.compile(r"(^|[^a-z])(t10k|test|val|valid|validation)([^a-z]|$)", re.IGNORECASE)
"""What a file, folder or array that is not meant for training has in its name."""

FORMATS = (
    "IDX files (.gz or not), CIFAR-10 or CIFAR-100 batches (binary or python), .npz files, "
    "or a folder of images for each class"
)


class Images(NamedTuple):
    """uint8 images [N, height, width, channels], values 0..255, and int32 labels [N].

    The first `train` of them are those that the authors of the data train on; 0 where all are
    alike.
    """

    images: np.ndarray
    labels: np.ndarray
    train: int = 0

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1


class Part(NamedTuple):
    """Images and labels that belong together, and whether they are held out of training."""

    images: np.ndarray
    labels: np.ndarray
    held_out: bool


class Damaged(ValueError):
    """What is wrong with a file; whoever knows its name adds it."""


Reader = Callable[[Path], list[Part]]


def read(path: Path, *, skip: bool = False, side: int | None = None) -> Images:
    """Read a file, or all files of a folder.

    Args:
      path: a file or a folder.
      skip: leave out what is damaged, and say so.
      side: scale images of a folder per class to this size, and cut off what is not square.
    """
    if not path.exists():
        raise UserError(f"There is no file or folder {path}.")
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    for pattern, reader in READERS.items():
        mine = [file for file in inside if re.search(pattern, file.name) and file.is_file()]
        mine = [file for file in mine if not _unpacked_in(file, mine)]
        if mine:
            if side is not None:
                raise UserError(
                    f"--image-size scales pictures in folders, and hf:..., but {path} holds arrays:"
                    " leave it out, or scale them yourself."
                )
            return _join(path, usable(path, mine, reader, skip))
    pictures = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not pictures:
        raise UserError(f"There are no images in {path}: I looked for {FORMATS}.")
    return _classes(path, pictures, skip, side)


def _unpacked_in(file: Path, others: Sequence[Path]) -> bool:
    """Whether a packed file is there unpacked, too: some tools leave both."""
    return file.suffix == ".gz" and file.with_suffix("") in others


def _join(path: Path | str, files: Iterable[Sequence[Part]]) -> Images:
    """All parts together, those to train on first."""
    parts = sorted((part for file in files for part in file), key=lambda part: part.held_out)
    sizes = {part.images.shape[1:3] for part in parts}
    if len(sizes) > 1:
        raise UserError(
            f"The images in {path} have {len(sizes):,} sizes, from {_by(min(sizes))} to "
            f"{_by(max(sizes))}: bring those of a folder to one with --image-size 32."
        )
    channels = max(part.images.shape[-1] for part in parts)  # grey ones among colour get three
    wide = [np.broadcast_to(p.images, (*p.images.shape[:3], channels)) for p in parts]
    images = np.concatenate(wide)
    train = sum(len(part.labels) for part in parts if not part.held_out)
    labels = np.concatenate([part.labels for part in parts])
    if len(labels) and (labels == labels[0]).all():
        raise UserError(f"All images in {path} are of one class: name files with two or more.")
    return Images(images, labels, train if train < len(labels) else 0)


File = TypeVar("File", Path, str)


def usable(
    path: Path | str, files: Iterable[File], reader: Callable[[File], list[Part]], skip: bool
) -> list[list[Part]]:
    """Read each file; name those that cannot be used, and stop unless they may be skipped."""
    found, broken = [], []
    for file in files:
        try:
            found.append(reader(file))
        except Exception as error:  # on damaged bytes, decoders raise anything
            name = file.relative_to(path) if isinstance(file, Path) and file != path else file
            why = str(error) or type(error).__name__
            broken.append(why if file == path else f"{name} ({why})")
    if not broken:
        return found
    count = len(broken) + len(found)
    what = f"{len(broken):,} of {count:,} files of {path}" if count > 1 else path
    many = f"{what} cannot be used: "
    names = ", ".join(broken[:20]) + (f" and {len(broken) - 20:,} more" if broken[20:] else "")
    if not (skip and found):
        way = " Repair them, or leave them out with --skip-damaged." if found else ""
        raise UserError(f"{many}{names}.{way}")
    print(f"{many}{names}. They are left out.", file=sys.stderr)
    return found


def _held_out(name: str) -> bool:
    return HELD_OUT.search(name) is not None


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _part(images: np.ndarray, labels: np.ndarray, name: str) -> Part:
    """Bring images to uint8 [N, height, width, channels] and labels to int32 [N], if they fit."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not images.size or images.shape[-1] not in (1, 3):
        raise Damaged(f"its shape {_by(images.shape)} is not that of grey or colour images")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != images.shape[:1]:
        raise Damaged(f"{len(images):,} images, but labels of shape {_by(labels.shape) or 'none'}")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= CLASSES:
        raise Damaged(f"its labels are not whole numbers from 0 to {CLASSES - 1}")
    return Part(_bytes(images), labels.astype(np.int32), _held_out(name))


def _bytes(images: np.ndarray) -> np.ndarray:
    """Values 0..255 as they are; floating-point ones from 0 to 1 with 256 levels."""
    if images.dtype == np.uint8:
        return images
    most = {"b": 1, "i": 255, "u": 255, "f": 1}.get(images.dtype.kind, -1)
    if not (images.min() >= 0 and images.max() <= most):  # as for NaN
        raise Damaged("its pixels are neither whole numbers from 0 to 255 nor fractions up to 1")
    scale = 255 if most == 1 else 1
    return np.rint(images.astype(np.float64) * scale).astype(np.uint8)


# ---- IDX: two zero bytes, 8 for bytes, the number of axes, their lengths, the elements ----


def _idx(path: Path) -> np.ndarray:
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    if raw[:3] != b"\0\0\x08" or len(raw) < 4 * (1 + raw[3]):
        raise Damaged("no IDX file of bytes")
    shape = np.frombuffer(raw, ">u4", raw[3], 4).tolist()
    elements = np.frombuffer(raw, np.uint8, offset=4 * (1 + raw[3]))
    if elements.size != math.prod(shape):
        raise Damaged(f"it promises {math.prod(shape):,} bytes and holds {elements.size:,}")
    return elements.reshape(shape)


def _idx_pair(path: Path) -> list[Part]:
    """The images of this file, and the labels of the file beside it."""
    beside = re.sub("images", "labels", path.name).replace("idx3", "idx1").replace("idx4", "idx1")
    stem = beside.removesuffix(".gz")
    labels = [path.with_name(name) for name in (stem, f"{stem}.gz")]
    for file in labels:
        if file.exists():
            return [_part(_idx(path), _idx(file), path.name)]
    raise Damaged(f"its labels, {labels[0].name} or {labels[1].name}, are not beside it")


# ---- CIFAR: 32x32 pixels of red, then of green, then of blue ----

PIXELS = 3 * 32 * 32


def _cifar_binary(path: Path) -> list[Part]:
    """One label before each image; in CIFAR-100 two, the coarse one first."""
    raw = np.fromfile(path, np.uint8)
    labels = next((n for n in (1, 2) if raw.size and raw.size % (n + PIXELS) == 0), None)
    if labels is None:
        raise Damaged(f"{raw.size:,} bytes are no whole number of CIFAR images")
    rows = raw.reshape(-1, labels + PIXELS)
    return _cifar(rows[:, labels:], rows[:, labels - 1], 10 if labels == 1 else 100, path)


def _cifar_python(path: Path) -> list[Part]:
    """A pickled dictionary."""
    with path.open("rb") as file:
        batch = _Unpickler(file, encoding="bytes").load()
    batch = {key.decode() if isinstance(key, bytes) else key: batch[key] for key in batch}
    fine = "fine_labels" in batch
    labels = batch.get("fine_labels" if fine else "labels")
    if labels is None or "data" not in batch:
        raise Damaged("it holds no data or no labels")
    return _cifar(np.asarray(batch["data"]), np.asarray(labels), 100 if fine else 10, path)


def _cifar(rows: np.ndarray, labels: np.ndarray, classes: int, path: Path) -> list[Part]:
    part = _part(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels, path.name)
    if part.labels.max() >= classes:
        raise Damaged(f"label {part.labels.max()} is none of the {classes} of CIFAR-{classes}")
    return [part]


class _Unpickler(pickle.Unpickler):
    """Arrays only: a pickle can call anything, and this one comes from elsewhere."""

    def find_class(self, module: str, name: str) -> Any:
        core = ("numpy.core.multiarray", "numpy._core.multiarray")
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if module in core and name == "_reconstruct":
            return getattr(import_module("numpy._core.multiarray"), name)
        if (module, name) == ("_codecs", "encode"):
            return getattr(import_module(module), name)
        raise Damaged(f"it asks for {module}.{name}, which no CIFAR batch holds")


# ---- .npz ----

NAMES = ((r"images?|x|data", "images"), (r"labels?|y|targets?", "labels"))


def _npz(path: Path) -> list[Part]:
    """Arrays named images and labels, or x and y; with _train, train_, _test ... each such pair."""
    with np.load(path, allow_pickle=False) as arrays:
        found: dict[str, dict[str, str]] = {}
        for name in arrays.files:
            for pattern, role in NAMES:
                match = re.fullmatch(rf"(?:(\w+)_)?(?:{pattern})(?:_(\w+))?", name, re.IGNORECASE)
                if match:
                    found.setdefault(match[1] or match[2] or "", {})[role] = name
        pairs = [pair for pair in found.values() if len(pair) == 2]
        if not pairs:
            names = ", ".join(arrays.files)
            raise Damaged(
                f"no images and labels among its arrays {names}: name them images and labels, or x "
                "and y"
            )
        return [_part(arrays[p["images"]], arrays[p["labels"]], p["images"]) for p in pairs]


READERS: dict[str, Reader] = {
    r"images.*(idx|ubyte)": _idx_pair,
    r"^(data_batch_\d+|test_batch|train|test)\.bin$": _cifar_binary,
    r"^(data_batch_\d+|test_batch|train|test)$": _cifar_python,
    r"\.npz$": _npz,
}
"""What a file is called, and how it is read."""


# ---- images, a folder for each class ----


def picture(source: Any, side: int | None = None) -> np.ndarray:
    """Decode an image to uint8 [height, width, 1], or 3 where it has colours."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        opened = Image.open(source) if isinstance(source, Path) else source
    except UnidentifiedImageError:
        raise Damaged("no image of a known format") from None
    with opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise Damaged(f"pixels of mode {image.mode} have no known range")
        image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
        if side:
            image = ImageOps.fit(image, (side, side))
        pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _classes(path: Path, files: Sequence[Path], skip: bool, side: int | None) -> Images:
    """Images whose folder is their class."""
    names = sorted({file.parent.name for file in files if file.parent != path})
    if not 2 <= len(names) <= CLASSES:
        raise UserError(
            f"The images in {path} are of {len(names)} classes (each has a folder), "
            f"but must be of 2 to {CLASSES}."
        )

    def labelled(file: Path) -> list[Part]:
        if file.parent == path:
            raise Damaged("it is in no folder of a class")
        above = file.relative_to(path).parts[:-2]  # train/cat/1.png: cat is the class
        return _single(picture(file, side), names.index(file.parent.name), "/".join(above))

    return _join(path, usable(path, files, labelled, skip))


def _single(pixels: np.ndarray, label: int, name: str) -> list[Part]:
    return [_part(pixels[None], np.array([label]), name)]


# ---- Hugging Face ----


def hub(name: str, *, skip: bool = False, side: int | None = None) -> Images:
    """A data set of the hub, name or name:configuration, or one that was saved to a folder."""
    try:
        datasets = import_module("datasets")
    except ImportError:
        raise UserError(
            f"The data 'hf:{name}' needs the Python package datasets, which is not installed: "
            "run `pip install datasets`, or name files of your own with --data."
        ) from None
    repository, _, configuration = name.partition(":")
    try:
        saved = Path(name).exists()
        found = (
            datasets.load_from_disk(name)
            if saved
            else datasets.load_dataset(repository, configuration or None)
        )
    except Exception as error:  # of the network, the hub or the disk
        raise UserError(f"The data 'hf:{name}' cannot be loaded: {error}") from error
    splits = dict(found) if isinstance(found, dict) else {"train": found}
    image, label = _columns(name, next(iter(splits.values())).features)

    def labelled(name: str) -> list[Part]:
        split, _, number = name.rpartition("/")
        row = splits[split][int(number)]
        return _single(picture(row[image], side), row[label], split)

    rows = [f"{split}/{number}" for split in splits for number in range(len(splits[split]))]
    return _join(f"hf:{name}", usable(f"hf:{name}", rows, labelled, skip))


def _columns(name: str, features: Any) -> tuple[str, str]:
    """The columns of the images and of the labels."""
    kinds = {column: type(feature).__name__ for column, feature in features.items()}
    for kind in ("Image", "ClassLabel"):
        if kind not in kinds.values():
            columns = ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
            raise UserError(f"The data 'hf:{name}' has no column of kind {kind}: it has {columns}.")
    first = {kind: column for column, kind in reversed(kinds.items())}
    return first["Image"], first["ClassLabel"]
