"""The pictures: seen by people who do not see colours alike, on paper, on a phone.

Every variant has a colour and a shape of its own, and its name beside it, so a picture says the
same in grey. Colours: Okabe and Ito, "Color universal design", 2008.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import ArrayLike

from experiments.stats import summary

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#B07D00", "#A94C86", "#2F8FC4", "#555555")
SHAPES = ("o", "s", "^", "v", "D", "P", "X", "p", "h", "*")
INK, FAINT = "#222222", "#8A8A8A"
# Above the grid, which may have a line there, too, and above bars; below lines and dots.
MARK = {"color": FAINT, "linewidth": 0.8, "zorder": 1.8}

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

    @cached_property
    def intervals(self) -> tuple[tuple[float, float], tuple[float, float]] | None:
        """Of the mean along x and y, where there are seeds enough."""
        x, y = summary(self.x).interval, summary(self.y).interval
        return (x, y) if x and y else None

    @property
    def ends(self) -> np.ndarray:
        """The points that thin lines lead to from the mean, [n, 2]."""
        if not self.intervals:
            return np.stack([self.x, self.y], -1)
        (left, right), (low, high) = self.intervals
        x, y = self.mean
        return np.array([(left, y), (right, y), (x, low), (x, high)])


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other point beats in x and in y, from left to right."""

    def beaten(p: tuple[float, float]) -> bool:
        return any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)

    return sorted(p for p in points if not beaten(p))


def pareto(groups: Sequence[Group], x: str, y: str, *, narrow: bool = False) -> Figure:
    """Two things of which more is better: a large dot for the mean, and the seeds or intervals.

    The first axis is stretched towards 100 %, where most that is worth comparing lies.

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
        axes.set_xscale("function", functions=STRETCHED)
        edge = np.array(front([group.mean for group in groups]))
        axes.plot(*edge.T, color="#DADADA", linewidth=5, solid_capstyle="round", zorder=1)
        for group in groups:
            _dots(axes, group)
        axes.set(xlabel=x, ylabel=y)
        axes.margins(0.12, 0.12)
        left, right = axes.get_xlim()
        right = min(right, 100.6)
        ticks = [tick for tick in TICKS[:: 2 if narrow else 1] if left <= tick <= right]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlim(left, right)
        axes.text(0.99, 0.985, "better \N{NORTH EAST ARROW}", **_corner(axes))
        _label(figure, axes, groups)
    return figure


STRETCHED = (lambda x: -np.sqrt(np.maximum(101 - x, 0)), lambda t: 101 - np.square(t))
"""A square root of what is missing to 100 %, and its inverse."""
TICKS = (100, 99, 98, 95, 90, 85, 80, 70, 60, 50, 40, 30, 20, 10, 0)


def _corner(axes: Axes) -> dict:
    return {"transform": axes.transAxes, "ha": "right", "va": "top", "color": FAINT}


def _dots(axes: Axes, group: Group) -> None:
    """The mean, tied to the dots of the seeds, or to the ends of its intervals."""
    centre, colour, shape = group.mean, group.colour, group.shape
    for x, y in group.ends:
        width = 1.6 if group.intervals else 0.8
        axes.plot([x, centre[0]], [y, centre[1]], color=colour, linewidth=width, alpha=0.6)
    if not group.intervals:
        axes.plot(group.x, group.y, shape, color=colour, markersize=4, alpha=0.6)
    axes.plot(*centre, shape, color=colour, markersize=10, markeredgecolor="white", zorder=3)


def _label(figure: Figure, axes: Axes, groups: Sequence[Group]) -> None:
    """Write each title near its mean, where it covers no mean, no title, and few other dots."""
    figure.canvas.draw()
    # The layout is settled now; labels must not move it.
    figure.set_layout_engine("none")
    pixels = figure.dpi / 72
    taken = [_box(axes, *group.mean, 7 * pixels) for group in groups]
    dots = []
    for group in groups:
        for part in np.linspace(0.2, 1, 9):  # along the thin lines, the dot of the seed last
            line = np.array(group.mean) * (1 - part) + part * group.ends
            dots += [_box(axes, x, y, (3 if part == 1 else 1) * pixels) for x, y in line]
    for group in groups:
        style = {"color": group.colour, "weight": "bold", "zorder": 4}
        text = axes.annotate(group.title, group.mean, (0, 0), textcoords="offset points", **style)
        place, box = _best_place(axes, text, np.array(taken), np.array(dots))
        text.set(position=place, ha=_side(place[0], "left", "right"))
        text.set(va=_side(place[1], "bottom", "top"))
        taken.append(box)
        if np.hypot(*place) > 20:  # too far to be understood without a line
            line = {"arrowstyle": "-", "color": group.colour, "linewidth": 0.8}
            offset = {"textcoords": "offset points", "xytext": place}
            axes.annotate("", group.mean, **offset, arrowprops=line)


def _box(axes: Axes, x: float, y: float, radius: float) -> np.ndarray:
    """The square around a point, in pixels: left, bottom, right, top."""
    centre = axes.transData.transform((x, y))
    return np.concatenate([centre - radius, centre + radius])


def _best_place(
    axes: Axes, text: Annotation, taken: np.ndarray, dots: np.ndarray
) -> tuple[tuple[float, float], np.ndarray]:
    """The nearest place that is free, in points from the dot, and the box of a label there."""
    found = text.get_window_extent()
    size, pixels = np.array([found.width, found.height]), axes.figure.dpi / 72
    angles, radii = np.arange(16) * np.pi / 8, (10, 13, 17, 22, 28, 36, 46, 58, 72, 90, 110)
    places = np.array([(r * np.cos(angle), r * np.sin(angle)) for r in radii for angle in angles])
    anchor = np.where(places > 4, 0, np.where(places < -4, 1, 0.5))
    low = axes.transData.transform(text.xy) + pixels * places - anchor * size
    boxes = np.concatenate([low, low + size], -1)

    def covered(others: np.ndarray) -> np.ndarray:
        ours = boxes[:, None]
        apart = (ours[..., :2] > others[:, 2:]) | (ours[..., 2:] < others[:, :2])
        return (~apart.any(-1)).sum(-1)

    outside = (boxes[:, :2] < axes.bbox.min) | (boxes[:, 2:] > axes.bbox.max)
    cost = 1e6 * outside.any(-1) + 1e3 * covered(taken) + 10 * covered(dots)
    best = int(np.argmin(cost + np.hypot(*places.T)))
    return (float(places[best, 0]), float(places[best, 1])), boxes[best]


def _side(offset: float, ahead: str, behind: str) -> str:
    """Where a text must be anchored so that it points away from its dot."""
    return ahead if offset > 4 else behind if offset < -4 else "center"


def maps(
    titles: Sequence[str],
    values: Sequence[np.ndarray],
    *,
    x: str = "shift to the right (pixels)",
    y: str = "shift down (pixels)",
    label: str = "images with the same answer as unshifted (%)",
    step: int = 1,
    first: int = 0,
    narrow: bool = False,
) -> Figure:
    """A share at every shift, from `first` on, `step` pixels apart: one square per variant.

    Args:
      titles: what stands above each square.
      values: the shares, [down, right].
      x, y, label: what the axes and the colours show.
      step: pixels from one element to the next.
      narrow: drawn for a phone.
    """
    columns = 2 if narrow else 3 if len(titles) < 10 else 4 if len(titles) <= 12 else 5
    rows = -(-len(titles) // columns)
    width, panel = (3.9, 2.1) if narrow else (8, {3: 2.55, 4: 2.0}.get(columns, 1.65))
    with plt.rc_context(STYLE | {"font.size": 10 if columns == 3 else 8}):
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
            axes.imshow(100 * value, vmin=low, vmax=100, cmap="cividis", origin="upper")
            axes.set_title(f"{title}\n{100 * value.mean():.1f} % on average", fontsize="medium")
            ticks = range(0, len(value), 2)
            pixels = [first + step * tick for tick in ticks]
            axes.set_xticks(ticks, pixels)
            axes.set_yticks(ticks, pixels)
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
        figure.supxlabel(x, fontsize="medium")
        figure.supylabel(y, fontsize="medium")
        bar = figure.colorbar(
            grid.flat[0].images[0],  # all have its colours
            ax=grid,
            location="top" if narrow else "right",
            shrink=0.8,
            aspect=30,
            label=label,
        )
        bar.outline.set_visible(False)
    return figure


Groups = Mapping[str, Mapping[str, float]]
Lines = Mapping[tuple[str, str], tuple[Sequence[float], Sequence[float]]]

BAR = 0.115
"""Inches from one bar to the next: as much as the number beside it needs."""


def bars(
    panels: Mapping[str, Groups], x: str, styles: Mapping[str, int], *, narrow: bool = False
) -> Figure:
    """Ratios on a log axis.

    Args:
      panels: title -> group -> name -> ratio.
      x: what the axis shows.
      styles: the names, from top to bottom, and the colour of each.
      narrow: drawn for a phone.
    """
    there = {name for p in panels.values() for group in p.values() for name in group}
    styles = {name: style for name, style in styles.items() if name in there}
    rows = list(dict.fromkeys(group for p in panels.values() for group in p))
    most = max(
        (r for p in panels.values() for group in p.values() for r in group.values()), default=1.0
    )
    shape, size = _grid(len(panels), 0.6 + BAR / 0.8 * len(styles) * len(rows), narrow)
    with plt.rc_context(STYLE | {"font.size": 8 if narrow else 10}):
        figure, grid = plt.subplots(
            *shape, figsize=size, layout="constrained", squeeze=False, sharex=True, sharey=True
        )
        for axes, (title, groups) in zip(grid.flat, panels.items(), strict=True):
            _bars(axes, {row: groups.get(row, {}) for row in rows}, styles)
            axes.set(xscale="log", title=title)
            _plain_numbers(axes.xaxis, (1,) if most > 1000 else (1, 3))  # 1,000 and 3,000 touch
        grid[0, 0].invert_yaxis()  # of all, since they share it
        figure.supxlabel(x, fontsize="medium")
        _names(figure, 2 if narrow else 4)
    return figure


def _grid(panels: int, height: float, narrow: bool) -> tuple[tuple[int, int], tuple[float, float]]:
    """Two panels side by side on a page, one below the other on a phone: the grid, and inches."""
    columns = 1 if narrow else min(2, panels)
    rows = -(-panels // columns)
    return (rows, columns), (3.9 if narrow else 8, rows * height + 0.7)


def _plain_numbers(axis: Axis, subs: tuple[int, ...] = (1, 3)) -> None:
    """A log axis that says 1, 3, 10, 30."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter(NullFormatter())


def _bars(axes: Axes, groups: Groups, styles: Mapping[str, int]) -> None:
    """One bar for each name in each group, the ratio beside it."""
    height = 0.8 / len(styles)
    for i, (name, style) in enumerate(styles.items()):
        at = {j + (i - (len(styles) - 1) / 2) * height: g for j, g in enumerate(groups.values())}
        known = {y: group[name] for y, group in at.items() if name in group}
        if not known:
            continue
        axes.barh(
            list(known),
            list(known.values()),
            0.9 * height,
            label=name,
            color=COLOURS[style],
        )
        for y, ratio in known.items():
            text = f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:,.0f}"
            axes.annotate(
                text, (ratio, y), (2, 0), textcoords="offset points", va="center", fontsize=6.5
            )
    axes.set_yticks(range(len(groups)), list(groups))
    axes.axvline(1, **MARK)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.14, y=0.01)


def _names(figure: Figure, columns: int) -> None:
    """The legend of all panels, above them."""
    named = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    figure.legend(named.values(), named, loc="outside upper center", ncols=columns, frameon=False)


@dataclass(frozen=True)
class Path:
    """What a line leads through, from left to right, and what lies beside it."""

    points: Sequence[Group]
    beside: Sequence[Group]


def paths(panels: Mapping[str, Mapping[str, Path]], x: str, *, narrow: bool = False) -> Figure:
    """Lines through means, each panel with a y of its own.

    Args:
      panels: what y shows -> name -> path.
      x: what the axes show.
      narrow: drawn for a phone.
    """
    shape, size = _grid(len(panels), 3.6, narrow)
    with plt.rc_context(STYLE | {"font.size": 8 if narrow else 10}):
        figure, grid = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)
        for axes, (y, lines) in zip(grid.flat, panels.items(), strict=True):
            axes.grid(color="#E6E6E6", linewidth=0.8)
            axes.set_axisbelow(True)
            for name, path in lines.items():
                _path(axes, name, path)
            axes.set_ylabel(y)
        figure.supxlabel(x, fontsize="medium")
        _names(figure, 2 if narrow else 4)
    return figure


def _path(axes: Axes, name: str, path: Path) -> None:
    """The line, its means and their seeds or intervals; hollow what lies beside it."""
    for group in [*path.points, *path.beside]:
        for x, y in group.ends:
            ends = [x, group.mean[0]], [y, group.mean[1]]
            axes.plot(*ends, color=group.colour, linewidth=0.8, alpha=0.4)
    first = path.points[0] if path.points else path.beside[0]
    look: dict[str, Any] = {"color": first.colour, "marker": first.shape}
    means = np.array([group.mean for group in path.points]).reshape(-1, 2)
    axes.plot(*means.T, **look, markersize=6, linewidth=1.4, label=name)
    means = np.array([group.mean for group in path.beside]).reshape(-1, 2)
    axes.plot(*means.T, **look, markersize=9, linestyle="none", markerfacecolor="none")


def sweep(
    panels: Mapping[str, Lines],
    x: str,
    y: str,
    styles: Mapping[str, int],
    *,
    narrow: bool = False,
) -> Figure:
    """Lines over the size of a window, both axes logarithmic.

    Args:
      panels: title -> (library, op) -> sizes and ratios; an op has a kind of line.
      x, y: what the axes show.
      styles: the colour and shape of each library.
      narrow: drawn for a phone.
    """
    ops = list(dict.fromkeys(op for lines in panels.values() for _, op in lines))
    shape, size = _grid(len(panels), 2.4, narrow)
    with plt.rc_context(STYLE | {"font.size": 8 if narrow else 10}):
        figure, grid = plt.subplots(
            *shape, figsize=size, layout="constrained", squeeze=False, sharex=True, sharey=True
        )
        for axes, (title, lines) in zip(grid.flat, panels.items(), strict=True):
            for (library, op), (at, ratios) in lines.items():
                style, other = styles[library], op != ops[0]
                axes.plot(
                    at,
                    ratios,
                    SHAPES[style] + ("--" if other else "-"),
                    color=COLOURS[style],
                    markersize=4,
                    markerfacecolor="white" if other else COLOURS[style],
                    label=f"{op}, {library}",
                )
            axes.grid(color="#E6E6E6", linewidth=0.8)
            axes.set(xscale="log", yscale="log", title=title)
            _plain_numbers(axes.yaxis)
            ticks = [4**n for n in range(1, 6)]
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            axes.xaxis.minorticks_off()
        figure.supxlabel(x, fontsize="medium")
        figure.supylabel(y, fontsize="medium")
        _names(figure, 2 if narrow else 4)
    return figure


@dataclass(frozen=True)
class Curve:
    """One line: (x, y) along it, and (x, y) of its dots; `style` picks its colour and its shape."""

    line: tuple[ArrayLike, ArrayLike]
    dots: tuple[ArrayLike, ArrayLike]
    style: int

    def look(self, *, line: bool = False, dots: bool = False) -> dict:
        return {
            "color": COLOURS[self.style % len(COLOURS)],
            "linestyle": "-" if line else "none",
            "marker": SHAPES[self.style % len(SHAPES)] if dots else "none",
        }


def curves(
    panels: Mapping[str, Mapping[str, Curve]],
    x: str,
    y: str,
    *,
    least: float,
    zero: str | None = None,
    log_x: bool = False,
    log_y: bool = True,
    mark: float | None = None,
    narrow: bool = False,
) -> Figure:
    """Lines, each with its name at its end.

    Args:
      panels: title -> name -> curve.
      x, y: what the axes show.
      least: the lower end of y. What is smaller stays outside or, with `zero`, lies on it.
      zero: what the lower end is called.
      log_x, log_y: whether an axis is logarithmic.
      mark: an x that matters.
      narrow: drawn for a phone.
    """
    shape, size = _grid(len(panels), 3.0, narrow)
    with plt.rc_context(STYLE | {"font.size": 8 if narrow else 9}):
        figure, grid = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        ends = [
            _curves(axes, title, lines, least, zero, log_y)
            for axes, (title, lines) in zip(grid.flat, panels.items(), strict=False)
        ]
        top = max(axes.get_ylim()[1] for axes in grid.flat[: len(panels)])
        for axes in grid.flat[: len(panels)]:
            axes.set_ylim(least, top)
            if mark is not None:
                axes.axvline(mark, **MARK)
            if log_x:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter("{x:,g}")
        figure.supxlabel(x, fontsize="medium")
        figure.supylabel(y, fontsize="medium")
        figure.canvas.draw()
        # The layout is settled now, with room for the names; they must not move it.
        figure.set_layout_engine("none")
        for axes, names in zip(grid.flat, ends, strict=False):
            _spread(axes, names)
    return figure


Name = tuple[Line2D, Text, float]
"""What stands at the end of a line: its shape, its name, and the y of its end."""


def _curves(
    axes: Axes,
    title: str,
    lines: Mapping[str, Curve],
    least: float,
    zero: str | None,
    log_y: bool,
) -> list[Name]:
    """The lines of one panel; return their names, which are not in their places yet."""

    def shown(values: ArrayLike) -> np.ndarray:
        y = np.asarray(values, float)
        return np.maximum(y, least) if zero else np.where(y < least, np.nan, y)

    names = []
    for name, curve in lines.items():
        (x, y), (at, seen) = curve.line, curve.dots
        axes.plot(x, shown(y), **curve.look(line=True), linewidth=1.2)
        axes.plot(at, shown(seen), **curve.look(dots=True), markersize=4)
        beside = {"transform": axes.transAxes, "clip_on": False}
        (shape,) = axes.plot([1.03], [0.5], **curve.look(dots=True), markersize=4, **beside)
        text = axes.text(1.055, 0.5, name, color=shape.get_color(), va="center", **beside)
        names.append((shape, text, max(float(np.asarray(y)[-1]), least)))
    axes.set(yscale="log" if log_y else "linear", title=title)
    axes.yaxis.set_major_formatter(lambda y, _: zero if zero and y <= least else f"{y:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#E6E6E6", linewidth=0.8)
    return names


def _spread(axes: Axes, names: Sequence[Name]) -> None:
    """Put each name beside the end of its line, as near as names below and above it allow."""
    names = sorted(names, key=lambda name: name[2])
    gap = 1 + max((text.get_window_extent().height for _, text, _ in names), default=0)
    heights = [axes.transData.transform((1, end))[1] for *_, end in names]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    above = axes.bbox.y1 + gap
    for i in reversed(range(len(heights))):
        above = heights[i] = min(heights[i], above - gap)
    for (shape, text, _), height in zip(names, heights, strict=True):
        y = axes.transAxes.inverted().transform((0, height))[1]
        shape.set_ydata([y])
        text.set_y(y)


def dots(
    rows: Mapping[str, Mapping[str, np.ndarray]],
    x: str,
    *,
    mark: float | None = None,
    narrow: bool = False,
) -> Figure:
    """One line of dots for each row, one above the other for its series.

    Args:
      rows: title -> series -> one value per seed.
      x: what the axis shows.
      mark: an x that matters.
      narrow: drawn for a phone.
    """
    series = list(next(iter(rows.values())))
    height = 0.3 * len(series) * len(rows) + 1.2
    with plt.rc_context(STYLE | {"font.size": 9 if narrow else 11}):
        figure, axes = plt.subplots(figsize=(3.9 if narrow else 8, height), layout="constrained")
        axes.grid(color="#E6E6E6", linewidth=0.8, axis="x")
        axes.set_axisbelow(True)
        if mark is not None:
            axes.axvline(mark, **MARK)
        for style, name in enumerate(series):
            for row, values in enumerate(rows.values()):
                at = row + (style - (len(series) - 1) / 2) * 0.8 / len(series)
                _seeds(axes, values[name], at, style, None if row else name)
        for row in range(1, len(rows)):
            axes.axhline(row - 0.5, color="#E6E6E6", linewidth=0.8)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set(xlabel=x, ylim=(len(rows) - 0.5, -0.5))
        axes.tick_params(axis="y", length=0)
        _names(figure, 1 if narrow else len(series))
    return figure


def _seeds(axes: Axes, values: np.ndarray, y: float, style: int, label: str | None) -> None:
    """The mean along x, on its interval, or among the dots of the seeds."""
    look = {"color": COLOURS[style], "marker": SHAPES[style], "linestyle": "none"}
    found = summary(values)
    if found.interval:
        axes.plot(found.interval, (y, y), color=COLOURS[style], linewidth=1.6)
    else:
        axes.plot(values, np.full(len(values), y), **look, markersize=4, alpha=0.6)
    mean = {"markersize": 9, "markeredgecolor": "white", "zorder": 3}
    axes.plot(found.mean, y, **look, **mean, label=label)


@dataclass(frozen=True)
class Trace:
    """A value at every place of a slide, and whether the answer is right there."""

    values: np.ndarray
    right: np.ndarray


def traces(
    columns: Sequence[str],
    rows: Mapping[str, Sequence[Trace]],
    parts: int,
    x: str,
    y: str,
    *,
    mark: float,
    narrow: bool = False,
) -> Figure:
    """Lines over the places of a slide, each in a panel of its own.

    Args:
      columns: their titles.
      rows: title -> one trace for each column.
      parts: places per pixel; whole pixels have dots, hollow where the answer is wrong.
      x, y: what the axes show.
      mark: the period.
      narrow: drawn for a phone.
    """
    width, height = (3.9, 1.15) if narrow else (8, 1.25)
    with plt.rc_context(STYLE | {"font.size": 8 if narrow else 10}):
        figure, grid = plt.subplots(
            len(rows),
            len(columns),
            figsize=(width, height * len(rows) + 0.7),
            layout="constrained",
            squeeze=False,
            sharex=True,
            sharey=True,
        )
        for style, (panels, (title, traced)) in enumerate(zip(grid, rows.items(), strict=True)):
            for axes, trace in zip(panels, traced, strict=True):
                _trace(axes, trace, parts, COLOURS[style % len(COLOURS)], 3 if narrow else 4)
                axes.axvline(mark, **MARK)
            panels[0].set_title(title, loc="left", fontsize="medium", weight="bold", pad=3)
        for axes, column in zip(grid[0], columns, strict=True):
            axes.annotate(
                column, (0.5, 1.32), xycoords="axes fraction", ha="center", annotation_clip=False
            )
        figure.supxlabel(x, fontsize="medium")
        figure.supylabel(y, fontsize="medium")
    return figure


def _trace(axes: Axes, trace: Trace, parts: int, colour: str, size: float) -> None:
    """The line through all places, the dots at whole pixels."""
    at = np.arange(len(trace.values)) / parts
    axes.plot(at, trace.values, color=colour, linewidth=1.2)
    for right, fill in ((True, colour), (False, "white")):
        dots = trace.right[::parts] == right
        axes.plot(
            at[::parts][dots],
            trace.values[::parts][dots],
            "o",
            color=colour,
            markerfacecolor=fill,
            markersize=size,
        )
    axes.set(ylim=(-0.06, 1.06), yticks=(0, 0.5, 1), xticks=np.arange(0, len(at) // parts + 1, 4))
    axes.grid(color="#E6E6E6", linewidth=0.8)
