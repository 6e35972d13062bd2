"""Every number of the reports, computed from raw predictions [K shifts, N images].

With q_i(c) the share of the shifts at which image i is called c, and i(0) the unshifted image:

    pair        mean_i sum_c q_i(c)^2      two random shifts agree (Zhang 2019); no sampling
    reference   mean_i q_i(answer at i(0)) a random shift agrees with the unshifted image
                                           (after Azulay and Weiss 2019, who shift by one pixel)
    stable      share of the images with one answer at every shift
    worst_case  share of the images called right at every shift
    all_agree   mean_i sum_c q_i(c)^m      m random shifts all agree (Rojas-Gomez et al. 2022)
    probability_change                     mean over images and shifts of the absolute change of the
                                           probability of the class that is the first one unshifted
                                           (Azulay and Weiss 2019)

A classifier that always says "3" is perfectly consistent. Two numbers see through it:

    reference_when_right   `reference` over the images whose unshifted answer is right
    kappa                  (pair - e) / (1 - e), where e = sum_c (mean_i q_i(c))^2 is the agreement
                           of two shifted images drawn independently; 0 where e is 1

Beside the answers, there is how far the net itself moves: `sensitivity`, the distance of logits
over shifts as a share of the distance between images (Kauderer-Abrams 2017), and `relative_error`,
of a layer that should shift with its input.
"""

from dataclasses import asdict, dataclass

import numpy as np
from scipy.spatial.distance import pdist


@dataclass(frozen=True)
class Metrics:
    """Shares between 0 and 1.

    Kappa may be negative, `reference_when_right` NaN where no answer is right, and
    `probability_change` NaN where no probabilities were stored.
    """

    accuracy: float
    train_accuracy: float
    shifted_accuracy: float
    pair: float
    reference: float
    stable: float
    worst_case: float
    reference_when_right: float
    kappa: float
    probability_change: float

    def row(self) -> dict[str, float]:
        """The metrics by name."""
        return asdict(self)


def shares(predictions: np.ndarray) -> np.ndarray:
    """q: for each image, the share of the shifts at which it is given each class, [N, classes]."""
    classes = np.arange(int(predictions.max()) + 1)
    return (predictions[..., None] == classes).mean(axis=0)


def all_agree(predictions: np.ndarray, samples: int) -> float:
    """The probability that shifts, drawn independently, all agree; averaged over the images."""
    return float((shares(predictions) ** samples).sum(axis=-1).mean())


def pair_consistency(predictions: np.ndarray) -> float:
    """The probability that two shifts agree."""
    return all_agree(predictions, 2)


def agreement(predictions: np.ndarray) -> np.ndarray:
    """For each shift, the share of the images called the same as unshifted (the first row), [K]."""
    return (predictions == predictions[0]).mean(axis=1)


def kappa(predictions: np.ndarray) -> float:
    """Pair consistency, corrected for what a net with these habits reaches by chance."""
    chance = float((shares(predictions).mean(axis=0) ** 2).sum())
    return 0.0 if np.isclose(chance, 1) else (pair_consistency(predictions) - chance) / (1 - chance)


def reference_when_right(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Agreement with the unshifted answer, where that is right; NaN where it never is."""
    right = predictions[0] == labels
    return float(agreement(predictions[:, right]).mean()) if right.any() else float("nan")


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float64)
    return powers / powers.sum(axis=-1, keepdims=True)


def probability_change(top: np.ndarray) -> float:
    """From the probabilities [K, N] of the classes that are the first ones in the first row."""
    return float(np.abs(top - top[0]).mean())


def typical_distance(embeddings: np.ndarray) -> float:
    """The median distance between two of the images (of the first 512), from [N, features]."""
    return float(np.median(pdist(embeddings[:512])))


def sensitivity(distances: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """For each shift, how far it moves an image: 0 not at all, 1 as far as to another image, [K].

    Args:
      distances: of each image at each shift from itself unshifted, [K, N].
      embeddings: of the unshifted images, [N, features].
    """
    return distances.mean(axis=1) / typical_distance(embeddings)


def radial(
    shifts: np.ndarray, values: np.ndarray, *, square: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The mean over all shifts of about the same length, to whole pixels: lengths, means.

    Args:
      shifts: [K, 2], of either sign (`shifts.signed`).
      values: one per shift, [K].
      square: the length of a shift is the larger of its two parts, in whole pixels.
    """
    lengths = np.abs(shifts).max(1) if square else np.rint(np.hypot(*shifts.T)).astype(int)
    found = np.unique(lengths)
    return found, np.array([values[lengths == length].mean() for length in found])


def relative_error(there: np.ndarray, expected: np.ndarray, here: np.ndarray) -> float:
    """||there - expected||^2 / ||here||^2; 0 where nothing differs."""
    error = np.square(there - expected, dtype=np.float64).sum()
    return float(error / np.square(here, dtype=np.float64).sum()) if error else 0.0


def measure(
    predictions: np.ndarray,
    labels: np.ndarray,
    train_predictions: np.ndarray,
    train_labels: np.ndarray,
    top: np.ndarray | None = None,
) -> Metrics:
    """Compute all metrics; the first row of `predictions` belongs to the unshifted images.

    `top` are the probabilities [K, N] of the classes that are the first ones unshifted.
    """
    right = predictions == labels
    return Metrics(
        accuracy=float(right[0].mean()),
        train_accuracy=float((train_predictions == train_labels).mean()),
        shifted_accuracy=float(right.mean()),
        pair=pair_consistency(predictions),
        reference=float(agreement(predictions).mean()),
        stable=float((predictions == predictions[0]).all(axis=0).mean()),
        worst_case=float(right.all(axis=0).mean()),
        reference_when_right=reference_when_right(predictions, labels),
        kappa=kappa(predictions),
        probability_change=float("nan") if top is None else probability_change(top),
    )
