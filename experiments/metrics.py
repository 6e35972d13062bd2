"""Every number of the reports, computed from raw predictions [K shifts, N images].

With q_i(c) the share of the shifts at which image i is called c, and i(0) the unshifted image:

    pair        mean_i sum_c q_i(c)^2      two random shifts agree (Zhang 2019); no sampling
    reference   mean_i q_i(answer at i(0)) a random shift agrees with the unshifted image
                                           (Azulay and Weiss 2019)
    stable      share of the images with one answer at every shift
    worst_case  share of the images called right at every shift

A classifier that always says "3" is perfectly consistent. Two numbers see through it:

    reference_when_right   `reference` over the images whose unshifted answer is right
    kappa                  (pair - e) / (1 - e), where e = sum_c (mean_i q_i(c))^2 is the agreement
                           of two shifted images drawn independently; 0 where e is 1
"""

from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Metrics:
    """Shares between 0 and 1 (kappa may be negative; `reference_when_right` may be NaN)."""

    accuracy: float
    train_accuracy: float
    shifted_accuracy: float
    pair: float
    reference: float
    stable: float
    worst_case: float
    reference_when_right: float
    kappa: float

    def row(self) -> dict[str, float]:
        """The metrics by name."""
        return asdict(self)


def shares(predictions: np.ndarray) -> np.ndarray:
    """q: for each image, the share of the shifts at which it is given each class, [N, classes]."""
    classes = np.arange(int(predictions.max()) + 1)
    return (predictions[..., None] == classes).mean(axis=0)


def pair_consistency(predictions: np.ndarray) -> float:
    """The probability that two shifts, drawn independently, agree; averaged over the images."""
    return float((shares(predictions) ** 2).sum(axis=-1).mean())


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


def measure(
    predictions: np.ndarray,
    labels: np.ndarray,
    train_predictions: np.ndarray,
    train_labels: np.ndarray,
) -> Metrics:
    """Compute all metrics; the first row of `predictions` belongs to the unshifted images."""
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
    )
