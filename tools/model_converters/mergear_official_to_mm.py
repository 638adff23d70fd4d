r"""Converts a stage-2 generator between the authors' GPT layout and MergeAR.

    # theirs to ours: a folder with the tokenizer in it (see mergevq_official_to_mm.py)
    python tools/model_converters/mergear_official_to_mm.py THEIRS.ckpt OUT \
        --tokenizer TOKENIZER_FOLDER
    # weights alone, for a config of your own
    python tools/model_converters/mergear_official_to_mm.py THEIRS.ckpt OUT.safetensors
    # ours to theirs
    python tools/model_converters/mergear_official_to_mm.py OURS BACK.ckpt --back

The authors' GPT is a MergeAR without merge token that sees all tokens
(``merge_token=False, window=None``). Nothing is written unless every weight finds its
place.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mergevq_official_to_mm as common  # beside this file; imports mergevq_mm first
from torch import nn


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition('\n')[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('source', help='checkpoint, or folder of save_pretrained')
    parser.add_argument('out', help='folder or file to write')
    parser.add_argument('--back', action='store_true', help='from ours to theirs')
    parser.add_argument(
        '--tokenizer', help='folder of the tokenizer, for a folder of the generator'
    )
    parser.add_argument(
        '--weights', choices=('auto', 'ema', 'raw'), default='auto', help='of THEIRS'
    )
    parser.add_argument(
        '--num-heads', type=int, help='attention heads (default: width / 64)'
    )
    parser.add_argument(
        '--prefix', default='', help='with --back: to put before the names'
    )
    parser.add_argument(
        '--allow-partial',
        action='store_true',
        help='go on where weights are missing or have no place',
    )
    parser.add_argument('--trust', action='store_true', help=common.TRUST_HELP)
    return parser.parse_args(argv)


class CodesOnly(nn.Module):
    """What a generator asks of a tokenizer before it has one.

    Args:
        split (Sequence[int]): Bits of the parts of a code.
    """

    learned_recovery = False

    def __init__(self, split: Sequence[int]) -> None:
        super().__init__()
        self.split, self.bits = tuple(split), sum(split)
        self.grid, self.length = (16, 16), 256

    def init_weights(self) -> None:
        """There are none."""


def build_generator(model: dict[str, Any], split: Sequence[int], meta: bool) -> Any:
    """The generator without its tokenizer, with or without content."""
    from mergevq_mm.apis.model_config import build
    from mergevq_mm.utils.building import build_on_meta

    config = {**model, 'tokenizer': {'type': CodesOnly, 'split': list(split)}}
    if meta:
        return build_on_meta(config)
    generator = build(config)
    generator.init_weights()
    return generator


def convert(args: argparse.Namespace) -> Path:
    """Theirs to ours."""
    from mergevq_mm.official.file import (
        check_conversion,
        choose_weights,
        filled_state,
    )
    from mergevq_mm.official.generator import (
        find_prefix,
        generator_to_ours,
        read_split,
    )
    from mergevq_mm.utils.checkpoint import get_state_dict

    to_folder = Path(args.out).suffix not in ('.pth', '.safetensors')
    if to_folder and args.tokenizer is None:
        raise ValueError(
            f'out="{args.out}" is a folder, which holds the tokenizer, too; give '
            '--tokenizer FOLDER, or a file name that ends with .safetensors.'
        )
    content, _ = common.read_source(args.source, args.trust)
    prefix = find_prefix(get_state_dict(content))
    weights, kind = choose_weights(content, args.weights, prefix)
    found = generator_to_ours(weights, args.num_heads)
    split = read_split(found.weights)
    empty = build_generator(found.model, split, meta=True)
    missing = check_conversion(found, empty, args.allow_partial)
    state = filled_state(
        lambda: build_generator(found.model, split, meta=False), found.weights, missing
    )
    if to_folder:
        out = write_with_tokenizer(args, found.model, state, split, kind)
    else:
        out = common.write(args.out, found.model, state, {})
    common.print_report(found, missing, kind)
    print(f'architecture: {found.model["arch"]}, split {split}; written to {out}')
    return out


def write_with_tokenizer(
    args: argparse.Namespace,
    model: dict[str, Any],
    state: dict[str, Any],
    split: Sequence[int],
    kind: str,
) -> Path:
    """Write generator and tokenizer as a folder."""
    from mergevq_mm.apis.model_config import build
    from mergevq_mm.apis.publishing import save_pretrained
    from mergevq_mm.models.generators.tokenizer import PARTS
    from mergevq_mm.utils.export import WEIGHTS, read_config

    tokenizer, _ = read_config(args.tokenizer)
    if tokenizer['quantizer'].get('split') != list(split):
        raise ValueError(
            f'--tokenizer "{args.tokenizer}" has codes split into '
            f'{tokenizer["quantizer"].get("split")} bits where the generator draws '
            f'{list(split)}; give the tokenizer that it was trained with.'
        )
    config = {
        **model,
        'tokenizer': {
            'type': 'mergevq_mm.FrozenTokenizer',
            'model': {name: tokenizer[name] for name in PARTS},
            'checkpoint': str(Path(args.tokenizer, WEIGHTS)),
        },
    }
    generator = build(config)
    generator.load_state_dict(state)
    metadata = {'converted_from': Path(args.source).name, 'weights': kind}
    return save_pretrained(generator, args.out, config, metadata)


def convert_back(args: argparse.Namespace) -> Path:
    """Ours to theirs."""
    from mergevq_mm.official.generator import generator_to_official
    from mergevq_mm.utils.checkpoint import get_state_dict

    content, _ = common.read_source(args.source, args.trust)
    found = generator_to_official(get_state_dict(content), args.prefix)
    if found.unknown and not args.allow_partial:
        raise ValueError(
            f"{len(found.unknown)} tensors have no place in the authors' layout, such "
            f'as {found.unknown[0]}; add --allow-partial to go on without them.'
        )
    if Path(args.out).suffix not in ('.pth', '.ckpt', '.safetensors'):
        raise ValueError(
            f'out="{args.out}" must end with .ckpt, .pth or .safetensors, as theirs is '
            'one file.'
        )
    out = common.write(args.out, {}, found.weights, {})
    common.print_report(found, [], 'raw')
    print(f'written to {out}')
    return out


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        convert_back(args) if args.back else convert(args)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
