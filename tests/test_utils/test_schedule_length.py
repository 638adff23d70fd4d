"""For which length schedules were written, in a file, its bases and on the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine import fileio
from mmengine.config import Config

from mergevq_mm.utils.config_options import merge_options
from mergevq_mm.utils.schedule_length import schedule_ratio, stretch_start

CONFIGS = Path(__file__).parents[2] / 'configs'


def ratio(path: Path, **options: Any) -> float:
    options = {key.replace('__', '.'): value for key, value in options.items()}
    own = Config.fromfile(path)
    used = own.copy()
    merge_options(used, options)
    return schedule_ratio(path, own, used, options)


@pytest.mark.parametrize(
    ('name', 'epochs', 'expected'),
    [
        ('quickstart/mergevq_g+r_mnist5k', 1, 1 / 18),
        ('quickstart/mergevq_g+r_mnist5k', 36, 2.0),
        ('quickstart/mergear_mnist5k', 1, 1 / 17),
        ('quickstart/lenet5_mnist5k', 1, 1 / 25),
        ('miniature/mae_long', 8, 1 / 2),
        ('mergevq_g+r', 27, 1 / 10),
        ('mergevq_r', 100, 1 / 3),
        ('mergear_l_g+r', 5, 1 / 60),
        ('randar_l_g', 30, 1 / 10),
        ('benchmarks/finetune/mergevq-g_8xb128-coslr-100e_in1k', 10, 1 / 10),
        ('benchmarks/linear/mergevq-r_cls_8xb128-linear-90e_in1k', 9, 1 / 10),
    ],
)
def test_command_line(name: str, epochs: int, expected: float) -> None:
    path = CONFIGS / f'{name}.py'
    assert ratio(path, train_cfg__max_epochs=epochs) == pytest.approx(expected)
    given = dict(train_cfg__max_epochs=epochs, param_scheduler=None)
    assert ratio(path, **given) == 1.0


def test_iterations() -> None:
    path = CONFIGS / 'pictures' / 'mergevq_folder.py'
    assert ratio(path) == 1.0
    assert ratio(path, train_cfg__max_iters=60) == 60 / 1500


def test_steps_of_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    path = CONFIGS / 'pictures' / 'mergevq_folder.py'
    for steps, warm_up in ((60, 4), (5, 1), (1500, 100), (10000, 100)):
        monkeypatch.setenv('MERGEVQ_STEPS', str(steps))
        first, second = Config.fromfile(path).param_scheduler
        assert first.end == second.begin == warm_up and second.end == steps


def test_variables_of_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    path = CONFIGS / 'pictures' / 'mergevq_folder.py'
    # Not by mmengine's {{$NAME}}, which would break at the quote.
    monkeypatch.setenv('MERGEVQ_FOLDER', "Anna's photographs")
    assert Config.fromfile(path).folder == "Anna's photographs"
    for steps in ('abc', '0', '-3', '1.5', ''):
        monkeypatch.setenv('MERGEVQ_STEPS', steps)
        message = f"MERGEVQ_STEPS='{steps}' is no number of steps; give one such as"
        with pytest.raises(ValueError, match=message):
            Config.fromfile(path)


def derive(folder: Path, base: str, text: str) -> Path:
    path = folder / 'mine.py'
    path.write_text(f"_base_ = ['{CONFIGS / base}.py']\n{text}\n")
    return path


def test_a_config_that_inherits_schedules(tmp_path: Path) -> None:
    short = 'train_cfg = dict(max_epochs=27)'
    assert ratio(derive(tmp_path, 'mergevq_g+r', short)) == 0.1
    assert ratio(derive(tmp_path, 'mergevq_g_d32', short)) == 0.1
    assert ratio(derive(tmp_path, 'mergear_b_g', short)) == 27 / 300
    path = derive(tmp_path, 'mergevq_g+r', short)
    assert ratio(path, train_cfg__max_epochs=54) == 0.2
    # What ends within the training stays.
    short = 'train_cfg = dict(max_epochs=4)'
    assert ratio(derive(tmp_path, 'quickstart/mergevq_g+r_mnist5k', short)) == 1.0
    own = "param_scheduler = [dict(type='MultiStepLR', milestones=[30])]"
    assert ratio(derive(tmp_path, 'mergevq_g+r', f'{short}\n{own}')) == 1.0


@pytest.mark.parametrize('ending', ['json', 'yaml'])
def test_a_config_of_another_format(ending: str, tmp_path: Path) -> None:
    def write(**content: Any) -> Path:
        fileio.dump(content, tmp_path / f'mine.{ending}')
        return tmp_path / f'mine.{ending}'

    base, short = f'{CONFIGS}/mergevq_g+r.py', dict(max_epochs=27)
    assert ratio(write(_base_=base, train_cfg=short)) == 0.1
    own = [dict(type='MultiStepLR', milestones=[30])]
    path = write(_base_=[base], train_cfg=short, param_scheduler=own)
    assert ratio(path) == 1.0


def test_nothing_to_train() -> None:
    knn = 'benchmarks/knn/mergevq-g+r_cls_knn_mnist5k'
    assert ratio(CONFIGS / f'{knn}.py') == 1.0


def test_the_discriminator_starts_at_its_share() -> None:
    cfg = Config(dict(model=dict(discriminator_start=1750)))
    stretch_start(cfg, 1.0)
    assert cfg.model.discriminator_start == 1750
    stretch_start(cfg, 0.1, {'model.discriminator_start': 1750})
    assert cfg.model.discriminator_start == 1750
    stretch_start(cfg, 1 / 18)
    assert cfg.model.discriminator_start == 97
