"""The pictures: seen by people who do not see colours alike, on paper, on a phone.

Every variant has a colour and a shape of its own, and its name beside it, so a picture says the
same in grey. Colours: Okabe and Ito, "Color universal design", 2008.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#B07D00", "#A94C86", "#2F8FC4", "#555555")
SHAPES = ("o", "s", "^", "v", "D", "P", "X", "p", "h", "*")
INK, FAINT = "#222222", "#8A8A8A"

STYLE = {
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "jaxpool",  # the same picture, the same file
}


@dataclass(frozen=True)
class Group:
    """The dots of one variant: one (x, y) per seed. `style` picks its colour and its shape."""

    title: str
    x: np.ndarray
    y: np.ndarray
    style: int

    @property
    def colour(self) -> str:
        return COLOURS[self.style % len(COLOURS)]

    @property
    def shape(self) -> str:
        return SHAPES[self.style % len(SHAPES)]

    @property
    def mean(self) -> tuple[float, float]:
        return float(self.x.mean()), float(self.y.mean())


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other point beats in x and in y, from left to right."""

    def beaten(p: tuple[float, float]) -> bool:
        return any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)

    return sorted(p for p in points if not beaten(p))


def pareto(groups: Sequence[Group], x: str, y: str, *, narrow: bool = False) -> Figure:
    """Two things of which more is better: a small dot per seed, a large one for the mean.

    Args:
      groups: the variants; values in percent.
      x, y: what the axes show.
      narrow: drawn for a phone (390 pixels) instead of a page (800 pixels).
    """
    size = (3.9, 4.3) if narrow else (8, 4.8)
    with plt.rc_context(STYLE | {"font.size": 9 if narrow else 11}):
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        axes.grid(color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
        edge = np.array(front([group.mean for group in groups]))
        axes.plot(*edge.T, color="#DADADA", linewidth=5, solid_capstyle="round", zorder=1)
        for group in groups:
            _dots(axes, group)
        axes.set(xlabel=x, ylabel=y)
        axes.margins(0.12, 0.12)
        axes.set_xlim(right=min(axes.get_xlim()[1], 101))
        axes.text(0.99, 0.985, "better \N{NORTH EAST ARROW}", **_corner(axes))
        _label(figure, axes, groups)
    return figure


def _corner(axes: Axes) -> dict:
    return {"transform": axes.transAxes, "ha": "right", "va": "top", "color": FAINT}


def _dots(axes: Axes, group: Group) -> None:
    """Dots of the seeds, tied to their mean by thin lines."""
    centre, colour, shape = group.mean, group.colour, group.shape
    for x, y in zip(group.x, group.y, strict=True):
        axes.plot([x, centre[0]], [y, centre[1]], color=colour, linewidth=0.8, alpha=0.6)
    axes.plot(group.x, group.y, shape, color=colour, markersize=4, alpha=0.6)
    axes.plot(*centre, shape, color=colour, markersize=10, markeredgecolor="white", zorder=3)


def _label(figure: Figure, axes: Axes, groups: Sequence[Group]) -> None:
    """Write each title beside its mean, where it covers neither dots nor other titles."""
    figure.canvas.draw()
    # The layout is settled now; labels must not move it.
    figure.set_layout_engine("none")
    pixels = figure.dpi / 72
    taken = [_box(axes, *group.mean, 7 * pixels) for group in groups]
    for group in groups:
        for part in np.linspace(0.2, 1, 9):  # along the thin lines, the dot of the seed last
            line = np.array(group.mean) * (1 - part) + part * np.stack([group.x, group.y], -1)
            taken += [_box(axes, x, y, (3 if part == 1 else 1) * pixels) for x, y in line]
    for group in groups:
        text = axes.annotate(
            group.title,
            group.mean,
            (0, 0),
            textcoords="offset points",
            color=group.colour,
            weight="bold",
            zorder=4,
        )
        taken.append(_best_place(axes, text, taken))


def _box(axes: Axes, x: float, y: float, radius: float) -> Bbox:
    """The square around a point, in pixels."""
    centre = axes.transData.transform((x, y))
    return Bbox([centre - radius, centre + radius])


def _best_place(axes: Axes, text: Annotation, taken: Sequence[Bbox]) -> Bbox:
    """Move a label to the nearest place that is free; return its box."""
    places = [
        (radius * np.cos(angle), radius * np.sin(angle))
        for radius in (10, 13, 17, 22, 28, 36)
        for angle in np.arange(16) * np.pi / 8
    ]

    def move(place: tuple[float, float]) -> Bbox:
        text.set(position=place, ha=_side(place[0], "left", "right"))
        text.set(va=_side(place[1], "bottom", "top"))
        return text.get_window_extent()

    def cost(place: tuple[float, float]) -> float:
        box = move(place)
        inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
        inside &= axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
        overlaps = sum(box.overlaps(other) for other in taken)
        return 1e6 * (not inside) + 1e3 * overlaps + np.hypot(*place)

    return move(min(places, key=cost))


def _side(offset: float, ahead: str, behind: str) -> str:
    """Where a text must be anchored so that it points away from its dot."""
    return ahead if offset > 4 else behind if offset < -4 else "center"


def maps(titles: Sequence[str], values: Sequence[np.ndarray], *, narrow: bool = False) -> Figure:
    """The agreement with the unshifted answer at every shift: one square per variant."""
    columns = 2 if narrow else 3
    rows = -(-len(titles) // columns)
    width, panel = (3.9, 2.1) if narrow else (8, 2.55)
    with plt.rc_context(STYLE | {"font.size": 8 if narrow else 10}):
        figure, grid = plt.subplots(
            rows,
            columns,
            figsize=(width, rows * panel + (0.9 if narrow else 0.2)),
            layout="constrained",
            squeeze=False,
            sharex=True,
            sharey=True,
        )
        low = 100 * min(value.min() for value in values)
        for axes in grid.flat[len(titles) :]:
            axes.set_visible(False)
        for axes, title, value in zip(grid.flat, titles, values, strict=False):
            image = axes.imshow(100 * value, vmin=low, vmax=100, cmap="cividis", origin="upper")
            axes.set_title(f"{title}\n{100 * value.mean():.1f} % on average", fontsize="medium")
            ticks = range(0, len(value), 2)
            axes.set(xticks=ticks, yticks=ticks)
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
        figure.supxlabel("shift to the right (pixels)", fontsize="medium")
        figure.supylabel("shift down (pixels)", fontsize="medium")
        bar = figure.colorbar(
            image,
            ax=grid,
            location="bottom" if narrow else "right",
            shrink=0.8,
            aspect=30,
            label="images with the same answer as unshifted (%)",
        )
        bar.outline.set_visible(False)
    return figure


def bars(
    panels: Mapping[str, Mapping[str, Mapping[str, float]]], x: str, *, narrow: bool = False
) -> Figure:
    """Ratios on a log axis: per panel a group for each case, per group a bar for each name."""
    names = list(dict.fromkeys(n for p in panels.values() for g in p.values() for n in g))
    size = (3.9, 3.6 * len(panels)) if narrow else (8, 2.9 * len(panels))
    with plt.rc_context(STYLE | {"font.size": 8 if narrow else 10}):
        figure, grid = plt.subplots(
            len(panels), 1, figsize=size, layout="constrained", squeeze=False, sharex=True
        )
        for axes, (title, groups) in zip(grid.flat, panels.items(), strict=True):
            height = 0.8 / len(names)
            for i, name in enumerate(names):
                known = [
                    (j, group[name]) for j, group in enumerate(groups.values()) if name in group
                ]
                at = [j + (i - (len(names) - 1) / 2) * height for j, _ in known]
                ratios = [ratio for _, ratio in known]
                axes.barh(at, ratios, 0.9 * height, label=name, color=COLOURS[i % len(COLOURS)])
                for y, ratio in zip(at, ratios, strict=True):
                    axes.text(ratio, y, f" {ratio:.1f}", va="center", fontsize="x-small")
            axes.set_yticks(range(len(groups)), list(groups))
            axes.invert_yaxis()
            axes.axvline(1, color=FAINT, linewidth=0.8)
            axes.set(xscale="log", title=title)
            axes.tick_params(axis="y", length=0)
        grid.flat[-1].set_xlabel(x)
        grid.flat[0].legend(loc="best", frameon=False)
    return figure
