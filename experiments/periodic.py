"""Periodic maps [..., size, size]: scaled, low-passed, shifted by any distance, compared."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np


def normal(x: np.ndarray) -> np.ndarray:
    """Scale every map to 0..1, as activations are: some poolings take |x|, some none below 0."""
    low, high = x.min((-2, -1), keepdims=True), x.max((-2, -1), keepdims=True)
    return (x - low) / np.where(high > low, high - low, 1)


def low_pass(x: np.ndarray, band: int) -> np.ndarray:
    """Keep the frequencies of up to `band` periods per map along each axis; all for 0."""
    if not band:
        return x
    high = np.abs(np.fft.fftfreq(x.shape[-1], 1 / x.shape[-1])) > band
    spectrum = np.fft.fft2(x)
    spectrum[..., high, :] = 0
    spectrum[..., :, high] = 0
    return normal(np.fft.ifft2(spectrum).real)


def moved(
    x: Any, down: Any, right: Any, axes: tuple[int, int] = (-2, -1), xp: ModuleType = np
) -> Any:
    """Shift maps down and right by any number of pixels, in their Fourier series.

    What is at Nyquist's frequency itself moves both ways at once, by half each, as it must for the
    result to be real. `xp` is NumPy, or `jax.numpy` for what is traced.
    """
    spectrum = xp.fft.fft2(x, axes=axes)
    for axis, by in zip(axes, (down, right), strict=True):
        frequency = xp.fft.fftfreq(x.shape[axis]).astype(x.dtype)
        angle = -2 * np.pi * frequency * xp.asarray(by, x.dtype)
        sine = xp.where(xp.abs(frequency) < 0.5, xp.sin(angle), 0)
        phase = xp.cos(angle).astype(spectrum.dtype) + 1j * sine.astype(spectrum.dtype)
        shape = [1] * x.ndim
        shape[axis] = -1
        spectrum = spectrum * phase.reshape(shape)
    return xp.fft.ifft2(spectrum, axes=axes).real


def rolled(x: np.ndarray, shift: Sequence[int] | np.ndarray) -> np.ndarray:
    """Shift maps by whole pixels: nothing is computed."""
    return np.roll(x, tuple(shift), (-2, -1))


def best_whole(there: np.ndarray, here: np.ndarray) -> np.ndarray:
    """The whole shift of each map `here` that comes closest to `there`, applied."""
    alike = np.fft.ifft2(np.fft.fft2(there) * np.fft.fft2(here).conj()).real
    flat = alike.reshape(*alike.shape[:-2], -1).argmax(-1)
    down, right = np.unravel_index(flat, alike.shape[-2:])
    return np.stack([rolled(one, by) for one, *by in zip(here, down, right, strict=True)])


def distance(there: np.ndarray, here: np.ndarray) -> np.ndarray:
    """||there - here||^2 of each map; exactly 0 where they are equal."""
    return ((there - here) ** 2).sum((-2, -1))
