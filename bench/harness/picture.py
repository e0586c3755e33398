# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""A picture of ratios: how many times quicker something is than what it is measured beside, as SVG."""

import html
import math

LABEL_WIDTH, PLOT_WIDTH, ROW_HEIGHT, BAR_HEIGHT, TOP = 250, 560, 44, 15, 64
COLORS = ("#4c78a8", "#f58518")


def bars(title, names, series):
    """The SVG text. `names`: of the rows; `series`: {legend: a ratio above 0 for each row}, two at most; the axis is
    logarithmic, and says 1 where both are as quick."""
    values = [value for ratios in series.values() for value in ratios]
    low = 10 ** math.floor(math.log10(min(1, *values)))
    high = 10 ** math.ceil(math.log10(max(10, *values)))

    def x(value):
        return LABEL_WIDTH + PLOT_WIDTH * math.log(value / low) / math.log(high / low)

    height = TOP + ROW_HEIGHT * len(names) + 16
    width = LABEL_WIDTH + PLOT_WIDTH + 60
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="10" y="20" font-size="15">{html.escape(title)}</text>',
    ]
    for number, legend in enumerate(series):
        lines.append(f'<rect x="{10 + 260 * number}" y="30" width="12" height="12" fill="{COLORS[number]}"/>')
        lines.append(f'<text x="{28 + 260 * number}" y="41">{html.escape(legend)}</text>')
    tick = low
    while tick <= high:
        stroke = "#333" if tick == 1 else "#ddd"
        lines.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{height - 12}" stroke="{stroke}"/>')
        lines.append(f'<text x="{x(tick):.1f}" y="{TOP - 6}" text-anchor="middle" fill="#555">{tick:g}x</text>')
        tick *= 10
    for row, name in enumerate(names):
        middle = TOP + ROW_HEIGHT * (row + 0.5)
        lines.append(f'<text x="{LABEL_WIDTH - 10}" y="{middle + 4:.1f}" text-anchor="end">{html.escape(name)}</text>')
        for number, ratios in enumerate(series.values()):
            value = ratios[row]
            left, right = sorted((x(1), x(value)))
            y = middle + BAR_HEIGHT * (number - len(series) / 2)
            lines.append(f'<rect x="{left:.1f}" y="{y:.1f}" width="{right - left:.1f}" height="{BAR_HEIGHT - 2}" '
                         f'fill="{COLORS[number]}"/>')
            lines.append(f'<text x="{right + 4:.1f}" y="{y + BAR_HEIGHT - 4:.1f}" font-size="11">{value:.3g}</text>')
    return "\n".join([*lines, "</svg>", ""])
