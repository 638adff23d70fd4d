"""What metrics of generated images have in common; means of the diagnostics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.dist import get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch.utils.data import DataLoader

from mergevq_mm.registry import METRICS


class GenerationMetric(BaseMetric):
    """Base of metrics that mmagic's evaluator serves with generated images.

    It stands beside mmagic's FID, IS and PrecisionAndRecall in one
    ``mmagic.Evaluator`` and is served by the same images. A subclass measures each
    image in :meth:`measure`; the results come to :meth:`compute_metrics` in the order
    of the images' numbers, so that values do not depend on the number of ranks.

    Args:
        fake_nums (int): Number of generated images.
        sample_model (str): Metrics with the same value share the generated images.
            Defaults to 'orig'.
        collect_device (str): 'cpu' or 'gpu'. Defaults to 'cpu'.
        prefix (str, optional): First part of the names. Defaults to None, 'gen'.
        collect_dir (str, optional): Folder to gather results in. Defaults to None.

    Raises:
        ValueError: If there are no images, or (when evaluated) fewer than asked for.
    """

    default_prefix = 'gen'
    # mmagic's evaluator groups metrics by these.
    SAMPLER_MODE = 'Generative'
    need_cond_input = False

    def __init__(
        self,
        fake_nums: int,
        sample_model: str = 'orig',
        collect_device: str = 'cpu',
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        if fake_nums < 1:
            raise ValueError(
                f'fake_nums={fake_nums} leaves no image to measure; give at least 1.'
            )
        self.fake_nums = fake_nums
        self.sample_model = sample_model

    def measure(self, samples: Sequence[Mapping]) -> list[Any]:
        """A result for each generated image.

        Args:
            samples (Sequence[Mapping]): With ``fake_img`` 3×H×W in 0..255, BGR.

        Returns:
            list[Any]: One result an image.
        """
        raise NotImplementedError

    @property
    def fake_nums_per_device(self) -> int:
        """int: Generated images that this process needs."""
        return math.ceil(self.fake_nums / get_world_size())

    def prepare(self, module: BaseModel, dataloader: DataLoader) -> None:
        """Called before an evaluation; nothing to do.

        Args:
            module (BaseModel): The model.
            dataloader (DataLoader): Of the real images.
        """

    def get_metric_sampler(
        self, model: BaseModel, dataloader: DataLoader, metrics: Sequence[BaseMetric]
    ) -> list[dict]:
        """Requests for exactly as many images as these metrics need.

        Args:
            model (BaseModel): Not used.
            dataloader (DataLoader): Of the real images; gives the batch size.
            metrics (Sequence[BaseMetric]): Metrics that share the images.

        Returns:
            list[dict]: Batches for the model's ``val_step``.
        """
        total = max(metric.fake_nums_per_device for metric in metrics)
        size = dataloader.batch_size
        return [
            {
                'inputs': {
                    'sample_model': self.sample_model,
                    'num_batches': min(size, total - start),
                    'sample_kwargs': {},
                }
            }
            for start in range(0, total, size)
        ]

    def process(self, data_batch: Any, data_samples: Sequence[Mapping]) -> None:
        """Measure generated images until there are enough.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[Mapping]): Generated images.
        """
        room = self.fake_nums_per_device - len(self.results)
        samples = data_samples[: max(room, 0)]
        if samples:
            self.results.extend(self.measure(samples))

    def evaluate(self, size: int | None = None) -> dict[str, float]:
        """Gather the results of all ranks and compute the metrics.

        Args:
            size (int, optional): Not used; mmagic's evaluator gives none.

        Returns:
            dict[str, float]: Name to value.
        """
        # Ranks are interleaved, as the images are numbered.
        return super().evaluate(self.fake_nums)

    def check_number(self, results: Sequence[Any]) -> None:
        """Refuse fewer results than images that were asked for."""
        if len(results) < self.fake_nums:
            raise ValueError(
                f'fake_nums={self.fake_nums} images were asked for, but '
                f'{len(results)} came; let mmagic.MultiValLoop run the evaluation.'
            )


@METRICS.register_module()
class GenerationStatistics(GenerationMetric):
    """Mean diagnostics of generated images: distinct codes, cache, passes.

    Names: ``gen/<name>`` for each of the model's ``SampledCodes.stats``, such as
    ``gen/distinct``, and ``gen/<name>_max``, the largest.

    Args:
        fake_nums (int): Number of generated images.
        **kwargs (Any): See :class:`GenerationMetric`.
    """

    def measure(self, samples: Sequence[Mapping]) -> list[dict[str, float]]:
        """The diagnostics of each image."""
        return [dict(sample.get('sample_stats', {})) for sample in samples]

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """Average over the images.

        Args:
            results (list[dict[str, float]]): Diagnostics of each image.

        Returns:
            dict[str, float]: Name to value.
        """
        self.check_number(results)
        values = {}
        for name in results[0]:
            column = [result[name] for result in results]
            values[name] = float(np.mean(column))
            values[f'{name}_max'] = float(max(column))
        return values
