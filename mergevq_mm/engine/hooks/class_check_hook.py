"""Looks whether the classes of a validation have their numbers of the training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mergevq_mm.datasets.class_numbers import check_same_classes
from mergevq_mm.registry import HOOKS

from ..first_step import refusing
from .tokenizer_check_hook import metainfo_of


@HOOKS.register_module()
class ClassCheckHook(Hook):
    """Compares the classes of training and validation data, by their names.

    Data sets of mmpretrain number the class folders of each split by themselves, and
    splits of different roots know nothing of each other. Data without ``classes`` in
    their ``metainfo`` pass. A test is compared with the classes that its checkpoint was
    trained on; there a difference is a warning, for a tokenizer may be tested on any
    images.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._trained: Sequence[str] | None = None

    @refusing()
    def before_train(self, runner: Runner) -> None:
        """Compare, before the first step.

        Args:
            runner (Runner): The runner.

        Raises:
            ValueError: If a number is that of different classes.
        """
        loop = runner.val_loop
        if loop is None:
            return
        train = metainfo_of(runner.train_dataloader.dataset).get('classes')
        for classes in _classes_of(loop):
            check_same_classes(
                {
                    'train_dataloader.dataset': train,
                    'val_dataloader.dataset': classes,
                },
                'give both the same metainfo=dict(classes=[…]), or the folders of '
                'all classes.',
            )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the names of the classes that the checkpoint was trained on.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What was loaded.
        """
        about = (checkpoint.get('meta') or {}).get('dataset_meta') or {}
        self._trained = about.get('classes')

    def before_test(self, runner: Runner) -> None:
        """Compare, and tell of a difference.

        Args:
            runner (Runner): The runner.
        """
        for classes in _classes_of(runner.test_loop):
            try:
                check_same_classes(
                    {'the training': self._trained, 'test_dataloader.dataset': classes},
                    'metrics of labels are wrong: name the classes of the training in '
                    'their order with test_dataloader.dataset.metainfo.classes.',
                )
            except ValueError as error:
                print_log(str(error), logger='current', level=logging.WARNING)


def _classes_of(loop: Any) -> list[Sequence[str] | None]:
    """Names of the classes of the data sets of a loop; mmagic's have several."""
    loaders = getattr(loop, 'dataloaders', None) or [loop.dataloader]
    return [metainfo_of(loader.dataset).get('classes') for loader in loaders]
