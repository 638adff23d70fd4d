"""A stage-1 config of a few thousand weights, with which the report runs on a CPU."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

BASE = Path(__file__).parents[2] / 'configs' / 'mergevq_g+r.py'
HYBRID = dict(
    stem='hybrid',
    base_channels=8,
    channel_mult=(1, 2, 4),
    num_res_blocks=1,
    num_layers=2,
    num_heads=4,
)
NETWORK = dict(
    type='mergevq_mm.MergeVQEncoder',
    arch=dict(stem='patch', embed_dims=16, patch_size=4, num_layers=1, num_heads=2),
    img_size=32,
)


def small_stage1(folder: Path) -> str:
    """Write the config.

    Args:
        folder (Path): Where to.

    Returns:
        str: Its path.
    """
    cfg = Config.fromfile(str(BASE), lazy_import=False)
    model = cfg.model
    model.backbone.update(arch=HYBRID, img_size=32, init_cfg=None)
    model.quantizer.update(bits=8, split=(4, 4), in_channels=32)
    model.neck.update(
        bits=8, grid=(8, 8), embed_dims=32, num_heads=4, feedforward_channels=64
    )
    model.decoder.update(
        bits=8,
        base_channels=8,
        channel_mult=(1, 2, 4),
        num_res_blocks=1,
        num_layers=1,
        num_heads=4,
    )
    model.head.alignment.update(in_channels=32, out_channels=16)
    model.head.perceptual = dict(
        type='mergevq_mm.PerceptualLoss', network=dict(NETWORK, out_type='featmap')
    )
    model.discriminator.update(base_channels=8, num_conv=2)
    model.target_generator = dict(type='mergevq_mm.FrozenTeacher', network=NETWORK)
    model.keep = dict(target=32, candidates=[32])
    model.test_cfg = dict(keep=[32])
    # One size for the image and both views.
    for steps in cfg.train_dataloader.dataset.pipeline[1].transforms:
        for step in steps:
            for name in {'scale', 'crop_size'} & set(step):
                step[name] = 32
    file = folder / 'small.py'
    cfg.dump(file)
    return str(file)
