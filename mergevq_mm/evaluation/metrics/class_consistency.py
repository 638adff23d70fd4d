"""Whether a classifier sees in a generated image the class that was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch.utils.data import DataLoader

from mergevq_mm.models.utils.frozen import FrozenModel
from mergevq_mm.registry import METRICS

from .generation import GenerationMetric


@METRICS.register_module()
class ClassConsistency(GenerationMetric):
    """Share of the generated images that a classifier assigns to their class, in %.

    Names: ``gen/consistency`` and ``gen/consistency_worst``, that of the class with the
    lowest share.

    Args:
        classifier (dict): A classifier of mmpretrain, whose
            ``init_cfg=dict(type='Pretrained', checkpoint=PATH_OR_URL)`` names the
            weights.
        fake_nums (int): Number of generated images.
        mean (Sequence[float], optional): Channel means that it expects, in 0..255.
            Defaults to None, images in [-1, 1].
        std (Sequence[float], optional): Channel deviations. Defaults to None.
        input_size (int, optional): Size to resize to. Defaults to None, no resize.
        grey (bool): Whether it takes one channel. Defaults to False.
        random_init (bool): Accept a classifier without weights, for tests. Defaults to
            False.
        **kwargs (Any): See :class:`GenerationMetric`.

    Raises:
        ValueError: If the classifier names no weights.
    """

    better = {'consistency': 'greater'}

    def __init__(
        self,
        classifier: dict,
        fake_nums: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        input_size: int | None = None,
        grey: bool = False,
        random_init: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(fake_nums, **kwargs)
        # Its bare names are mmpretrain's, also in a run of mmagic's scope.
        classifier = {'_scope_': 'mmpretrain', **classifier}
        self.classifier = FrozenModel(
            classifier, mean, std, input_size, random_init=random_init
        )
        self.grey = grey

    def prepare(self, module: BaseModel, dataloader: DataLoader) -> None:
        """Bring the classifier to the model's device."""
        self.classifier.to(module.data_preprocessor.device)

    @torch.no_grad()
    def measure(self, samples: Sequence[Mapping]) -> list[tuple[int, int]]:
        """The class of each image, and the class that is seen in it.

        Args:
            samples (Sequence[Mapping]): With ``fake_img`` 3×H×W in 0..255, BGR, and
                ``gt_label``.

        Returns:
            list[tuple[int, int]]: Asked for, seen.
        """
        images = torch.stack([sample['fake_img'] for sample in samples])
        images = images.flip(1).float() / 127.5 - 1  # RGB in [-1, 1]
        images = self.classifier.normalize(images)
        if self.grey:
            images = images.mean(dim=1, keepdim=True)
        judged = self.classifier.network(images, mode='predict')
        labels = [sample['gt_label'] for sample in samples]
        # mmagic's evaluator turns samples into dicts, labels too.
        labels = [x['label'] if isinstance(x, Mapping) else x for x in labels]
        labels = [int(label) for label in labels]
        seen = [int(sample.pred_label) for sample in judged]
        return list(zip(labels, seen, strict=True))

    def compute_metrics(self, results: list[tuple[int, int]]) -> dict[str, float]:
        """Count.

        Args:
            results (list[tuple[int, int]]): Of :meth:`measure`.

        Returns:
            dict[str, float]: Name to per cent.
        """
        self.check_number(results)
        hits: dict[int, list[bool]] = {}
        for label, seen in results:
            hits.setdefault(label, []).append(label == seen)
        shares = [sum(right) / len(right) for right in hits.values()]
        return {
            'consistency': 100 * sum(map(sum, hits.values())) / len(results),
            'consistency_worst': 100 * min(shares),
        }
