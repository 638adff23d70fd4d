"""What MergeVQ refuses before the first step: parts that do not fit each other."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mergevq_mm.utils.distributed import unwrap

from ..utils.keep_sampling import KeepSampler
from ..utils.merge_schedule import merge_schedule, resolve_keep

if TYPE_CHECKING:
    from .mergevq import MergeVQ


def check_images(images: Any) -> None:
    """Refuse what is no batch of images for the encoder, and say what to do.

    Args:
        images (Tensor): B×3×H×W in [-1, 1], floating point.

    Raises:
        ValueError: If it has another shape or type, or grey values of 0..255.
    """
    remedy = 'give B×3×H×W in [-1, 1], such as images / 127.5 - 1 of grey values'
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f'images are {kind}; {remedy}.')
    shape = tuple(images.shape)
    if images.ndim == 3:
        raise ValueError(f'images of shape {shape} are no batch; give images[None].')
    if images.ndim != 4:
        raise ValueError(f'images have the shape {shape}; {remedy}.')
    if images.shape[1] == 1:
        raise ValueError(
            f'images of shape {shape} have one channel; give three, such as '
            'images.expand(-1, 3, -1, -1).'
        )
    if images.shape[1] != 3:
        raise ValueError(f'images of shape {shape} have no three channels; {remedy}.')
    if torch.compiler.is_compiling() or images.is_meta or not images.numel():
        return
    largest = float(images.detach().abs().max())
    # Noise leaves [-1, 1] a little, grey values far.
    if largest > 16:
        raise ValueError(f'images hold values up to {largest:.4g}; {remedy}.')


def read_keep(name: str, keep: Any, length: int) -> int:
    """Number of tokens to keep, from a number or a share of all.

    Args:
        name (str): Name of the argument, for the message.
        keep (int | float): K, or its share of L.
        length (int): Number of tokens, L.

    Returns:
        int: K.

    Raises:
        ValueError: If it is neither a number nor a share in (0, 1].
    """
    if isinstance(keep, bool) or not isinstance(keep, Real):
        raise ValueError(
            f'{name}={keep!r} is no number of tokens; give a whole number such as '
            f'{length}, or a share of them such as 0.5.'
        )
    return resolve_keep(
        int(keep) if isinstance(keep, Integral) else float(keep), length
    )


def read_test_keep(keep: Any, length: int) -> list[int]:
    """Numbers of tokens to evaluate at, without repeats.

    Args:
        keep (int | float | Sequence[int | float]): One K or several, each as a number
            or as its share of L.
        length (int): Number of tokens, L.

    Returns:
        list[int]: At least one.

    Raises:
        ValueError: If there is none, or one is neither a number nor a share.
    """
    several = isinstance(keep, Sequence) and not isinstance(keep, str)
    values = list(keep) if several else [keep]
    if not values:
        raise ValueError(
            'test_cfg.keep=[] names no number of tokens; give one such as '
            f'{length}, or leave it out for the training target.'
        )
    read = [read_keep('test_cfg.keep', value, length) for value in values]
    return list(dict.fromkeys(read))


def read_keep_sampler(keep: Any, length: int) -> KeepSampler:
    """Distribution of K during training.

    Args:
        keep (int | float | dict, optional): One K or its share of L, the arguments of
            :class:`KeepSampler` (numbers or shares, too), or None for all tokens.
        length (int): Number of tokens, L.

    Returns:
        KeepSampler: The distribution.

    Raises:
        ValueError: If a number is none, or as :class:`KeepSampler`.
    """
    if keep is None:
        keep = length
    if not isinstance(keep, dict):
        keep = {'target': keep, 'candidates': [keep]}
    arguments = dict(keep)
    if 'target' in arguments:
        arguments['target'] = read_keep('keep', arguments['target'], length)
    if arguments.get('candidates') is not None:
        arguments['candidates'] = [
            read_keep('keep', value, length) for value in arguments['candidates']
        ]
    return KeepSampler(**arguments)


def check_parts(model: MergeVQ, length: int) -> None:
    """Refuse parts that do not fit each other.

    Args:
        model (MergeVQ): With all its parts.
        length (int): Number of tokens, L.

    Raises:
        ValueError: If strides or widths differ, a K cannot be reached, a teacher is of
            no use, or what is to be predicted is not learned.
    """
    backbone = model.backbone
    for keep in (*model.keep_sampler.candidates, *model.test_keep):
        merge_schedule(length, keep, backbone.num_layers, backbone.schedule)
    if backbone.stride != model.decoder.stride:
        raise ValueError(
            f'decoder of stride {model.decoder.stride} does not fit a backbone of '
            f'stride {backbone.stride}; give both as many halvings.'
        )
    _check_widths(model)
    alignment = model.head.alignment
    if model.target_generator is not None and (
        alignment is None or alignment.from_labels
    ):
        raise ValueError(
            'target_generator is given, but no alignment uses it; give '
            "head=dict(alignment=dict(loss='kl', ...)) or leave the teacher out."
        )
    if model.predict_source and not model.neck.learned:
        raise ValueError(
            'predict_source=True needs a neck that predicts the source map; use '
            "neck=dict(type='mergevq_mm.SourceRecovery')."
        )


def _check_widths(model: MergeVQ) -> None:
    dims, bits = model.backbone.embed_dims, model.quantizer.bits
    widths = [
        ('quantizer.in_channels', model.quantizer.in_channels, dims),
        ('neck.bits', getattr(model.neck, 'bits', bits), bits),
        ('decoder.bits', model.decoder.bits, bits),
    ]
    alignment = model.head.alignment
    if alignment is not None:
        widths.append(('head.alignment.in_channels', alignment.in_channels, dims))
    for name, value, fitting in widths:
        if value != fitting:
            raise ValueError(
                f'{name}={value} does not fit backbone (width {dims}) and '
                f'quantizer ({bits} bits); set it to {fitting}.'
            )


def check_losses(model: MergeVQ) -> None:
    """Refuse to train where a part or a loss would silently have no effect.

    Not asked of a model that only encodes and decodes: a published one has neither
    teacher nor losses.

    Args:
        model (MergeVQ): With all its parts, wrapped for distributed
            training or not.

    Raises:
        ValueError: If a loss lacks what it compares, or a part the loss that trains it.
    """
    head, neck = unwrap(model.head), unwrap(model.neck)
    alignment = head.alignment
    if (
        alignment is not None
        and not alignment.from_labels
        and model.target_generator is None
    ):
        raise ValueError(
            'target_generator=None, but head.alignment compares with its targets; give '
            "a teacher, head=dict(alignment=None), or the alignment's loss='label'."
        )
    if neck.learned and head.source is None:
        raise ValueError(
            f'head.source=None, but nothing else trains the neck {type(neck).__name__};'
            ' give head=dict(source=dict(loss_weight=0.5)) or '
            "neck=dict(type='mergevq_mm.GroupMapRecovery')."
        )
    if head.source is not None and not neck.learned:
        raise ValueError(
            f'head.source is given, but the neck {type(neck).__name__} predicts no '
            "source map; use neck=dict(type='mergevq_mm.SourceRecovery') or "
            'head=dict(source=None).'
        )
