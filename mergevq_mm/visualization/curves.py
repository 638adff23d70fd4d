"""Training curves out of mmengine's logs, resumed runs included."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .plots import BLUE, GREY, INK, SERIES, new_figure, title

_LEFT_OUT = {
    'step',
    'iter',
    'epoch',
    'time',
    'data_time',
    'memory',
    'nonfinite',
    'dropped',
}


class Curve(NamedTuple):
    """One logged number over a training.

    Attributes:
        steps (np.ndarray): Ascending: iterations, or epochs of a validation.
        values (np.ndarray): As many values.
        of_training (bool): Whether it was logged at iterations of the training.
    """

    steps: np.ndarray
    values: np.ndarray
    of_training: bool


def find_logs(path: str | os.PathLike) -> list[Path]:
    """Logs of a run in the order in which it was started and resumed.

    Args:
        path (str | PathLike): A log of mmengine, or the work dir of a run.

    Returns:
        list[Path]: ``<work dir>/<timestamp>/vis_data/scalars.json``, or the file.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    found = sorted(path.glob('*/vis_data/scalars.json'))
    found += [path / 'scalars.json'] if (path / 'scalars.json').is_file() else []
    found = [file for file in found if file.stat().st_size]
    if not found:
        raise FileNotFoundError(
            f'"{path}" has no log of a training (<timestamp>/vis_data/scalars.json); '
            'give the work dir of a run, or the path of such a file.'
        )
    return found


def read_curves(logs: Sequence[str | os.PathLike]) -> dict[str, Curve]:
    """Read logs, the later ones going on where a run was resumed.

    Where a resumed run repeats steps that an earlier one logged after its checkpoint,
    the later log counts: of the earlier ones what lies at its first step or beyond is
    dropped.

    Args:
        logs (Sequence[str | PathLike]): In the order in which they were written.

    Returns:
        dict[str, Curve]: By name. Numbers alone; lines that are cut off are skipped.
    """
    curves: dict[tuple[str, bool], dict[float, float]] = {}
    for log in logs:
        fresh: dict[tuple[str, bool], dict[float, float]] = {}
        for line in Path(log).read_text(encoding='utf-8').splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # a run that was killed while writing
                continue
            step = entry.get('step', entry.get('iter'))
            if step is None:
                continue
            for name, value in entry.items():
                if name not in _LEFT_OUT and isinstance(value, (int, float)):
                    key = (name, 'iter' in entry)
                    fresh.setdefault(key, {})[step] = float(value)
        for key, points in fresh.items():
            first = min(points)
            old = {s: v for s, v in curves.get(key, {}).items() if s < first}
            curves[key] = {**old, **points}
    named = {}
    for (name, training), points in curves.items():
        steps = np.array(sorted(points))
        values = np.array([points[step] for step in steps])
        named[name] = Curve(steps, values, training)
    return named


def smoothed(values: np.ndarray, span: int) -> np.ndarray:
    """Mean over up to ``span`` neighbours on both sides; shorter at the ends.

    Args:
        values (np.ndarray): N values.
        span (int): Neighbours on each side; 0 leaves the values as they are.

    Returns:
        np.ndarray: N values.
    """
    total = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    low, high = np.maximum(place - span, 0), np.minimum(place + span + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def choose(curves: Mapping[str, Curve], keys: Sequence[str] | None) -> list[str]:
    """Names to draw.

    Args:
        curves (Mapping[str, Curve]): All there are.
        keys (Sequence[str], optional): What names begin with. None: losses, other
            training diagnostics, then results of validations.

    Returns:
        list[str]: In the order of the log.

    Raises:
        ValueError: If a key fits no name.
    """
    if keys is None:
        losses = [n for n in curves if 'loss' in n]
        results = [n for n in curves if not curves[n].of_training]
        rest = [n for n in curves if n not in losses and n not in results]
        return losses + rest + results
    chosen = []
    for key in keys:
        found = [n for n in curves if n.startswith(key) and n not in chosen]
        if not found and not any(n.startswith(key) for n in curves):
            raise ValueError(
                f'--keys {key} begins no logged name; there are {", ".join(curves)}.'
            )
        chosen += found
    return chosen


def curves_figure(
    curves: Mapping[str, Curve],
    keys: Sequence[str] | None = None,
    heading: str = '',
    span: int = 3,
    columns: int = 4,
) -> Figure:
    """One small plot for each logged number.

    Args:
        curves (Mapping[str, Curve]): Of :func:`read_curves`.
        keys (Sequence[str], optional): What to draw, see :func:`choose`. Defaults to
            None, everything.
        heading (str): Above all. Defaults to ''.
        span (int): Neighbours on each side of the smoothed line of a training; 0 draws
            none. Defaults to 3.
        columns (int): Plots of a row. Defaults to 4.

    Returns:
        Figure: The page.

    Raises:
        ValueError: If there is nothing to draw.
    """
    names = choose(curves, keys)
    if not names:
        raise ValueError('the logs hold no numbers; train for at least one interval.')
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    figure, axes = new_figure(rows, columns, 3.3 * columns, 2.35 * rows + 0.5)
    if heading:
        figure.suptitle(
            f'{heading}\n', x=0.01, ha='left', fontsize=13, fontweight='bold', color=INK
        )
    for plot, name in zip(axes, names):
        _draw(plot, name, curves[name], span)
    for plot in axes[len(names) :]:
        plot.remove()
    return figure


def _draw(plot: Axes, name: str, curve: Curve, span: int) -> None:
    """One curve; of a long training also the smoothed one."""
    colour = BLUE if curve.of_training else SERIES[2]
    if curve.of_training and span and len(curve.values) > 2 * span:
        plot.plot(curve.steps, curve.values, color=colour, alpha=0.3, linewidth=1)
        smooth = smoothed(curve.values, span)
        plot.plot(curve.steps, smooth, color=colour, linewidth=1.8)
    else:
        points = len(curve.values) == 1 or not curve.of_training
        plot.plot(
            curve.steps,
            curve.values,
            color=colour,
            marker='o' if points else None,
            markersize=4,
            linewidth=1.6,
        )
    axis = 'iteration' if curve.of_training else 'epoch'
    plot.set_xlabel(axis, fontsize=8, color=GREY)
    plot.tick_params(labelsize=8)
    plot.locator_params(nbins=5)
    title(plot, name, f'last {curve.values[-1]:.4g}')
