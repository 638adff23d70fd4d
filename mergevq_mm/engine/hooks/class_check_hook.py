"""Refuses to validate on classes that have other numbers than in training."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mergevq_mm.datasets.class_numbers import check_same_classes
from mergevq_mm.registry import HOOKS

from .tokenizer_check_hook import metainfo_of


@HOOKS.register_module()
class ClassCheckHook(Hook):
    """Compares the classes of training and validation data, by their names.

    Data sets of mmpretrain number the class folders of each split by themselves, and
    splits of different roots know nothing of each other. Data without ``classes`` in
    their ``metainfo`` pass.
    """

    priority = 'VERY_HIGH'

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
        # mmagic's loops have several.
        loaders = getattr(loop, 'dataloaders', None) or [loop.dataloader]
        train = metainfo_of(runner.train_dataloader.dataset).get('classes')
        for loader in loaders:
            check_same_classes(
                {
                    'train_dataloader.dataset': train,
                    'val_dataloader.dataset': metainfo_of(loader.dataset).get(
                        'classes'
                    ),
                },
                'give both the same metainfo=dict(classes=[…]), or the folders of '
                'all classes.',
            )
