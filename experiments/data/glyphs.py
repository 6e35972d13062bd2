"""Letters drawn at any position: the true image of an object that moved by part of a pixel.

A roll or a Fourier phase shifts samples. Here the letter itself is moved, and then sampled: each
pixel is the share of it that the letter covers. Letters are drawn FINE times larger, so positions
are exact to 1/FINE of a pixel.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import ascii_uppercase

import numpy as np

SIDE, FINE = 32, 16
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic"),
)
"""Of matplotlib."""


@dataclass(frozen=True)
class Glyph:
    """A letter, its font and size in pixels, and how far its centre is from that of the image."""

    label: int
    font: str
    size: int
    down: float
    right: float


def glyphs(each: int = 200, seed: int = 0) -> list[Glyph]:
    """As many of every letter, in random fonts, sizes and places; the same ones for a seed."""
    random = np.random.default_rng(seed)
    return [
        Glyph(
            label=label,
            font=str(random.choice(FONTS)),
            size=int(random.integers(14, 23)),
            down=int(random.integers(-4 * FINE, 4 * FINE)) / FINE,
            right=int(random.integers(-4 * FINE, 4 * FINE)) / FINE,
        )
        for _ in range(each)
        for label in range(len(ascii_uppercase))
    ]


def draw(glyph: Glyph, folder: Path, down: float = 0, right: float = 0) -> np.ndarray:
    """Draw a glyph moved by (down, right) pixels, uint8 [SIDE, SIDE]; what leaves is cut off."""
    from PIL import Image, ImageDraw

    letter = ascii_uppercase[glyph.label]
    font = _font(folder / f"{glyph.font}.ttf", glyph.size)
    width, height = font.getbbox(letter, anchor="lt")[2:]
    centre = glyph.right + right, glyph.down + down
    left, top = (round(FINE * (SIDE / 2 + middle)) for middle in centre)
    at = left - width // 2, top - height // 2
    fine = Image.new("L", (SIDE * FINE, SIDE * FINE))
    ImageDraw.Draw(fine).text(at, letter, fill=255, font=font, anchor="lt")
    return np.asarray(fine.reduce(FINE))


@cache
def _font(path: Path, size: int):
    from PIL import ImageFont

    return ImageFont.truetype(path, size * FINE, layout_engine=ImageFont.Layout.BASIC)
