"""What all plots share: colours, sizes, and the way from a figure to an array.

Figures are made without pyplot, so that drawing in a training run neither needs a
display nor leaves figures open.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, GREY, FAINT = '#1f2933', '#7b8794', '#e4e7eb'
BLUE, ORANGE, GREEN, PINK = '#2f6fde', '#e8702a', '#2a9d6f', '#c2408f'
SERIES = (BLUE, ORANGE, GREEN, PINK, '#7a5af5', '#b08900', '#0e9aa7', '#d64545')


def new_figure(
    rows: int, columns: int, width: float, height: float
) -> tuple[Figure, list[Axes]]:
    """A page of empty plots in one style.

    Args:
        rows (int): Rows of plots.
        columns (int): Columns of plots.
        width (float): Of the page, in inches.
        height (float): Of the page, in inches.

    Returns:
        tuple[Figure, list[Axes]]: The page and its rows·columns plots, row by row.
    """
    figure = Figure(figsize=(width, height), dpi=110, layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for plot in axes:
        style(plot)
    return figure, axes


def style(plot: Axes) -> None:
    """Thin lines, no frame at the top and on the right."""
    for side in ('top', 'right'):
        plot.spines[side].set_visible(False)
    for side in ('bottom', 'left'):
        plot.spines[side].set_color(GREY)
    plot.tick_params(colors=INK, labelsize=9)
    plot.grid(True, color=FAINT, linewidth=0.8)
    plot.set_axisbelow(True)


def title(plot: Axes, text: str, note: str = '') -> None:
    """A heading on the left, and a grey line below it."""
    plot.set_title(text, loc='left', fontsize=11, color=INK, fontweight='bold', pad=22)
    if note:
        plot.text(
            0, 1.03, note, transform=plot.transAxes, fontsize=9, color=GREY, va='bottom'
        )


def figure_image(figure: Figure) -> np.ndarray:
    """Draw a figure.

    Args:
        figure (Figure): Of :func:`new_figure`.

    Returns:
        np.ndarray: H×W×3 uint8, RGB.
    """
    canvas = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
