r"""Exports a checkpoint of a training run for others: safetensors, config and a card.

    python tools/model_converters/publish_model.py CONFIG CHECKPOINT FOLDER
    python tools/model_converters/publish_model.py CONFIG CHECKPOINT FOLDER \
        --push OWNER/NAME

Optimizers, teacher, discriminator and perceptual network are left out; a generator
takes its tokenizer along. ``mergevq_mm.from_pretrained(FOLDER)`` loads it again, and so
does transformers. What the card says of licence and quality is what it is told here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import mergevq_mm  # noqa: F401  first: makes the installed stack usable


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('config', help='path of the config, or name of a model')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('folder', help='where to write')
    parser.add_argument('--half', action='store_true', help='weights as float16')
    parser.add_argument(
        '--license', metavar='ID', help='of the weights, such as apache-2.0'
    )
    parser.add_argument(
        '--metrics', metavar='FILE', help='JSON or YAML whose numbers the card shows'
    )
    parser.add_argument(
        '--picture',
        metavar='IMAGE',
        nargs='+',
        help='to reconstruct, measure and show on the card; the first eight',
    )
    parser.add_argument('--push', metavar='OWNER/NAME', help='publish it on the hub')
    parser.add_argument(
        '--private', action='store_true', help='with --push: a private repository'
    )
    parser.add_argument(
        '--trust',
        action='store_true',
        help='unpickle arbitrary objects, which runs whatever code the file holds',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from pathlib import Path

    from mergevq_mm.apis import export_checkpoint, push_to_hub
    from mergevq_mm.utils.model_card import read_metrics

    try:
        told = {
            'checkpoint': Path(args.checkpoint).name,
            'license': args.license,
            'metrics': read_metrics(args.metrics) if args.metrics else None,
            'repository': args.push,
        }
        folder = export_checkpoint(
            args.config,
            args.checkpoint,
            args.folder,
            args.trust,
            {name: value for name, value in told.items() if value},
            args.half,
            args.picture,
        )
        size = sum(f.stat().st_size for f in folder.rglob('*') if f.is_file())
        print(f'written to {folder} ({size / 1e6:.1f} MB)')
        if args.push:
            url = push_to_hub(folder, args.push, private=args.private)
            print(f'published at {url}')
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
