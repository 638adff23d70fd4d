"""What the emoji's command measures of a tokenizer, beside its config's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import one_command as shared
from emoji_pictures import image_tensor

import mergevq_mm  # noqa: F401  first: makes the installed stack usable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from mmengine.config import Config
    from torch import nn

LITES = ('lite0', 'lite2')


def frozen_network(name: str, root: Path, size: int, device: torch.device) -> nn.Module:
    """An EfficientNet with ImageNet's weights: B×1280 of images brought to a size."""
    from mergevq_mm.models.target_generators import FrozenTeacher

    network = {
        'type': 'mmpretrain.TIMMBackbone',
        'model_name': f'tf_efficientnet_{name}',
        'init_cfg': {
            'type': 'Pretrained',
            'checkpoint': str(root / f'efficientnet_{name}.safetensors'),
        },
    }
    return FrozenTeacher(network, input_size=size).to(device).eval()


def subgroup_labels(root: Path, datasets: list[dict]) -> list[np.ndarray]:
    """Sub-group of each image of data sets, by its path."""
    import numpy as np

    from mergevq_mm.datasets.image_lists import labels_by_list
    from mergevq_mm.registry import DATASETS

    found = []
    for config in datasets:
        dataset = DATASETS.build(config)
        paths = [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
        file = root / 'meta' / f'{config["split"]}_subgroups.txt'
        numbers = labels_by_list(paths, dataset.img_prefix, str(file))
        found.append(np.array(numbers))
    return found


def probe(
    cfg: Config,
    model: nn.Module,
    root: Path,
    short: bool = False,
    networks: Sequence[str] = LITES,
) -> dict[str, dict[str, float]]:
    """Linear probes over groups and sub-groups, of encoders and of pixels.

    Args:
        cfg (Config): Of the tokenizer.
        model (nn.Module): Trained with it.
        root (Path): Of the data.
        short (bool): Whether the probes may stop long before they are good. Defaults
            to False.
        networks (Sequence[str]): EfficientNets to compare with. Defaults to both.

    Returns:
        dict[str, dict]: ``groups`` and ``subgroups``: accuracy on the held-out emoji of
        each kind of features, in per cent.
    """
    from torch.nn.functional import avg_pool2d

    device = model.data_preprocessor.device
    encoder, untrained = model.backbone.eval(), shared.random_encoder(cfg, device)
    encoders = {
        'encoder': partial(shared.token_features, encoder),
        'encoder_cls': lambda x: encoder.encode(x).cls,
        'random_encoder': partial(shared.token_features, untrained),
        'pixels': lambda x: avg_pool2d(x, 4).flatten(1),  # 16×16
        # At the encoder's 64 px, and enlarged to what they rather know.
        **{
            f'efficientnet_{name}{ending}': frozen_network(name, root, size, device)
            for name in networks
            for ending, size in (('', 128), ('_64px', 64))
        },
    }
    datasets = shared.seen_and_held_out(cfg)
    features = shared.extract(encoders, datasets, model.data_preprocessor)
    # Wide features need a few hundred iterations, not a thousand.
    limits = {'penalties': (1e-3, 1e-2, 1e-1), 'max_iter': 200}
    if short:
        limits = {'penalties': (1e-2,), 'max_iter': 20}
    return {
        'groups': shared.probe(features, **limits),
        'subgroups': shared.probe(features, subgroup_labels(root, datasets), **limits),
    }


def vendors_distance(cfg: Config) -> float:
    """Fréchet distance of the held-out emoji of one vendor to those of the other.

    What two pictures of the same emoji by two artists are apart, for scale.
    """
    import numpy as np

    from mergevq_mm.evaluation.functional import gaussian_distance, gaussian_moments
    from mergevq_mm.registry import DATASETS, MODELS

    config = cfg.val_dataloader.dataset
    dataset = DATASETS.build(config)
    paths = (dataset.get_data_info(i)['img_path'] for i in range(len(dataset)))
    names = [Path(path).name for path in paths]
    extractor = MODELS.build(cfg.features)
    moments = []
    for vendor in ('google', 'twitter'):
        chosen = [i for i, name in enumerate(names) if name.startswith(vendor)]
        batches = [chosen[i : i + 100] for i in range(0, len(chosen), 100)]
        found = [extractor(image_tensor(config, b)).detach().numpy() for b in batches]
        moments.append(gaussian_moments(np.concatenate(found)))
    return float(gaussian_distance(*moments[0], *moments[1]))
