"""Logs of mmengine, with resumes and cut-off lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mergevq_mm.visualization import curves_figure, find_logs, read_curves
from mergevq_mm.visualization.curves import choose, smoothed


def _write(work_dir: Path, timestamp: str, entries: list[dict], tail: str = '') -> Path:
    folder = work_dir / timestamp / 'vis_data'
    folder.mkdir(parents=True)
    text = ''.join(json.dumps(entry) + '\n' for entry in entries)
    (folder / 'scalars.json').write_text(text + tail)
    return folder / 'scalars.json'


def _train(step: int, loss: float) -> dict:
    return dict(loss=loss, lr=0.1, time=1.0, epoch=1, iter=step, step=step)


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    first = [_train(step, float(step)) for step in (10, 20, 30, 40)]
    first.insert(2, {'recon/psnr': 20.0, 'time': 0.1, 'step': 1})
    _write(tmp_path, '20260101_000000', first, tail='{"loss": 5')
    second = [_train(step, 100.0 + step) for step in (30, 40, 50)]
    second += [{'recon/psnr': 21.0, 'step': 2}]
    _write(tmp_path, '20260102_000000', second)
    return tmp_path


def test_resumed_runs_replace_what_they_repeat(work_dir: Path) -> None:
    curves = read_curves(find_logs(work_dir))
    assert sorted(curves) == ['loss', 'lr', 'recon/psnr']
    loss = curves['loss']
    assert loss.steps.tolist() == [10, 20, 30, 40, 50]
    assert loss.values.tolist() == [10, 20, 130, 140, 150]
    assert loss.of_training and not curves['recon/psnr'].of_training
    assert curves['recon/psnr'].steps.tolist() == [1, 2]
    assert curves['recon/psnr'].values.tolist() == [20, 21]


def test_find_logs(work_dir: Path, tmp_path: Path) -> None:
    _write(work_dir, '20260103_000000', [])  # started, nothing logged
    logs = find_logs(work_dir)
    assert [log.parents[1].name[:8] for log in logs] == ['20260101', '20260102']
    assert find_logs(logs[0]) == logs[:1]
    with pytest.raises(FileNotFoundError, match='has no log'):
        find_logs(tmp_path / '20260103_000000')


def test_smoothing_by_a_loop() -> None:
    values = np.random.default_rng(0).random(9)
    for span in (0, 1, 3, 20):
        expected = [values[max(0, i - span) : i + span + 1].mean() for i in range(9)]
        np.testing.assert_allclose(smoothed(values, span), expected)


def test_choice_of_curves(work_dir: Path) -> None:
    curves = read_curves(find_logs(work_dir))
    assert choose(curves, None) == ['loss', 'lr', 'recon/psnr']
    assert choose(curves, ['recon', 'lr']) == ['recon/psnr', 'lr']
    with pytest.raises(ValueError, match='--keys acc begins no logged name'):
        choose(curves, ['acc'])


def test_figure_shows_the_values(work_dir: Path) -> None:
    curves = read_curves(find_logs(work_dir))
    figure = curves_figure(curves, ['loss', 'recon'], span=1, columns=2)
    loss, psnr = figure.axes
    assert loss.lines[0].get_ydata().tolist() == [10, 20, 130, 140, 150]
    np.testing.assert_allclose(loss.lines[1].get_ydata()[1], 160 / 3)
    assert psnr.lines[0].get_ydata().tolist() == [20, 21]
    assert (loss.get_xlabel(), psnr.get_xlabel()) == ('iteration', 'epoch')
    with pytest.raises(ValueError, match='hold no numbers'):
        curves_figure({})
