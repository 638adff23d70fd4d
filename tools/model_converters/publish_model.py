r"""Exports a checkpoint of a training run for others: safetensors, config and a card.

    python tools/model_converters/publish_model.py CONFIG CHECKPOINT FOLDER
    python tools/model_converters/publish_model.py CONFIG CHECKPOINT FOLDER \
        --push OWNER/NAME

Optimizers, teacher, discriminator and perceptual network are left out; a generator
takes its tokenizer along. ``mergevq_mm.from_pretrained(FOLDER)`` loads it again.
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

    try:
        metadata = {'checkpoint': Path(args.checkpoint).name}
        folder = export_checkpoint(
            args.config, args.checkpoint, args.folder, args.trust, metadata, args.half
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
