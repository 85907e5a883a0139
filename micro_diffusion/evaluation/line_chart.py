"""Line charts as SVG, for pages that stand alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]
"""x and y of a line, x rising."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Told apart by people who see few colours (Okabe and Ito 2008); lines of the same colour differ in their dashes."""

DASHES = ("", "6 3", "2 3", "8 3 2 3")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 420, 240, 56, 30, 12, 12
MOST_POINTS = 300
"""Of a line; more are averaged, which at this width nobody sees."""
LOGARITHMIC = 100
"""Quotient of the largest and the smallest value from which on the y axis is logarithmic: one loss that has exploded
would otherwise hide all others."""


def line_chart(title: str, lines: Mapping[str, Points], *, best: str | None = None, across: str = "step") -> str:
    """A chart with a line for each name, as an SVG element.

    Args:
        title: what the y axis shows.
        lines: by name; values that are not finite are left out.
        best: "low" or "high" marks the best point of all lines and says its value.
        across: what the x axis shows.

    Raises:
        ValueError: when there is no finite point.
    """
    finite = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in lines.items()}
    finite = {name: thinned(points) for name, points in finite.items() if points}
    everything = [point for points in finite.values() for point in points]
    if not everything:
        raise ValueError(f"{title} has no finite value to show; leave it out")
    values = [y for _, y in everything]
    spans = min(values) > 0 and max(values) >= LOGARITHMIC * min(values)
    xs, ys = ticks([x for x, _ in everything]), powers_of_ten(values) if spans else ticks(values)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across, up = share(point[0], xs), share(point[1], ys, logarithmic=spans)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts += [_grid_line(*place((xs[0], y)), f"{y:g}", along=True) for y in ys]
    parts += [_grid_line(*place((x, ys[0])), f"{x:g}", along=False) for x in xs]
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 2}" text-anchor="end">{escape(across)}</text>')
    for number, name in enumerate(lines):  # a line without values keeps its colour, so that charts agree
        if not (points := finite.get(name)):
            continue
        path = " ".join("{:.1f},{:.1f}".format(*place(point)) for point in points)
        style = f'stroke="{colour(number)}" stroke-dasharray="{dash(number)}"'
        parts.append(f'<polyline points="{path}" fill="none" {style}><title>{escape(name)}</title></polyline>')
        if len(points) < 40:
            parts += [
                _dot(*place(point), colour(number), f"{name}: {point[1]:.4g} at {point[0]:g}") for point in points
            ]
    if best is not None:
        point = (min if best == "low" else max)(everything, key=lambda p: p[1])
        x, y = place(point)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke="#d00" stroke-width="2"/>')
        parts.append(f'<text x="{LEFT + 4}" y="{TOP + 8}" fill="#d00">best {point[1]:.4g} at {point[0]:g}</text>')
    return "".join([*parts, "</svg>"])


def colour(number: int) -> str:
    """Of a chart's n-th line."""
    return COLOURS[number % len(COLOURS)]


def dash(number: int) -> str:
    """Of a chart's n-th line, as SVG says it; empty for a whole line."""
    return DASHES[number // len(COLOURS) % len(DASHES)]


def ticks(values: Sequence[float], most: int = 6) -> list[float]:
    """Round numbers, at least two, that span the values."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / (most - 1)
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def powers_of_ten(values: Sequence[float], most: int = 6) -> list[float]:
    """Few of them, at least two, that span the values, all above 0."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    step = max(1, math.ceil((high - low) / (most - 1)))
    return [10.0 ** (low + index * step) for index in range(max(2, math.ceil((high - low) / step) + 1))]


def share(value: float, axis: Sequence[float], *, logarithmic: bool = False) -> float:
    """Of the way from the first to the last tick."""
    first, last, at = (math.log10(one) if logarithmic else one for one in (axis[0], axis[-1], value))
    return (at - first) / (last - first)


def thinned(points: Points) -> Points:
    """At most MOST_POINTS points, each the mean of as many neighbours."""
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(len(points) / MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _grid_line(x: float, y: float, text: str, *, along: bool) -> str:
    end = f'x2="{WIDTH - RIGHT}" y2="{y:.1f}"' if along else f'x2="{x:.1f}" y2="{TOP}"'
    at = f'x="{x - 4:.1f}" y="{y + 3:.1f}"' if along else f'x="{x:.1f}" y="{y + 13:.1f}"'
    anchor = "end" if along else "middle"
    line = f'<line x1="{x:.1f}" y1="{y:.1f}" {end} stroke="#ddd"/>'
    return f'{line}<text {at} text-anchor="{anchor}">{text}</text>'


def _dot(x: float, y: float, fill: str, said: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{fill}"><title>{escape(said)}</title></circle>'
