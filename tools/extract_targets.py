"""Computes a frozen teacher's targets of all images of a data set once.

The config is a training config with ``teacher=dict(type='mergevq_mm.FrozenTeacher',
...)`` at its top, or with such a model.target_generator. The file is read by
``mergevq_mm.StoredTeacher``.
"""

from __future__ import annotations

import argparse
import sys

from mmengine.config import DictAction

import mergevq_mm  # first: makes the installed stack usable
from mergevq_mm.utils.config import load_config
from mergevq_mm.utils.config_options import merge_options


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config file that names the teacher')
    parser.add_argument('data_root', help='folder above train/ and val/')
    parser.add_argument('out', help='.safetensors or .npz file to write')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument(
        '--image-size', type=int, help='shorter edge and centre crop; default: as is'
    )
    parser.add_argument('--num-workers', type=int, default=0)
    parser.add_argument('--half', action='store_true', help='store float16')
    parser.add_argument('--device', default=None, help='default: cuda if there is one')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = load_config(args.config)
    merge_options(cfg, args.cfg_options, ('teacher', 'model.target_generator'))
    network = cfg.get('teacher') or cfg.get('model', {}).get('target_generator')
    if network is None:
        raise ValueError(
            f'config="{args.config}" has neither teacher nor model.target_generator; '
            "add teacher=dict(type='mergevq_mm.FrozenTeacher', network=...)."
        )

    import torch

    from mergevq_mm.models.target_generators import extract_targets
    from mergevq_mm.registry import MODELS

    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    images, width = extract_targets(
        MODELS.build(network),
        args.data_root,
        args.out,
        batch_size=args.batch_size,
        image_size=args.image_size,
        num_workers=args.num_workers,
        half=args.half,
        device=device,
        metadata={'teacher': str(network), 'version': mergevq_mm.__version__},
    )
    print(f'{images} targets of width {width} written to {args.out}.')


if __name__ == '__main__':
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')
