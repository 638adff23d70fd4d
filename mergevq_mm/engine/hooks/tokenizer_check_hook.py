"""Refuses to train a generator on codes that are not for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mergevq_mm.registry import HOOKS
from mergevq_mm.utils.distributed import unwrap

from ..first_step import refusing


@HOOKS.register_module()
class TokenizerCheckHook(Hook):
    """Compares what the training data say of themselves with a generator.

    Compared are classes, raster, bits, numbers of groups and the tokenizer's
    fingerprint. Codes of another tokenizer, or of another checkpoint of the same, are
    numbers of the same range with another meaning: the training would run, and the
    images be noise. Images that have a K each need batches of one K. A generator of
    more classes than its data have would draw those that it has not learnt; of classes
    that the data name and have no sample of, a warning tells. What data sets do not say
    in their ``metainfo`` passes; the tokenizer's weights are read all the same, so that
    those of a tokenizer of another shape are an error before the first step.
    """

    priority = 'VERY_HIGH'

    @refusing()
    def before_train(self, runner: Runner) -> None:
        """Compare, before the first step.

        Args:
            runner (Runner): The runner.

        Raises:
            ValueError: If they differ, or the tokenizer's checkpoint does not fit it.
            FileNotFoundError: If the checkpoint is missing.
        """
        model = unwrap(runner.model)
        tokenizer = getattr(model, 'tokenizer', None)
        if tokenizer is None:
            return
        dataset = runner.train_dataloader.dataset
        about = metainfo_of(dataset)
        check_fit(about, model)
        check_batches(about, runner.train_dataloader)
        tell_unlearnt(dataset, model)
        found = tokenizer.fingerprint()  # reads the weights, which may not fit
        expected = about.get('fingerprint')
        if expected is not None and found != expected:
            raise ValueError(
                f'train_dataloader.dataset holds codes of the tokenizer '
                f'{expected[:12]}…, but model.tokenizer is {found[:12]}…; give the '
                'checkpoint that the codes were made with, or extract them anew '
                '(tools/extract_codes.py).'
            )


def metainfo_of(dataset: Dataset) -> Mapping[str, Any]:
    """What a data set says of itself, also through wrappers of torch.

    Args:
        dataset (Dataset): Of any library.

    Returns:
        Mapping[str, Any]: Empty if it says nothing.
    """
    while not hasattr(dataset, 'metainfo') and hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    return getattr(dataset, 'metainfo', None) or {}


def tell_unlearnt(dataset: Dataset, model: nn.Module) -> None:
    """Warn of classes that a generator can be asked for and has no sample of.

    Args:
        dataset (Dataset): Of the training; without ``present_classes`` it passes.
        model (nn.Module): A ``TokenGenerator``.
    """
    number = getattr(model, 'num_classes', None)
    if number is None or not hasattr(dataset, 'present_classes'):
        return
    present = dataset.present_classes()
    absent = sorted(set(range(number)) - set(present))
    if absent:
        some = ', '.join(map(str, absent[:5])) + (', …' if len(absent) > 5 else '')
        print_log(
            f'train_dataloader.dataset has samples of {len(present)} of the {number} '
            f'classes: {some} will not be learnt, and yet be drawn if asked for.',
            logger='current',
            level=logging.WARNING,
        )


def check_fit(about: Mapping[str, Any], model: nn.Module) -> None:
    """Refuse training data that are not for a generator.

    Args:
        about (Mapping[str, Any]): Of :func:`metainfo_of`.
        model (nn.Module): A ``TokenGenerator``; what it lacks is not compared.

    Raises:
        ValueError: At the first difference.
    """
    classes = about.get('classes')
    number = getattr(model, 'num_classes', None)
    if classes and number is not None and len(classes) != number:
        raise ValueError(
            f'train_dataloader.dataset has {len(classes)} classes, but '
            f'model.num_classes={number}; set model.num_classes={len(classes)}, or '
            'give data of all classes.'
        )
    for name in ('grid', 'bits', 'split'):
        has, wants = about.get(name), getattr(model.tokenizer, name, None)
        if has is None or wants is None:
            continue
        if isinstance(has, (tuple, list)):
            has, wants = tuple(has), tuple(wants)
        if has != wants:
            raise ValueError(
                f'train_dataloader.dataset holds codes with {name}={has}, but '
                f'model.tokenizer has {name}={wants}; extract them anew with this '
                'tokenizer (tools/extract_codes.py).'
            )
    keeps = about.get('keeps')
    missing = sorted(set(getattr(model, 'keeps', ())) - set(keeps)) if keeps else []
    if missing:
        raise ValueError(
            f'model.keep has K={missing}, of which train_dataloader.dataset has no '
            f'codes, only of K={sorted(keeps)}; extract them too '
            '(tools/extract_codes.py --keep), or change model.keep.'
        )
    unknown = sorted(set(keeps or ()) - set(getattr(model, 'keeps', ())))
    if about.get('ragged') and unknown:
        raise ValueError(
            f'train_dataloader.dataset may hold images of K={unknown}, which '
            f'model.keep does not have; give it the candidates {sorted(keeps)}.'
        )


def check_batches(about: Mapping[str, Any], loader: Any) -> None:
    """Refuse to put images together that have not the same K.

    Args:
        about (Mapping[str, Any]): Of :func:`metainfo_of`.
        loader (DataLoader): Of the training.

    Raises:
        ValueError: If a batch may hold such.
    """
    batches = getattr(loader, 'batch_sampler', None)
    if about.get('ragged') and not getattr(batches, 'same_keep', False):
        raise ValueError(
            'train_dataloader.dataset has images that have a K each, which do not fit '
            'into one batch; set train_dataloader.batch_sampler='
            "dict(type='mergevq_mm.SameKeepBatchSampler')."
        )
