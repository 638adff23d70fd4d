"""How full MergeAR's caches are while images are drawn: full against compressed.

Example (CONFIG=configs/mergear_l_g+r.py):
    python tools/analysis_tools/visualize_cache.py $CONFIG CHECKPOINT --classes 207 360
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import mergevq_mm  # noqa: F401  first: makes the installed stack usable


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config, name or folder of a MergeAR')
    parser.add_argument('checkpoint', help="its weights; 'none' for a folder's own")
    parser.add_argument(
        '--tokenizer', help="weights of the tokenizer. Default: the config's"
    )
    parser.add_argument(
        '--classes', type=int, nargs='+', help='default: 16 samples of the first ones'
    )
    parser.add_argument('--keep', type=int, help="K. Default: the config's")
    parser.add_argument('--seed', type=int, help="default: the config's, or 0")
    parser.add_argument('--out', type=Path, default=Path('pictures/cache.png'))
    parser.add_argument('--device', help='default: cuda if there is one')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    import torch

    from mergevq_mm.apis import get_model
    from mergevq_mm.engine.hooks.plot_hooks import draw_caches
    from mergevq_mm.visualization import figure_image, save_png

    try:
        weights = False if args.checkpoint == 'none' else args.checkpoint
        device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
        more = {}
        if args.tokenizer is not None:
            more['tokenizer'] = {'checkpoint': args.tokenizer}
        model = get_model(args.config, weights, device, **more)
        if not hasattr(model, 'start_decoding') or not hasattr(model, 'make_cache'):
            raise ValueError(
                f'{type(model).__name__} has no cache to look at; give a config of '
                'MergeAR.'
            )
        labels = torch.arange(16) % model.num_classes
        if args.classes is not None:
            labels = torch.tensor(args.classes)
        labels = model.check_labels(labels.to(device))
        figure = draw_caches(model, labels, args.keep, args.seed)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')
    save_png(args.out, figure_image(figure))
    print(args.out)


if __name__ == '__main__':
    main()
