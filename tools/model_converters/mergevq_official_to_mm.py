"""Converts a tokenizer between the authors' checkpoint layout and ours.

    # theirs to ours: a folder (weights and config), or a .pth or .safetensors file
    python tools/model_converters/mergevq_official_to_mm.py THEIRS.ckpt OUT
    # ours to theirs: from such a folder, or from a checkpoint of a run
    python tools/model_converters/mergevq_official_to_mm.py OURS BACK.ckpt --back

The architecture is read off the shapes of the weights. The averaged weights are taken
where there are any. Nothing is written unless every weight finds its place.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mergevq_mm  # noqa: F401  first: makes the installed stack usable

TRUST_HELP = (
    'unpickle arbitrary objects, which runs whatever code the file holds; needed for '
    'files with more than tensors and plain values, use it for authors that you trust'
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition('\n')[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('source', help='checkpoint, or folder of save_pretrained')
    parser.add_argument('out', help='folder or file to write')
    parser.add_argument('--back', action='store_true', help='from ours to theirs')
    parser.add_argument(
        '--weights', choices=('auto', 'ema', 'raw'), default='auto', help='of THEIRS'
    )
    parser.add_argument(
        '--num-heads', type=int, help='attention heads, for unpublished widths'
    )
    parser.add_argument(
        '--img-size', type=int, default=256, help='side of the images in pixels'
    )
    parser.add_argument(
        '--patch-names',
        nargs=2,
        metavar=('CONV', 'NORM'),
        help='with --back: names of a patchify stem, printed when it was converted',
    )
    parser.add_argument(
        '--with-ema',
        action='store_true',
        help='with --back: write the weights as averaged ones, too',
    )
    parser.add_argument(
        '--allow-partial',
        action='store_true',
        help='go on where weights are missing or have no place',
    )
    parser.add_argument('--trust', action='store_true', help=TRUST_HELP)
    return parser.parse_args(argv)


def read_source(source: str, trust: bool) -> tuple[Mapping[str, Any], dict]:
    """Content of a checkpoint, or weights of a folder with its metadata.

    Args:
        source (str): Path.
        trust (bool): Whether to unpickle arbitrary objects.

    Returns:
        tuple[Mapping, dict]: Content, and metadata ({} of a file).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, with the flag that would help.
    """
    from mergevq_mm.utils.checkpoint_file import load_checkpoint_file
    from mergevq_mm.utils.export import read_folder

    if Path(source).is_dir():
        _, weights, metadata = read_folder(source)
        return {'state_dict': weights}, metadata
    try:
        return load_checkpoint_file(source, trust=trust), {}
    except ValueError as error:
        if 'pickled objects' not in str(error):
            raise
        raise ValueError(
            f'{str(error).partition(":")[0]}: if you trust its author, add --trust, '
            'which lets it.'
        ) from None


def write(
    out: str, model: Mapping[str, Any], weights: Mapping[str, Tensor], metadata: dict
) -> Path:
    """Write a folder, or a file of weights alone.

    Args:
        out (str): Path; a suffix .pth or .safetensors makes it a file.
        model (Mapping): Config.
        weights (Mapping[str, Tensor]): All weights of it.
        metadata (dict): For the folder.

    Returns:
        Path: What was written.
    """
    from mergevq_mm.utils.export import write_folder
    from mergevq_mm.utils.fileio import write_atomically
    from mergevq_mm.utils.published import published_weights

    path, weights = Path(out), published_weights(weights)
    if path.suffix not in ('.pth', '.ckpt', '.safetensors'):
        return write_folder(path, model, weights, metadata)
    if path.suffix == '.safetensors':
        from safetensors.torch import save

        content = save(weights, {'format': 'pt'})
    else:
        buffer = io.BytesIO()
        torch.save({'state_dict': weights}, buffer)
        content = buffer.getvalue()
    write_atomically(content, path)
    return path


def convert(args: argparse.Namespace) -> Path:
    """Theirs to ours."""
    from mergevq_mm.apis.model_config import build
    from mergevq_mm.official.file import (
        check_conversion,
        choose_weights,
        filled_state,
    )
    from mergevq_mm.official.tokenizer import (
        find_patch_stem,
        tokenizer_to_ours,
    )
    from mergevq_mm.utils.building import build_on_meta

    content, _ = read_source(args.source, args.trust)
    weights, kind = choose_weights(content, args.weights)
    found = tokenizer_to_ours(weights, args.img_size, args.num_heads)
    missing = check_conversion(found, build_on_meta(found.model), args.allow_partial)
    kept = {n: w for n, w in found.weights.items() if n not in found.unknown}
    state = filled_state(lambda: build(found.model), kept, missing)
    metadata = {'converted_from': Path(args.source).name, 'weights': kind}
    stem = find_patch_stem(weights)
    if stem is not None:
        metadata['patch_names'] = list(stem)
    out = write(args.out, found.model, state, metadata)
    print_report(found, missing, kind)
    backbone = found.model['backbone']['arch']
    name = backbone if isinstance(backbone, str) else 'an unpublished one'
    print(f'architecture: {name}; written to {out}')
    return out


def convert_back(args: argparse.Namespace) -> Path:
    """Ours to theirs."""
    from mergevq_mm.official.file import averaged_names
    from mergevq_mm.official.tokenizer import PATCH_NAMES, tokenizer_to_official
    from mergevq_mm.utils.checkpoint import get_state_dict

    content, metadata = read_source(args.source, args.trust)
    names = args.patch_names or metadata.get('patch_names') or PATCH_NAMES
    found = tokenizer_to_official(get_state_dict(content), tuple(names))
    if found.unknown and not args.allow_partial:
        raise ValueError(
            f"{len(found.unknown)} tensors have no place in the authors' layout, such "
            f'as {found.unknown[0]}; add --allow-partial to go on without them.'
        )
    weights = dict(found.weights)
    if args.with_ema:
        weights.update(averaged_names(found.weights))
    if Path(args.out).suffix not in ('.pth', '.ckpt', '.safetensors'):
        raise ValueError(
            f'out="{args.out}" must end with .ckpt, .pth or .safetensors, as theirs is '
            'one file.'
        )
    out = write(args.out, {}, weights, {})
    print_report(found, [], 'raw')
    print(f'written to {out}')
    return out


def print_report(found: Any, missing: Sequence[str], kind: str) -> None:
    """Print what matched, part by part, and what did not.

    Args:
        found (Conversion): The conversion.
        missing (Sequence[str]): Tensors of the model that were made up.
        kind (str): 'ema' or 'raw'.
    """
    parts = Counter(name.partition('.')[0] for name in found.weights)
    total = len(found.weights) + len(missing)
    print(f'{len(found.weights)} of {total} tensors filled ({kind} weights)')
    for part, number in parts.items():
        print(f'  {part:12} {number}')
    for title, names in (
        ('left out, no part of the model', found.left_out),
        ('without a place', found.unknown),
        ('missing, random', missing),
    ):
        if names:
            print(f'  {title}: {len(names)} ({", ".join(list(names)[:3])}, …)')


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        convert_back(args) if args.back else convert(args)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
