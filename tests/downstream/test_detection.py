"""RetinaNet and Mask R-CNN of mmdet on the encoder: training and inference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tiny_downstream import (
    CONFIGS,
    PHOTOGRAPHS,
    StartsFrom,
    check_rates,
    complete,
    divide,
    has_ops,
    losses,
    save_encoder,
    shrink_backbone,
)

RETINANET = sorted((CONFIGS / 'mmdet').glob('retinanet_*.py'))
MASK_RCNN = sorted((CONFIGS / 'mmdet').glob('mask-rcnn_*.py'))
needs_ops = pytest.mark.skipif(
    not has_ops(),
    reason='mmcv-lite has no compiled operators, which Mask R-CNN needs (RoIAlign, '
    'nms): see docs/downstream.md',
)
WIDTH = 32


def shrink(path: Path, data: Path) -> Config:
    """Narrow networks; data sets, pipelines, losses and anchors stay mmdet's."""
    cfg = Config.fromfile(path)
    model = cfg.model
    divisor = shrink_backbone(cfg)
    model.neck.in_channels = divide(model.neck.in_channels, divisor)
    model.neck.out_channels = WIDTH
    if model.type == 'RetinaNet':
        model.bbox_head.update(in_channels=WIDTH, feat_channels=WIDTH, stacked_convs=1)
        if not has_ops():  # non-maximum suppression is one of them
            model.test_cfg.nms = None
    else:
        model.rpn_head.update(in_channels=WIDTH, feat_channels=WIDTH)
        heads = model.roi_head
        heads.bbox_roi_extractor.out_channels = WIDTH
        heads.mask_roi_extractor.out_channels = WIDTH
        heads.bbox_head.update(in_channels=WIDTH, fc_out_channels=64)
        heads.mask_head.update(in_channels=WIDTH, conv_out_channels=WIDTH, num_convs=1)
        model.test_cfg.rpn.update(nms_pre=100, max_per_img=100)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        dataset = loader.dataset
        dataset.update(data_root=str(data), ann_file='coco.json')
        dataset.data_prefix.img = 'images/'
        for step in dataset.pipeline:
            if step.type == 'Resize':
                step.scale = (128, 96)  # the larger edge or the smaller one
            if step.type == 'RandomFlip':
                step.prob = 0.0
    cfg.val_evaluator.ann_file = str(data / 'coco.json')
    return cfg


def train(
    cfg: Config, work_dir: Path, epochs: int, lr: float, batch_size: int
) -> Runner:
    """Train with mmdet's loop, and validate at the end."""
    weights = save_encoder(cfg, work_dir / 'mergevq.pth')
    complete(cfg, work_dir)
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.train_dataloader.batch_size = batch_size
    cfg.param_scheduler = []
    cfg.optim_wrapper.optimizer.lr = lr
    runner = Runner.from_cfg(cfg)
    runner.register_hook(StartsFrom(weights))
    runner.train()
    return runner


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two boxes or of two masks."""
    if a.dtype == bool:
        return (a & b).sum() / (a | b).sum()
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inner = np.prod(np.clip(high - low, 0, None))
    return inner / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner)


@torch.no_grad()
def check_predictions(runner: Runner, masks: bool) -> None:
    """Predictions fit their photographs; in two or more the class's best is the object.

    So short a training finds 4 or 5 of the 5, by its seed.
    """
    runner.model.eval()
    sizes, hits = [], 0
    for batch in runner.val_dataloader:
        for sample in runner.model.val_step(batch):
            height, width = sample.ori_shape
            found, truth = sample.pred_instances, sample.gt_instances
            sizes.append((width, height))
            boxes, scores = found.bboxes.numpy(), found.scores.numpy()
            assert 0 < len(found) <= 100
            assert (boxes >= 0).all() and (boxes[:, 2:] >= boxes[:, :2]).all()
            assert (boxes[:, 2:] <= np.array([width, height]) + 1e-3).all()
            assert (np.diff(scores) <= 0).all() and 0 <= scores[-1] <= scores[0] <= 1
            if masks:
                assert found.masks.shape == (len(found), height, width)
                assert found.masks.dtype == torch.bool
            ranks = (found.labels == truth.labels[0]).nonzero()
            if not len(ranks):
                continue
            best = ranks[0].item()
            # mmdet marks the truth after it has resized: in pixels of the file.
            hit = iou(boxes[best], truth.bboxes.numpy()[0]) > 0.5
            if masks:
                true = truth.masks.masks[0].astype(bool)
                hit = hit and iou(found.masks[best].numpy(), true) > 0.5
            hits += int(hit)
    assert hits >= 2
    assert sizes == [row[2] for row in PHOTOGRAPHS.values()]


@pytest.mark.parametrize('path', RETINANET, ids=lambda path: path.stem)
def test_retinanet(path: Path, data: Path, tmp_path: Path) -> None:
    cfg = shrink(path, data)
    runner = train(cfg, tmp_path, epochs=20, lr=2e-3, batch_size=len(PHOTOGRAPHS))
    curve = losses(runner)
    assert np.isfinite(curve).all() and len(curve) == 20
    assert curve[-1] < 0.5 * curve[0]
    check_predictions(runner, masks=False)
    check_rates(runner, cfg.model.backbone.arch['stem'])
    assert runner.message_hub.get_scalar('val/coco/bbox_mAP_50').current() > 0.3


@needs_ops
@pytest.mark.parametrize('path', MASK_RCNN, ids=lambda path: path.stem)
def test_mask_rcnn(path: Path, data: Path, tmp_path: Path) -> None:
    cfg = shrink(path, data)
    # One by one, as they are tested: photographs of two orientations in one batch have
    # much padding, which a plain ViT sees and, with no other batch, learns by heart.
    runner = train(cfg, tmp_path, epochs=80, lr=2e-3, batch_size=1)
    for name in ('loss', 'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_mask'):
        curve = losses(runner, name)
        assert np.isfinite(curve).all() and len(curve) == 80 * len(PHOTOGRAPHS)
        if name in ('loss', 'loss_rpn_cls', 'loss_cls'):
            assert curve[-len(PHOTOGRAPHS) :].mean() < 0.3 * curve[0]
    check_predictions(runner, masks=True)
    assert runner.message_hub.get_scalar('val/coco/segm_mAP_50').current() > 0.5
