"""Refuses to train a generator on the codes of another tokenizer than its own."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mergevq_mm.registry import HOOKS
from mergevq_mm.utils.distributed import unwrap


@HOOKS.register_module()
class TokenizerCheckHook(Hook):
    """Compares the fingerprints of cached codes and of the model's tokenizer.

    Codes of another tokenizer, or of another checkpoint of the same, are numbers of the
    same range with another meaning: the training would run, and the images be noise.
    Data sets without a ``fingerprint`` in their ``metainfo`` (images) pass; the
    tokenizer's weights are read all the same, so that those of a tokenizer of another
    shape are an error before the first step.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Compare, before the first step.

        Args:
            runner (Runner): The runner.

        Raises:
            ValueError: If they differ, or the tokenizer's checkpoint does not fit it.
            FileNotFoundError: If the checkpoint is missing.
        """
        tokenizer = getattr(unwrap(runner.model), 'tokenizer', None)
        if tokenizer is None:
            return
        found = tokenizer.fingerprint()  # reads the weights, which may not fit
        metainfo = getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}
        expected = metainfo.get('fingerprint')
        if expected is not None and found != expected:
            raise ValueError(
                f'train_dataloader.dataset holds codes of the tokenizer '
                f'{expected[:12]}…, but model.tokenizer is {found[:12]}…; give the '
                'checkpoint that the codes were made with, or extract them anew '
                '(tools/extract_codes.py).'
            )
