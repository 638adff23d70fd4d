"""Draw plots at each validation: code usage, the caches, the training's curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mergevq_mm.evaluation.functional import code_bits
from mergevq_mm.registry import HOOKS
from mergevq_mm.utils.distributed import unwrap
from mergevq_mm.visualization import (
    cache_figure,
    code_usage_figure,
    curves_figure,
    figure_image,
    find_logs,
    read_curves,
    trace_cache,
)

from .pictures import DrawingHook, at_least_one, write_picture


@HOOKS.register_module()
class CodeUsageVisualizationHook(DrawingHook):
    """Draws rank and frequency of the codes of a validation, and their bits.

    The codes are those of the predictions that are evaluated, of the first process;
    nothing is encoded again. Written is ``work_dir/vis_data/codes_K<K>_<step>.png``.

    Args:
        bits (int, optional): Bits of a code, for predictions that do not say it; those
            of ``MergeVQ`` do. Defaults to None.
        keeps (Sequence[int], optional): Draw only these numbers of kept tokens.
            Defaults to None, all that the predictions have.
    """

    def __init__(
        self, bits: int | None = None, keeps: Sequence[int] | None = None
    ) -> None:
        super().__init__(**({} if bits is None else {'bits': bits}))
        self.bits = bits
        self._found = 0  # bits of the codes that were collected
        self.keeps = None if keeps is None else tuple(keeps)
        self._codes: dict[int, list[np.ndarray]] = {}

    def _start(self, runner: Runner, testing: bool) -> None:
        self._codes = {}

    def _collect(
        self, runner: Runner, data_batch: Any, outputs: Any, testing: bool
    ) -> None:
        """Keep the codes of a batch."""
        if not is_main_process():
            return
        for output in outputs or ():
            is_dict = isinstance(output, dict)
            made = output['reconstructions'] if is_dict else output.reconstructions
            self._found = code_bits(output, self.bits)
            for keep in made if self.keeps is None else self.keeps:
                index = made[keep]['index'].cpu().numpy()
                self._codes.setdefault(keep, []).append(index)

    def _draw(self, runner: Runner, testing: bool) -> None:
        codes, self._codes = self._codes, {}
        for keep, index in codes.items():
            figure = code_usage_figure(
                np.concatenate(index), self._found, f'K = {keep}'
            )
            write_picture(runner, f'codes_K{keep}', figure_image(figure), testing)


@HOOKS.register_module()
class CacheVisualizationHook(DrawingHook):
    """Draws how full MergeAR's caches are while a few samples are generated.

    The samples are drawn twice, with the full and the compressed cache, after the
    evaluation: some seconds for a small generator. Written is
    ``work_dir/vis_data/cache_<step>.png``.

    Args:
        num_samples (int): Samples, of the classes 0, 1, …. Defaults to 8.
        interval (int): Draw at every so manyth validation. Defaults to 1.

    Raises:
        ValueError: If a number is less than 1.
    """

    def __init__(self, num_samples: int = 8, interval: int = 1) -> None:
        super().__init__(interval, num_samples=num_samples)
        self.num_samples = num_samples

    def _draw(self, runner: Runner, testing: bool) -> None:
        if not is_main_process():
            return
        model = unwrap(runner.model)
        was_training = model.training
        model.eval()
        figure = draw_caches(model, torch.arange(self.num_samples) % model.num_classes)
        model.train(was_training)
        write_picture(runner, 'cache', figure_image(figure), testing)


def draw_caches(
    model: Any, labels: torch.Tensor, keep: int | None = None, seed: int | None = None
) -> Any:
    """Occupancy of both caches for samples of given classes.

    Args:
        model (MergeAR): In evaluation mode.
        labels (Tensor): Classes, B int64.
        keep (int, optional): K. Defaults to None, the config's.
        seed (int, optional): Defaults to None, the config's or 0.

    Returns:
        Figure: Of :func:`~mergevq_mm.visualization.cache_figure`.
    """
    from mergevq_mm.models.generators.generation_request import seeds_of

    options = dict(model.sample_cfg)
    for name in ('cache', 'speculative', 'step'):  # one code a step, either cache
        options.pop(name, None)
    default_keep = options.pop('keep', model.keep_sampler.target)
    default_seed = options.pop('seed', 0)
    keep = model.check_keep(default_keep if keep is None else keep)
    seeds = seeds_of(default_seed if seed is None else seed, range(len(labels)))
    labels = labels.to(model.device)
    traces = {
        cache: trace_cache(model, labels, keep, seeds, cache, **options)
        for cache in ('full', 'compressed')
    }
    return cache_figure(traces, f'Cache during generation, K = {keep}')


@HOOKS.register_module()
class CurvesVisualizationHook(Hook):
    """Keeps a picture of the training's curves, ``work_dir/curves.png``.

    It is drawn after each epoch (or validation) from the logs that mmengine writes, of
    earlier starts of the run too, and needs the ``LocalVisBackend``.

    Args:
        keys (Sequence[str], optional): What the names to draw begin with. Defaults to
            None, everything.
        interval (int): Epochs from one drawing to the next. Defaults to 1.

    Raises:
        ValueError: If ``interval`` is less than 1.
    """

    priority = 'LOWEST'  # after the logger has written

    def __init__(self, keys: Sequence[str] | None = None, interval: int = 1) -> None:
        at_least_one(self, interval=interval)
        self.keys = None if keys is None else tuple(keys)
        self.interval = interval

    def after_train_epoch(self, runner: Runner) -> None:
        """Draw."""
        if self.every_n_epochs(runner, self.interval):
            self._write(runner)

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Draw."""
        self._write(runner)

    def _write(self, runner: Runner) -> None:
        from mergevq_mm.visualization import save_png

        if not is_main_process():
            return
        try:
            curves = read_curves(find_logs(runner.work_dir))
        except FileNotFoundError:  # nothing has been logged yet
            return
        if curves:
            figure = curves_figure(curves, self.keys, runner.experiment_name)
            save_png(f'{runner.work_dir}/curves.png', figure_image(figure))
