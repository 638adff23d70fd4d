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
    parser.add_argument('images', nargs='+', type=Path, help='images, or folders')
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


def list_files(paths: Sequence[Path]) -> list[Path]:
    """Images, and those of folders.

    Args:
        paths (Sequence[Path]): Files and folders.

    Returns:
        list[Path]: Files; of a folder in the order of their names.

    Raises:
        FileNotFoundError: If a path does not exist or a folder has no image.
    """
    from mergevq_mm.datasets import ImageFolder

    files = []
    for path in paths:
        found = [path]
        if path.is_dir():
            endings = ImageFolder.IMG_EXTENSIONS
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in endings)
        if not found or not found[0].is_file():
            raise FileNotFoundError(f'"{path}" is no image, and no folder with images.')
        files += found
    return files


def read_image(path: Path, size: int, stride: int) -> np.ndarray:
    """Read an image at a size that the encoder takes.

    Args:
        path (Path): The file.
        size (int): Pixels of the shorter edge.
        stride (int): Of the encoder; the longer edge is cut to a multiple of it.

    Returns:
        np.ndarray: H×W×3 uint8, RGB.

    Raises:
        ValueError: If ``size`` is no multiple of the stride, or the file is no image.
    """
    from PIL import Image

    from mergevq_mm.datasets import LoadImage

    if size < stride or size % stride:
        raise ValueError(
            f'--size {size} is no multiple of the stride {stride} of this encoder; '
            f'give {max(1, round(size / stride)) * stride}.'
        )
    pixels = LoadImage()({'img_path': str(path)})['img'][..., ::-1]
    scale = size / min(pixels.shape[:2])
    height, width = (max(size, round(n * scale)) for n in pixels.shape[:2])
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
    height, width = height // stride * stride, width // stride * stride
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


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
    from mergevq_mm.visualization import reconstruction_strip

    grid = model.backbone.grid_of(*pixels.shape[-2:])
    length = grid[0] * grid[1]
    made = {}
    for keep in keeps or halvings(length, model.backbone.num_layers):
        merged, quantized = model.encode(pixels[None] * 2 - 1, keep)
        image, _ = model.decode(quantized.codes, merged.group, merged.grid)
        made[keep] = (image[0].float() * 0.5 + 0.5).clamp(0, 1).cpu()
    return reconstruction_strip(pixels.cpu(), made, model.quantizer.bits, length)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        files = list_files(args.images)
        import torch

        from mergevq_mm.apis import get_model
        from mergevq_mm.visualization import save_png

        weights = False if args.checkpoint == 'none' else args.checkpoint
        device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
        model = get_model(args.config, weights, device)
        if not hasattr(model, 'quantizer'):
            raise ValueError(
                f'{type(model).__name__} is no tokenizer; give a config of stage 1.'
            )
        with torch.no_grad():
            for number, file in enumerate(files, 1):
                size = args.size or model.backbone.img_size[0]
                image = read_image(file, size, model.backbone.stride)
                for name, picture in draw(model, image, args).items():
                    path = args.out / f'{file.stem}_{name}.png'
                    save_png(path, picture)
                    print(f'[{number}/{len(files)}] {path}', flush=True)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
