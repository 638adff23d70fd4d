"""TensorBoard and W&B for runs that are killed and resumed.

mmengine starts a new folder, or a new W&B run, at each resume, counts validations in
epochs and trainings in iterations on the same axis, and gives W&B no step at all. Here
a work dir is one run, everything lies over the iterations of the training, and where a
resumed run repeats iterations, what was logged of them before is dropped (TensorBoard)
or lies below the new values (W&B, which cannot take back).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.fileio import dump
from mmengine.logging import MessageHub
from mmengine.visualization import TensorboardVisBackend, WandbVisBackend

from mergevq_mm.registry import VISBACKENDS


def run_folder(save_dir: str | os.PathLike) -> Path:
    """The work dir of a run, from what mmengine's visualizer gives its backends.

    Args:
        save_dir (str | PathLike): ``<work dir>/<timestamp>/vis_data``, or any folder.

    Returns:
        Path: The work dir; another folder as it is.
    """
    path = Path(save_dir)
    return path.parents[1] if path.name == 'vis_data' else path


def iterations_done() -> int:
    """Iterations of the training that were done when something is logged."""
    hub = MessageHub.get_current_instance()
    # mmengine notes the number of the iteration that runs, from 0, and nothing before.
    return hub.get_info('iter', -1) + 1


@VISBACKENDS.register_module()
class RunTensorboardBackend(TensorboardVisBackend):
    """Event files of all starts of a run in ``<work dir>/tensorboard``.

    The file is opened with the first number, whose iteration is known: TensorBoard
    then drops what an earlier start logged at this iteration or later.

    Args:
        save_dir (str): Given by the visualizer.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(str(run_folder(save_dir) / 'tensorboard'))
        self._config: str | None = None

    def _open(self, step: int) -> Any:
        """The writer; made at the first call."""
        if not hasattr(self, '_tensorboard'):
            from torch.utils.tensorboard import SummaryWriter

            self._env_initialized = True
            self._tensorboard = SummaryWriter(self._save_dir, purge_step=step)
            if self._config is not None:
                self._tensorboard.add_text('config', self._config, step)
        return self._tensorboard

    def _init_env(self) -> None:
        self._open(iterations_done())

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Note the config; it is written with the first number."""
        self._config = f'```python\n{config.pretty_text}\n```'

    def add_image(
        self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any
    ) -> None:
        """Write an image H×W×3 (RGB) at the iteration of the training."""
        step = iterations_done()
        self._open(step).add_image(name, image, step, dataformats='HWC')

    def add_scalar(
        self,
        name: str,
        value: int | float | torch.Tensor | np.ndarray,
        step: int = 0,
        **kwargs: Any,
    ) -> None:
        """Write a number at the iteration of the training."""
        step = iterations_done()
        self._open(step).add_scalar(name, value, step)

    def add_scalars(
        self,
        scalar_dict: Mapping[str, Any],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Write numbers at the iteration of the training; what is none is left out."""
        for name, value in scalar_dict.items():
            if isinstance(value, (int, float, torch.Tensor, np.ndarray, np.number)):
                self.add_scalar(name, value)


@VISBACKENDS.register_module()
class RunWandbBackend(WandbVisBackend):
    """One W&B run for all starts of a work dir, over the iterations of the training.

    The run's id is kept in ``<work dir>/wandb_run.json``. All numbers and pictures
    carry ``trainer/iteration``, which is their axis.

    Args:
        save_dir (str): Given by the visualizer.
        init_kwargs (dict, optional): Of ``wandb.init``; with ``mode='offline'`` nothing
            leaves the machine. Defaults to None.
        **kwargs: Of mmengine's ``WandbVisBackend``.
    """

    STEP = 'trainer/iteration'

    def __init__(
        self, save_dir: str, init_kwargs: dict | None = None, **kwargs: Any
    ) -> None:
        folder = run_folder(save_dir)
        init_kwargs = {'resume': 'allow', **(init_kwargs or {})}
        init_kwargs.setdefault('allow_val_change', True)  # a resumed run's config
        kwargs.setdefault(
            'define_metric_cfg', [{'name': '*', 'step_metric': self.STEP}]
        )
        super().__init__(str(folder / 'wandb'), init_kwargs, **kwargs)
        self._id_file = folder / 'wandb_run.json'

    def _init_env(self) -> None:
        if 'id' not in self._init_kwargs:
            self._init_kwargs['id'] = self._run_id()
        super()._init_env()

    def _run_id(self) -> str:
        """The id of this work dir; drawn at its first start."""
        import json
        import uuid

        if self._id_file.is_file():
            return json.loads(self._id_file.read_text(encoding='utf-8'))['id']
        run = uuid.uuid4().hex[:12]
        self._id_file.parent.mkdir(parents=True, exist_ok=True)
        dump({'id': run}, str(self._id_file))
        return run

    def _log(self, values: Mapping[str, Any]) -> None:
        at = {self.STEP: iterations_done()}
        self.experiment.log({**values, **at}, commit=self._commit)

    def add_image(
        self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any
    ) -> None:
        """Write an image H×W×3 (RGB) at the iteration of the training."""
        self._log({name: self.experiment.Image(image)})

    def add_scalar(
        self,
        name: str,
        value: int | float | torch.Tensor | np.ndarray,
        step: int = 0,
        **kwargs: Any,
    ) -> None:
        """Write a number at the iteration of the training."""
        self._log({name: value})

    def add_scalars(
        self,
        scalar_dict: Mapping[str, Any],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Write numbers at the iteration of the training."""
        self._log(scalar_dict)

    def close(self) -> None:
        """End the run; mmengine's own way is gone from newer versions of wandb."""
        if hasattr(self, '_wandb'):
            self._wandb.finish()
