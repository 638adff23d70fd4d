import os

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from mergevq_mm.engine.hooks.reconstruction_hook import (
    ReconstructionVisualizationHook,
)
from mergevq_mm.visualization import reconstruction_grid


class _Numbers(Dataset):
    """Ten images; image i is filled with i/10."""

    METAINFO: dict = {}
    metainfo: dict = {}

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return torch.full((3, 32, 32), i / 10)


class _Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.forwards = 0

    def val_step(self, data):
        return self(data, mode='predict')

    def train_step(self, data, optim_wrapper):
        return dict(loss=self.weight.detach())

    test_step = val_step

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.forwards += 1
        return [_prediction(image) for image in inputs]


class _NoMetrics:
    dataset_meta = None

    def process(self, data_samples, data_batch=None):
        pass

    def evaluate(self, size):
        return {}


def _prediction(image):
    sample = DataSample()
    sample.set_field(image, 'original')
    sample.set_field((2, 2), 'grid')
    groups = torch.arange(4)
    results = {4: dict(image=image, group=groups, index=groups)}
    sample.set_field(results, 'reconstructions')
    return sample


def _loader():
    return dict(
        dataset=_Numbers(),
        batch_size=4,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=default_collate,
    )


def _runner(work_dir, hook):
    from mmengine.evaluator import Evaluator

    class _Evaluator(_NoMetrics, Evaluator):
        def __init__(self):
            self.metrics = []

    return Runner(
        _Model(),
        str(work_dir),
        train_dataloader=_loader(),
        train_cfg=dict(by_epoch=True, max_epochs=4, val_interval=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        val_dataloader=_loader(),
        val_cfg=dict(),
        val_evaluator=_Evaluator(),
        test_dataloader=_loader(),
        test_cfg=dict(),
        test_evaluator=_Evaluator(),
        custom_hooks=[hook],
        default_hooks=dict(checkpoint=None),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        experiment_name=f'reconstruction_hook_{os.path.basename(work_dir)}',
        log_level='ERROR',
    )


def test_pictures_of_training_and_test(tmp_path):
    hook = ReconstructionVisualizationHook(num_images=4, interval=2)
    runner = _runner(tmp_path, hook)
    runner.train()
    folder = tmp_path / 'vis_data'
    # The first and every second validation after it.
    names = ['reconstruction_epoch_1.png', 'reconstruction_epoch_3.png']
    assert sorted(os.listdir(folder)) == names
    assert runner.model.forwards == 4 * 3
    # Evenly spread: images 0, 3, 6 and 9 of 10.
    chosen = [_prediction(_Numbers()[i]).to_dict() for i in (0, 3, 6, 9)]
    expected = reconstruction_grid(chosen)
    found = np.asarray(Image.open(folder / names[0]))
    np.testing.assert_array_equal(found, expected)
    backend = list(tmp_path.glob('*/vis_data/vis_image/reconstruction_1.png'))
    np.testing.assert_array_equal(np.asarray(Image.open(backend[0])), expected)
    runner.test()
    assert 'reconstruction_test.png' in os.listdir(folder)


def test_fewer_images_than_rows(tmp_path):
    hook = ReconstructionVisualizationHook(num_images=50)
    _runner(tmp_path, hook).val()
    found = np.asarray(Image.open(tmp_path / 'vis_data' / 'reconstruction_iter_0.png'))
    assert found.shape[0] == 24 + 10 * 166


def test_bad_input():
    with pytest.raises(ValueError, match='num_images=0'):
        ReconstructionVisualizationHook(num_images=0)
    with pytest.raises(ValueError, match='interval=0'):
        ReconstructionVisualizationHook(interval=0)
