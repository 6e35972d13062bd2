"""What the experiments that train small nets share: their settings, one training, exact checks.

An experiment adds the fields that it needs to `Config` and `Preset`, and measures what `fit` gives.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments import config as configs
from experiments import data, metrics, stats, train
from experiments.nets import Net
from experiments.report import Claim
from experiments.store import Cell

Tick = Callable[[int, float | None], None]
"""Called with the work done since the last call, and with the loss if it is known."""


@dataclass(frozen=True, kw_only=True)
class Config(configs.Config):
    """What every training depends on: `epochs`, or less with a `target_loss` (see `train.fit`)."""

    train_images: int
    test_images: int
    epochs: int
    target_loss: float = 0.0
    batch: int = 128
    learning_rate: float = 3e-3
    widths: tuple[int, ...] = (16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How large a study is: everything but the variant and the seed."""

    about: str
    data: str
    seeds: int
    train_images: int
    test_images: int
    epochs: int
    target_loss: float = 0.0
    batch: int = 128
    widths: tuple[int, ...] = (16, 32, 64)
    variants: tuple[str, ...]


def split(config: Config, size: int) -> data.Split:
    """The images of a cell, padded to this size."""
    return data.split(
        config.data,
        size=size,
        train=config.train_images,
        test=config.test_images,
        seed=config.seed,
    )


def work(config: Config, images: int = 0) -> int:
    """How long training takes, in images passed through the net: each counts three times."""
    images = images or config.train_images
    return 3 * config.epochs * (images // config.batch) * config.batch


def fit(
    config: Config, net: Net, images: np.ndarray, labels: np.ndarray, tick: Tick, **how: Any
) -> tuple[train.Params, list[float]]:
    """Train a net as its cell says; `how` goes to `train.fit`."""
    return train.fit(
        net,
        images,
        labels,
        epochs=config.epochs,
        batch=config.batch,
        learning_rate=config.learning_rate,
        seed=config.seed,
        target=config.target_loss,
        tick=lambda images, loss: tick(3 * images, loss),
        **how,
    )


NETS = (
    "Each net has three blocks of convolution 3x3, ReLU and a reduction by 2, then a global "
    "average and one dense layer. The nets of one seed start from the same parameters and see the "
    "same images in the same order."
)
"""What is said of the nets wherever they are shown."""


def length(cells: Sequence[Cell]) -> str:
    """What is said of how long the nets were trained, and whether they have learned as much."""
    target, known = cells[0].config["target_loss"], defaultdict(list)
    for cell in cells:
        if "train_labels" in cell.arrays:
            right = cell.arrays["train_predictions"] == cell.arrays["train_labels"]
            known[cell.variant].append(right.mean())
    said = "Training is short and the same for all: what learns slowly has not shown its best."
    if target:
        late = sum(
            min(cell.facts.get("losses", [])[: -train.DOWN], default=np.inf) > target
            for cell in cells
        )
        said = (
            "Every net is trained at a constant rate until the mean loss of an epoch, of images as "
            f"it sees them, is at most {target:g}, then down along a cosine: what learns slowly is "
            f"trained for longer. {late} of {len(cells)} nets ran out of epochs before."
        )
    if not known:
        return said
    low, high = (100 * found(map(np.mean, known.values())) for found in (min, max))
    return (
        f"{said} On average over seeds, nets are right on {low:.0f} to {high:.0f} % of their "
        "training images."
    )


def size(config: Mapping[str, Any]) -> str:
    """How much a stored cell was trained, in words."""
    epochs = f"{config['epochs']} epochs of {config['train_images']:,} training images"
    if not config["target_loss"]:
        return f"{epochs} in batches of {config['batch']}"
    return (
        f"at most {epochs} in batches of {config['batch']}, until the mean loss of one is "
        f"{config['target_loss']:g}, and {train.DOWN} more"
    )


def measured(cell: Cell) -> metrics.Metrics:
    """All metrics of a stored cell, from its raw predictions."""
    names = ("predictions", "labels", "train_predictions", "train_labels")
    return metrics.measure(*(cell.arrays[name] for name in names), top=cell.arrays.get("top"))


# ---- what is exact ----


def moved(arrays: Mapping[str, np.ndarray], periods: np.ndarray, *, exact: bool) -> list[str]:
    """What shifts change though they must not, as sentences: by `periods`, or any if `exact`."""
    broken = []
    if not np.array_equal(arrays["period_shifts"], periods):
        broken.append("its test shifts are not all the multiples of the period")
    changed = (arrays["period_predictions"] != arrays["predictions"][0]).sum()
    if changed:
        broken.append(f"{changed} answers change at shifts by multiples of the period")
    changed = (arrays["predictions"] != arrays["predictions"][0]).sum()
    if changed and exact:
        broken.append(f"{changed} answers change with the shift, though none may")
    return broken


def unsound(arrays: Mapping[str, np.ndarray], answers: str = "unshifted answers") -> list[str]:
    """What is wrong with the logits of the first predictions, as sentences."""
    broken = []
    if not np.isfinite(arrays["logits"]).all():
        broken.append("its logits are not finite")
    if not np.array_equal(arrays["logits"].argmax(-1), arrays["predictions"][0]):
        broken.append(f"its {answers} are not the largest logits")
    return broken


def never(cells: Sequence[Cell], name: str, expected: str, source: str) -> list[Claim]:
    """Whether the answers of that name are those of the unshifted images; nothing without cells."""
    if not cells:
        return []

    def changed(cell: Cell) -> np.ndarray:
        return cell.arrays[name] != cell.arrays["predictions"][0]

    answers = sum(int(changed(cell).sum()) for cell in cells)
    asked = sum(cell.arrays[name].size for cell in cells)
    images = of_images(cells, lambda cell: changed(cell).any(0))
    observed = (
        f"{answers:,} of {asked:,} answers changed; images with one that did in at least one net: "
        f"{images}."
    )
    return [Claim(expected, observed, not answers, source)]


def of_images(cells: Sequence[Cell], failed: Callable[[Cell], Any]) -> str:
    """How many images fail in at least one net, an image counted once: several nets see it."""
    found: dict[int, bool] = defaultdict(bool)
    for cell in cells:
        for image, now in zip(cell.arrays["images"].tolist(), failed(cell), strict=True):
            found[image] |= bool(now)
    return failures(sum(found.values()), len(found))


def failures(k: int, n: int) -> str:
    """3 of 768 (0.081 to 1.1 %): with the exact interval, of trials that are independent."""
    low, high = stats.clopper_pearson(k, n)
    ends = (f"{100 * end:.2g}" if end < 0.995 else "100" for end in (low, high))
    return f"{k:,} of {n:,} ({' to '.join(ends)} %)"
