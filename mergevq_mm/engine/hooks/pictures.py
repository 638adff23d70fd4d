"""What the hooks that draw have in common."""

from __future__ import annotations

import os

import numpy as np
from mmengine.runner import EpochBasedTrainLoop, Runner

from mergevq_mm.visualization import save_png


def write_picture(
    runner: Runner, name: str, page: np.ndarray, testing: bool = False
) -> str:
    """Write ``work_dir/vis_data/<name>_<step>.png`` and tell the visualizer.

    Args:
        runner (Runner): Of the run.
        name (str): What is shown.
        page (np.ndarray): H×W×3 uint8, RGB.
        testing (bool): Whether it is of a test: the step is 'test'. Defaults to False.

    Returns:
        str: Path of the file.
    """
    step = 0
    suffix = 'test'
    if not testing:
        by_epoch = isinstance(runner._train_loop, EpochBasedTrainLoop)
        step = runner.epoch if by_epoch else runner.iter
        suffix = f'{"epoch" if by_epoch else "iter"}_{step}'
    path = os.path.join(runner.work_dir, 'vis_data', f'{name}_{suffix}.png')
    save_png(path, page)
    runner.visualizer.add_image(name, page, step)
    return path


def at_least_one(hook: object, **values: int) -> None:
    """Refuse numbers below 1.

    Args:
        hook (object): Whose arguments they are.
        **values: By name.

    Raises:
        ValueError: If one is less than 1.
    """
    for name, value in values.items():
        if value < 1:
            raise ValueError(
                f'{name}={value} of {type(hook).__name__} must be at least 1; remove '
                'the hook to draw nothing.'
            )
