"""Grids of the images that an evaluation generates."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement
from PIL import Image
from ready_processes import run_ranks

from mergevq_mm.engine import SampleVisualizationHook
from mergevq_mm.utils.distributed import end_process_group
from mergevq_mm.visualization import sample_grid


class Visualizer:
    """Remembers what it gets."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def add_image(self, name: str, image: np.ndarray, step: int) -> None:
        self.calls.append((name, image, step))


def make_runner(work_dir: Path) -> Any:
    return SimpleNamespace(
        work_dir=str(work_dir), visualizer=Visualizer(), _train_loop=None, iter=30
    )


def outputs(*values: int) -> list[BaseDataElement]:
    """Samples of 70×64 pixels: blue of these values, green 100, red 0."""
    samples = []
    for value in values:
        image = torch.zeros(3, 70, 64)
        image[0], image[1] = value, 100
        samples.append(BaseDataElement(fake_img=image))
    return samples


def test_the_first_images_of_a_validation(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    hook = SampleVisualizationHook(num_images=5, columns=3)
    for offset in (0, 100):  # two validations
        hook.before_val_epoch(runner)
        hook.after_val_iter(runner, 0, outputs=outputs(*range(offset, offset + 4)))
        hook.after_val_iter(runner, 1, outputs=outputs(*range(offset + 4, offset + 8)))
        hook.after_val_epoch(runner)
    page = np.asarray(Image.open(tmp_path / 'vis_data' / 'samples_iter_30.png'))
    assert page.shape == (6 + 2 * 76, 6 + 3 * 70, 3)
    for i in range(6):
        y, x = 6 + 76 * (i // 3), 6 + 70 * (i % 3)
        cell = page[y : y + 70, x : x + 64]
        colour = [0, 100, 100 + i] if i < 5 else [255] * 3
        assert (cell == colour).all()
    (first, second) = runner.visualizer.calls
    assert first[0] == 'samples' and second[2] == 30
    np.testing.assert_array_equal(second[1], page)


def test_test_and_nothing(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    hook = SampleVisualizationHook()
    hook.before_test_epoch(runner)
    hook.after_test_epoch(runner)
    assert not list(tmp_path.iterdir())
    hook.after_test_iter(runner, 0, outputs=outputs(9))
    hook.after_test_epoch(runner)
    page = np.asarray(Image.open(tmp_path / 'vis_data' / 'samples_test.png'))
    assert page.shape == (82, 76, 3) and (page[6, 6] == [0, 100, 9]).all()


def numbered(*numbers: int) -> list[BaseDataElement]:
    """Samples that know their numbers, which are their blue too."""
    samples = outputs(*numbers)
    for number, sample in zip(numbers, samples, strict=True):
        sample.set_metainfo({'sample_number': number})
    return samples


def test_images_of_all_processes(tmp_path: Path, monkeypatch) -> None:
    """Three processes with images 0 3 6 …, 1 4 7 … and 2 5 8 …; the grid has 0 to 6."""
    module = 'mergevq_mm.engine.hooks.sample_hook'
    hooks = [SampleVisualizationHook(num_images=7, columns=7) for _ in range(3)]
    monkeypatch.setattr(f'{module}.get_world_size', lambda: 3)
    for rank, hook in enumerate(hooks):
        hook.before_test_epoch(None)
        for start in (0, 6):
            images = numbered(start + rank, start + rank + 3)
            hook.after_test_iter(None, 0, outputs=images)
    kept = [list(hook._images) for hook in hooks]
    assert [len(part) for part in kept] == [3, 3, 3]  # no more than is needed
    monkeypatch.setattr(f'{module}.all_gather_object', lambda mine: kept)
    runners = []
    for rank, hook in enumerate(hooks):
        monkeypatch.setattr(f'{module}.is_main_process', lambda rank=rank: rank == 0)
        runners.append(make_runner(tmp_path / f'{rank}'))
        hook.after_test_epoch(runners[-1])
    assert [len(runner.visualizer.calls) for runner in runners] == [1, 0, 0]
    page = np.asarray(Image.open(tmp_path / '0/vis_data/samples_test.png'))
    assert [page[6, 6 + 70 * i, 2] for i in range(7)] == list(range(7))


@pytest.mark.slow
def test_two_processes_draw_the_grid_of_one(tmp_path: Path) -> None:
    """Through gloo."""
    address = f'file://{tmp_path / "meeting"}'
    run_ranks(_show, (address, str(tmp_path / 'two')))
    hook, runner = SampleVisualizationHook(num_images=5), make_runner(tmp_path / 'one')
    hook.after_test_iter(runner, 0, outputs=numbered(*range(6)))
    hook.after_test_epoch(runner)
    one, two = (tmp_path / n / 'vis_data/samples_test.png' for n in ('one', 'two'))
    assert one.read_bytes() == two.read_bytes()


def _show(rank: int, address: str, work_dir: str) -> None:
    """What one of two processes does."""
    torch.distributed.init_process_group(
        'gloo', init_method=address, rank=rank, world_size=2
    )
    hook, runner = SampleVisualizationHook(num_images=5), make_runner(Path(work_dir))
    hook.after_test_iter(runner, 0, outputs=numbered(rank, rank + 2, rank + 4))
    hook.after_test_epoch(runner)
    end_process_group()


def test_small_images_are_doubled() -> None:
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    page = sample_grid([image], columns=4)
    np.testing.assert_array_equal(page[6:22:2, 6:22:2], image)
    np.testing.assert_array_equal(page[7:22:2, 7:22:2], image)


@pytest.mark.parametrize('name', ['num_images', 'columns'])
def test_bad_input(name: str) -> None:
    with pytest.raises(ValueError, match=f'{name}=0 of SampleVisualizationHook'):
        SampleVisualizationHook(**{name: 0})
    with pytest.raises(ValueError, match='images is empty'):
        sample_grid([], 3)
