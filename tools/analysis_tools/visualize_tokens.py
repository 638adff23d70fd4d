"""Pictures of what a tokenizer makes of images.

For each image and each picture that is asked for, a PNG ``OUT/<image>_<picture>.png``:

- merge      groups outlined over the image, coloured, and in their average colours
- growth     how the groups grow layer by layer
- strip      reconstructions from all tokens down to few, with PSNR and bits
- attention  what the class token attends to

Examples (CONFIG=configs/mergevq_g+r.py):
    python tools/analysis_tools/visualize_tokens.py $CONFIG CHECKPOINT cat.jpg
    python tools/analysis_tools/visualize_tokens.py $CONFIG CHECKPOINT dir --keep 64
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import mergevq_mm  # noqa: F401  first: makes the installed stack usable

if TYPE_CHECKING:
    from torch import Tensor

PICTURES = ('merge', 'growth', 'strip', 'attention')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config, name or folder of a tokenizer')
    parser.add_argument('checkpoint', help="its weights; 'none' for a folder's own")
    parser.add_argument('images', nargs='+', help='images, or folders')
    parser.add_argument('--out', type=Path, default=Path('pictures'))
    parser.add_argument('--pictures', nargs='+', choices=PICTURES, default=PICTURES)
    parser.add_argument(
        '--keep',
        type=int,
        help="K of all but the strip. Default: the config's",
    )
    parser.add_argument(
        '--strip-keeps', type=int, nargs='+', help='Ks of the strip. Default: halvings'
    )
    parser.add_argument('--layer', type=int, default=-1, help='block of attention')
    parser.add_argument(
        '--size', type=int, help="pixels of the shorter edge. Default: the model's"
    )
    parser.add_argument('--device', help='default: cuda if there is one')
    return parser.parse_args(argv)


def halvings(length: int, layers: int) -> list[int]:
    """L, L/2, L/4, … as far as so many layers can merge, down to 1."""
    found = [length]
    while found[-1] > 1:
        # A layer merges at most half of the tokens that it gets.
        keep = max(1, found[-1] // 2)
        if keep * 2**layers < length:
            break
        found.append(keep)
    return found


def draw(model: Any, image: np.ndarray, args: argparse.Namespace) -> dict:
    """The pictures of one image.

    Args:
        model (MergeVQ): In evaluation mode.
        image (np.ndarray): H×W×3 uint8.
        args (Namespace): Of :func:`parse_args`.

    Returns:
        dict[str, np.ndarray]: Name to picture.
    """
    import torch

    from mergevq_mm import visualization as vis
    from mergevq_mm.models.backbones.layer_views import class_attention, merged_layers

    device = next(model.parameters()).device
    pixels = torch.from_numpy(image).permute(2, 0, 1).float().div(255).to(device)
    inputs = pixels[None] * 2 - 1
    grid = model.backbone.grid_of(*image.shape[:2])
    keep = args.keep
    if keep is None:  # the config's share of the positions
        own = model.backbone.grid[0] * model.backbone.grid[1]
        keep = max(1, round(model.test_keep[0] / own * grid[0] * grid[1]))
    pictures = {}
    layers = None
    if {'merge', 'growth'} & set(args.pictures):
        layers = list(merged_layers(model.backbone, inputs, keep))
        groups = [merged.group[0].cpu().numpy() for merged in layers]
    for name in args.pictures:
        if name == 'merge':
            pictures[name] = vis.merge_panel(image, groups[-1], grid)
        elif name == 'growth':
            pictures[name] = vis.growth_strip(image, groups, grid)
        elif name == 'strip':
            pictures[name] = draw_strip(model, pixels, args.strip_keeps)
        else:
            attention = class_attention(model.backbone, inputs, keep, args.layer)
            pictures[name] = vis.attention_strip(image, attention[0], grid)
    return pictures


def draw_strip(model: Any, pixels: Tensor, keeps: Sequence[int] | None) -> np.ndarray:
    """Reconstructions of an image 3×H×W in [0, 1] at several K."""
    from mergevq_mm.apis.token_file import TokenFile
    from mergevq_mm.visualization import reconstruction_strip

    grid = model.backbone.grid_of(*pixels.shape[-2:])
    length = grid[0] * grid[1]
    made, bits = {}, {}
    for keep in keeps or halvings(length, model.backbone.num_layers):
        merged, quantized = model.encode(pixels[None] * 2 - 1, keep)
        image, _ = model.decode(quantized.codes, merged.group, merged.grid)
        made[keep] = (image[0].float() * 0.5 + 0.5).clamp(0, 1).cpu()
        index, group = quantized.index[0].cpu().numpy(), merged.group[0].cpu().numpy()
        file = TokenFile(index, group, grid, model.quantizer.bits, '')
        bits[keep] = file.code_bits, file.map_bits
    return reconstruction_strip(pixels.cpu(), made, bits)


def draw_all(args: argparse.Namespace) -> None:
    """Draw and write all pictures; what a folder holds and is no image is told.

    Args:
        args (Namespace): Of :func:`parse_args`.

    Raises:
        FileNotFoundError: If there is no image.
        ValueError: If the model is no tokenizer, or an image that is named is none.
    """
    import torch

    from mergevq_mm.apis import get_model
    from mergevq_mm.apis.image_inputs import (
        FolderFile,
        check_size,
        list_inputs,
        read_pixels,
    )
    from mergevq_mm.apis.outputs import check_apart, real_paths, write_outputs
    from mergevq_mm.apis.preparation import preparation_of

    check_apart(args.images, args.out)
    files = list_inputs(args.images, leave_out=args.out)
    weights = False if args.checkpoint == 'none' else args.checkpoint
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    model = get_model(args.config, weights, device)
    if not hasattr(model, 'quantizer'):
        raise ValueError(
            f'{type(model).__name__} is no tokenizer; give a config of stage 1.'
        )
    own, stride = min(model.backbone.img_size), model.backbone.stride
    check_size(own if args.size is None else args.size, stride, 'whole')
    prepare = preparation_of(model._config, own, stride)
    sources = real_paths(files)
    for number, (name, path) in enumerate(files, 1):
        try:
            image = prepare(read_pixels(path, prepare.background), args.size, 'whole')
        except ValueError as error:
            if not isinstance(path, FolderFile):
                raise
            print(f'warning: {error}', file=sys.stderr)
            continue
        with torch.no_grad():
            made = draw(model, image, args)
        pictures = {f'{name}_{kind}.png': picture for kind, picture in made.items()}
        for file in write_outputs(args.out, pictures, 'visualize_tokens', sources):
            print(f'[{number}/{len(files)}] {file}', flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        draw_all(args)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
