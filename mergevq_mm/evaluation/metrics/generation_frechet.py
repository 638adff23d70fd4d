"""Fréchet distance of generated images to real ones, on any features."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import collect_results, get_rank, get_world_size, is_main_process
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mergevq_mm.registry import DATASETS, METRICS, MODELS
from mergevq_mm.utils.array_file import read_arrays
from mergevq_mm.utils.fileio import write_atomically

from ..feature_extractors import FeatureExtractor
from ..functional import gaussian_distance, gaussian_moments
from ..published_statistics import read_published
from .generation import GenerationMetric

Moments = tuple[np.ndarray, np.ndarray]


@METRICS.register_module()
class GenerationFrechet(GenerationMetric):
    """gFID in mmagic's evaluator, with Inception or any registered backbone.

    Names: ``gen/frechet`` and, with ``reference``, ``gen/frechet_reference``. As with
    any Fréchet distance, the protocol is logged beside it (:attr:`protocol`).

    Differences to mmagic's FID: any features; exactly so many images, whatever batches
    and ranks there are; stored statistics of the real images know what they were made
    of.

    Args:
        extractor (dict): Config of a ``FeatureExtractor``, for example
            ``dict(type='mergevq_mm.InceptionFeatures', checkpoint=PATH_OR_URL)`` or
            ``dict(type='mergevq_mm.BackboneFeatures', network=dict(...))``.
        fake_nums (int): Number of generated images.
        real_nums (int): Number of real images of the loader, spread evenly over its
            data set. Defaults to -1, all.
        real_stats (str, optional): File (.npz) to keep mean and covariance of the real
            features in, or to take them from. Defaults to None.
        statistics (str, optional): Path or URL of published statistics of real images,
            in place of those of the loader: an .npz with ``mu`` and ``sigma``, as the
            ADM suite has it. Only their number of features can be checked. Defaults to
            None.
        reference (dict, optional): Config of a data set, such as the training images:
            the distance of (at most ``fake_nums`` of) its images, what a generator that
            repeats them would reach. Defaults to None.
        **kwargs (Any): See :class:`GenerationMetric`.

    Raises:
        FileNotFoundError: If a local file of weights in ``extractor`` is not there, or
            ``statistics`` is not there or cannot be fetched.
        ValueError: If ``extractor`` is no feature extractor, there are too few images,
            or ``real_stats`` or ``statistics`` hold those of something else.
    """

    better = {'frechet': 'less'}

    def __init__(
        self,
        extractor: dict,
        fake_nums: int,
        real_nums: int = -1,
        real_stats: str | None = None,
        statistics: str | None = None,
        reference: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(fake_nums, **kwargs)
        built = MODELS.build(extractor)
        if not isinstance(built, FeatureExtractor):
            raise ValueError(
                f'extractor={extractor.get("type")!r} of GenerationFrechet is no '
                'feature extractor; wrap the backbone: dict(type='
                "'mergevq_mm.BackboneFeatures', network=dict(...))."
            )
        for name, value in (('fake_nums', fake_nums), ('real_nums', real_nums)):
            if value < 2 and (name, value) != ('real_nums', -1):
                raise ValueError(
                    f'{name}={value} images have no covariance; give at least 2.'
                )
        self.extractor = built
        self.real_nums = real_nums
        self.real_stats, self.reference = real_stats, reference
        self.protocol: dict[str, Any] = {}
        if statistics is not None and real_stats is not None:
            raise ValueError(
                f'real_stats={real_stats!r} and statistics={statistics!r} both stand '
                'for the real images; give one of them.'
            )
        self.statistics = statistics
        self._published = None if statistics is None else read_published(statistics)
        self._real: Moments | None = None
        self._reference: float | None = None

    def prepare(self, module: BaseModel, dataloader: DataLoader) -> None:
        """Compute the statistics of the real images, or read them.

        Args:
            module (BaseModel): The model, whose data preprocessor gives ``gt_img``.
            dataloader (DataLoader): Of the real images.
        """
        self.extractor.to(module.data_preprocessor.device)
        if self._published is None:
            self._prepare_real(module, dataloader)
        else:
            self._prepare_published(module.data_preprocessor.device)
        if self.reference is not None:
            others = DATASETS.build(self.reference)
            number = min(len(others), self.fake_nums)
            moments = self._moments(others, number, module, dataloader)
            if is_main_process():
                self._reference = gaussian_distance(*self._real, *moments)

    def _prepare_real(self, module: BaseModel, dataloader: DataLoader) -> None:
        """Statistics of the images of the loader, computed or read."""
        dataset = dataloader.dataset
        number = len(dataset) if self.real_nums == -1 else self.real_nums
        if number > len(dataset):
            raise ValueError(
                f'real_nums={number} is more than the {len(dataset)} images of the '
                'data set; give -1 for all.'
            )
        described = {
            **self.extractor.protocol(),
            'real': describe_dataset(dataset),
            'num_real': number,
        }
        self.protocol = described
        self._real = self._read_stats(described)
        if self._real is None:
            print_log('Features of the real images …', 'current')
            self._real = self._moments(dataset, number, module, dataloader)
            self._write_stats(described)

    @torch.no_grad()
    def _prepare_published(self, device: torch.device) -> None:
        """Published statistics, compared with the extractor before any image."""
        width = self.extractor(torch.zeros(1, 3, 64, 64, device=device)).shape[1]
        self._real = self._published
        found = len(self._real[0])
        if found != width:
            raise ValueError(
                f'statistics={self.statistics!r} are of {found} features, but the '
                f'extractor has {width}; give those of the same network.'
            )
        name = os.path.basename(self.statistics)
        self.protocol = {**self.extractor.protocol(), 'real': f'statistics {name}'}

    @torch.no_grad()
    def measure(self, samples: Sequence[Mapping]) -> list[np.ndarray]:
        """Features of generated images.

        Args:
            samples (Sequence[Mapping]): With ``fake_img`` 3×H×W in 0..255, BGR.

        Returns:
            list[np.ndarray]: D features of each.
        """
        return self._features(torch.stack([sample['fake_img'] for sample in samples]))

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """Fit a Gaussian to the features of the generated images and compare.

        Args:
            results (list[np.ndarray]): D features of each image.

        Returns:
            dict[str, float]: Name to Fréchet distance.
        """
        self.check_number(results)
        features = np.stack(results)
        self.protocol.update(num_fake=len(features), feature_dim=features.shape[1])
        described = ', '.join(f'{k}={v}' for k, v in self.protocol.items())
        print_log(f'Protocol of the Fréchet distance: {described}', 'current')
        if len(features) <= features.shape[1]:
            print_log(
                f'Fréchet distance of {len(features)} images with {features.shape[1]} '
                'features: the covariance is singular; compare only with runs on '
                'equally many images.',
                'current',
            )
        values = self.compare(*self._real, *gaussian_moments(features))
        if self._reference is not None:
            values['frechet_reference'] = self._reference
        return values

    def compare(
        self,
        mean_a: np.ndarray,
        cov_a: np.ndarray,
        mean_b: np.ndarray,
        cov_b: np.ndarray,
    ) -> dict[str, float]:
        """Named distances between the Gaussians of real and generated images."""
        return {'frechet': gaussian_distance(mean_a, cov_a, mean_b, cov_b)}

    # ------------------------------------------------------------------- real images

    def _features(self, images: Tensor) -> list[np.ndarray]:
        """D features of each of B×3×H×W images in 0..255, BGR."""
        features = self.extractor(images.flip(1).float() / 255)
        return list(features.float().cpu().numpy())

    @torch.no_grad()
    def _moments(
        self, dataset: Dataset, number: int, module: BaseModel, like: DataLoader
    ) -> Moments | None:
        """Mean and covariance over a data set; None on ranks other than the first."""
        chosen = np.linspace(0, len(dataset) - 1, number).round().astype(int)
        rank, world = get_rank(), get_world_size()
        mine = [
            int(chosen[(i * world + rank) % number])
            for i in range(math.ceil(number / world))
        ]
        loader = DataLoader(
            dataset,
            batch_size=like.batch_size,
            sampler=mine,
            num_workers=like.num_workers,
            collate_fn=pseudo_collate,
        )
        features = []
        for data in loader:
            real = module.data_preprocessor(data, False)['data_samples'].gt_img
            self.protocol['image_size'] = tuple(real.shape[-2:])
            features.extend(self._features(real))
        gathered = collect_results(features, number, self.collect_device)
        return gaussian_moments(np.stack(gathered)) if is_main_process() else None

    def _read_stats(self, described: dict[str, Any]) -> Moments | None:
        """Statistics from the file, if it is there and of the same images."""
        if self.real_stats is None or not os.path.isfile(self.real_stats):
            return None
        stored, _ = read_arrays(self.real_stats)
        try:
            found = dict(json.loads(str(stored['protocol'])))
            image_size = tuple(found['image_size'])
            moments = stored['mean'], stored['cov']
            width = moments[0].size
            if moments[0].shape != (width,) or moments[1].shape != (width, width):
                raise ValueError(f'shapes {[m.shape for m in moments]}')
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f'real_stats={self.real_stats!r} holds no statistics ({error}); delete '
                'the file or name another one.'
            ) from error
        wanted = json.loads(json.dumps(described))
        differ = [k for k in wanted if found.get(k) != wanted[k]]
        if differ:
            key = differ[0]
            raise ValueError(
                f'real_stats={self.real_stats!r} was made with '
                f'{key}={found.get(key)!r}, not {wanted[key]!r}; delete the file or '
                'name another one.'
            )
        self.protocol['image_size'] = image_size
        return moments

    def _write_stats(self, described: dict[str, Any]) -> None:
        if self.real_stats is None or not is_main_process():
            return
        buffer = io.BytesIO()
        mean, cov = self._real
        np.savez(buffer, mean=mean, cov=cov, protocol=json.dumps(described))
        write_atomically(buffer.getvalue(), self.real_stats)


def describe_dataset(dataset: Dataset) -> str:
    """Name a data set by type, folder, number of images, and a digest.

    The digest is of the pipeline, and of the images' paths and classes where the data
    set lists them: other images in the same folder are other data.

    Args:
        dataset (Dataset): For example ``mergevq_mm.ImageFolder``.

    Returns:
        str: Such as ``ImageFolder(data/imagenet/val, 50000, 1a2b3c4d)``.
    """
    parts = [getattr(dataset, name, '') or '' for name in ('data_root', 'split')]
    where = os.path.join(*map(str, parts)).rstrip('/')
    digest = hashlib.sha256(repr(getattr(dataset, 'pipeline', None)).encode())
    for i in range(len(dataset) if hasattr(dataset, 'get_data_info') else 0):
        info = dataset.get_data_info(i)
        path = os.path.relpath(info.get('img_path', '.'), parts[0] or '.')
        digest.update(f'{path}\n{info.get("gt_label")}\n'.encode())
    short = digest.hexdigest()[:8]
    return f'{type(dataset).__name__}({where}, {len(dataset)}, {short})'
