"""Generate images of given classes with a trained generator.

Writes PNGs (``OUT/<class>/<place>.png``), a grid (``OUT/grid.png``), what they were
made with (``OUT/samples.json``) and with ``--npz`` a file for the ADM evaluation suite.
The n-th image of a class is the same whatever other classes, batch size and number of
processes there are, and the same as in an evaluation with this seed.

Examples (CONFIG=configs/mergear_l_g+r.py):
    python tools/generate.py $CONFIG CHECKPOINT --out samples --classes 207 360
    torchrun --nproc-per-node 8 tools/generate.py $CONFIG CHECKPOINT --out all --npz
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from mmengine.config import DictAction

import mergevq_mm  # noqa: F401  first: makes the installed stack usable
from mergevq_mm.utils import config as config_utils
from mergevq_mm.utils.config_options import merge_options
from mergevq_mm.utils.pixel_file import PixelFile

if TYPE_CHECKING:
    from mmengine.config import Config

    from mergevq_mm.models.generators.token_generator import TokenGenerator

GRID_COLUMNS, GRID_ROWS = 16, 10
WRITERS = 4  # threads


class Sample(NamedTuple):
    """One image to generate: its class, its place in the class, its number."""

    label: int
    place: int
    number: int


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='path of the config file')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('--out', required=True, help='folder to write')
    parser.add_argument(
        '--classes', nargs='+', type=int, help='numbers of classes. Defaults to all'
    )
    parser.add_argument('--num-per-class', type=int, default=1)
    parser.add_argument('--batch-size', type=int, default=32, help='of a process')
    parser.add_argument('--seed', type=int, help="defaults to the config's, or 0")
    parser.add_argument('--device', help='defaults to cuda if there is one')
    parser.add_argument(
        '--dtype',
        choices=['fp32', 'bf16'],
        default='fp32',
        help='of weights and cache; the tokenizer stays in fp32. Defaults to fp32',
    )
    group = parser.add_argument_group(
        'sampling', "Without them, what the config's model.sample_cfg says."
    )
    group.add_argument('--keep', type=int, help='K, the distinct tokens')
    for name, kind, text in (
        ('guidance', float, 'classifier-free guidance; 1 is none'),
        ('temperature', float, '0 is greedy'),
        ('top-k', int, '0 keeps all values'),
        ('top-p', float, '1 keeps all values'),
    ):
        text += '; one number, or one for each part of a code'
        group.add_argument(f'--{name}', type=kind, nargs='+', help=text)
    group.add_argument('--guidance-schedule', choices=['constant', 'linear'])
    group.add_argument('--cache', choices=['full', 'compressed'], help='of MergeAR')
    group.add_argument(
        '--restrict',
        action=argparse.BooleanOptionalAction,
        help='draw no more than K distinct codes; of MergeAR over the whole raster',
    )
    group.add_argument(
        '--speculative',
        type=int,
        nargs='?',
        const=4,
        help='tokens to draft and verify at a time, of MergeAR. Defaults to 4 where it '
        'is given',
    )
    group.add_argument(
        '--step',
        choices=['eager', 'compile', 'graph', 'compile-graph'],
        help='how the step of one token runs, of MergeAR; of RandAR, eager or graph',
    )
    group.add_argument('--num-steps', type=int, help='steps for the K codes, of RandAR')
    group.add_argument(
        '--step-schedule',
        choices=['cosine', 'arccos'],
        help='law by which the steps draw more and more codes, of RandAR',
    )
    parser.add_argument(
        '--npz', action='store_true', help='also one file: arr_0 (N×H×W×3) and labels'
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args(argv)


def sampling_options(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says about sampling; the rest is the config's."""
    options = {}
    for name in ('guidance', 'temperature', 'top_k', 'top_p'):
        values = getattr(args, name)
        if values is not None:
            options[name] = values[0] if len(values) == 1 else tuple(values)
    single = ('keep', 'guidance_schedule', 'cache', 'restrict', 'speculative', 'step')
    for name in (*single, 'num_steps', 'step_schedule'):
        if getattr(args, name) is not None:
            options[name] = getattr(args, name)
    return options


def build_generator(cfg: Config, checkpoint: str, device: str) -> TokenGenerator:
    """Build the model of a config and load its weights, all of them.

    Args:
        cfg (Config): With ``model``.
        checkpoint (str): Path or URL.
        device (str): Where to.

    Returns:
        TokenGenerator: In evaluation mode.

    Raises:
        ValueError: If the model is no generator, or the weights are not its own.
    """
    from mergevq_mm.models.generators.token_generator import TokenGenerator
    from mergevq_mm.registry import MODELS
    from mergevq_mm.utils.checkpoint import load_pretrained

    model_cfg = cfg.get('model') or {}
    if cfg.get('data_preprocessor'):
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(model_cfg)
    if not isinstance(model, TokenGenerator):
        raise ValueError(
            f'model.type="{model_cfg.get("type")}" is no generator of codes; give a '
            'config of stage 2, such as configs/mergear_l_g+r.py.'
        )
    load_pretrained(model, checkpoint, min_matched=1.0)
    model.tokenizer.init_weights()  # an early error where its file is missing
    return model.to(device).eval()


def plan(
    num_classes: int, classes: Sequence[int] | None, per_class: int
) -> list[Sample]:
    """List the images: place by place, in each the classes in the order given.

    Args:
        num_classes (int): Of the generator.
        classes (Sequence[int], optional): Those to generate. None is all.
        per_class (int): Images of each.

    Returns:
        list[Sample]: With the numbers that an evaluation would give them.

    Raises:
        ValueError: If a class is unknown or named twice, or there are no images.
    """
    classes = range(num_classes) if classes is None else classes
    bad = [label for label in classes if not 0 <= label < num_classes]
    if bad:
        raise ValueError(
            f'--classes {bad[0]} is no class of this generator; give numbers from 0 to '
            f'{num_classes - 1}.'
        )
    if len(set(classes)) != len(classes):
        raise ValueError(
            f'--classes {" ".join(map(str, classes))} names a class twice; use '
            '--num-per-class for more images of it.'
        )
    if per_class < 1:
        raise ValueError(
            f'--num-per-class {per_class} makes no image; give a number of at least 1.'
        )
    return [
        Sample(label, place, place * num_classes + label)
        for place in range(per_class)
        for label in classes
    ]


def path_of(out: Path, sample: Sample, num_classes: int) -> Path:
    """File of an image, so that names sort by number."""
    label = str(sample.label).zfill(len(str(num_classes - 1)))
    return out / label / f'{sample.place:05d}.png'


def with_progress(batches: Sequence[list], world: int) -> Iterator[list]:
    """Yield batches and tell how far they are: a line every 10 s, on a terminal one.

    Other processes are taken to be as far.
    """
    from mergevq_mm.utils.clock import clock

    terminal, start = sys.stdout.isatty(), time.monotonic()
    total, done, last = sum(map(len, batches)), 0, start
    for batch in batches:
        yield batch
        done, now = done + len(batch), time.monotonic()
        if done < total and now - last < (0.5 if terminal else 10):
            continue
        last = now
        left = (now - start) / done * (total - done)
        text = f'generate: {done * world}/{total * world} images, {clock(left)} left'
        end = '\r' if terminal and done < total else '\n'
        print(f'{text}, {clock(now - start)} gone', end=end, flush=True)


def generate(
    model: TokenGenerator,
    samples: Sequence[Sample],
    out: Path,
    seed: int,
    batch_size: int,
    options: dict[str, Any],
    pixels: PixelFile | None = None,
) -> dict[str, list[float]]:
    """Generate this process's share of the images and write them.

    Files of a batch are written by threads while the next one is drawn.

    Args:
        model (TokenGenerator): The model.
        samples (Sequence[Sample]): All images of the run.
        out (Path): Folder.
        seed (int): Of the run.
        batch_size (int): Images at a time.
        options (dict[str, Any]): Of sampling.
        pixels (PixelFile, optional): Gets the images, too. Defaults to None.

    Returns:
        dict[str, list[float]]: Diagnostics, one number an image.
    """
    from mmengine.dist import get_rank, get_world_size

    from mergevq_mm.models.generators.generation_request import seeds_of
    from mergevq_mm.visualization import save_png, to_uint8

    rank, world = get_rank(), get_world_size()
    mine, stats = list(enumerate(samples))[rank::world], {}
    batches = [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]

    def write(number: int, image: np.ndarray) -> None:
        save_png(path_of(out, samples[number], model.num_classes), image)
        if pixels is not None:
            pixels.write(number, image)

    with ThreadPoolExecutor(WRITERS) as writers:
        written: list[Future] = []
        for batch in batches if rank else with_progress(batches, world):
            labels = [sample.label for _, sample in batch]
            seeds = seeds_of(seed, [sample.number for _, sample in batch])
            images, drawn = model.generate(labels, seeds=seeds, **options)
            for future in written:  # no more than a batch is under way; tells errors
                future.result()
            written = [
                writers.submit(write, number, to_uint8((image + 1) / 2))
                for (number, _), image in zip(batch, images, strict=True)
            ]
            for name, values in drawn.stats.items():
                stats.setdefault(name, []).extend(values.float().tolist())
        for future in written:
            future.result()
    return stats


def read_png(path: Path) -> np.ndarray:
    """Pixels of an image, H×W×3 uint8."""
    from mergevq_mm.utils.images import read_image

    return np.asarray(read_image(path))


def write_grid(out: Path, samples: Sequence[Sample], num_classes: int) -> None:
    """A column a class, a row a place; no more than fit on a page."""
    from mergevq_mm.visualization import save_png, tile

    labels = list(dict.fromkeys(sample.label for sample in samples))[:GRID_COLUMNS]
    rows: dict[int, list[np.ndarray]] = {}
    for sample in samples:
        if sample.label in labels and sample.place < GRID_ROWS:
            image = read_png(path_of(out, sample, num_classes))
            rows.setdefault(sample.place, []).append(image)
    save_png(out / 'grid.png', tile(list(rows.values()), [str(c) for c in labels]))


def write_npz(out: Path, samples: Sequence[Sample], pixels: PixelFile) -> Path:
    """All images as ``arr_0``, N×H×W×3 uint8, and their ``labels``."""
    shape = (len(samples), *pixels.shape)
    path = out / f'samples_{"x".join(map(str, shape))}.npz'
    partial = path.with_suffix('.partial')
    header = {'descr': '|u1', 'fortran_order': False, 'shape': shape}
    with zipfile.ZipFile(partial, 'w') as archive:
        with archive.open('arr_0.npy', 'w', force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            pixels.copy_to(file, len(samples))
        with archive.open('labels.npy', 'w') as file:
            labels = np.array([sample.label for sample in samples], dtype=np.int64)
            np.lib.format.write_array(file, labels)
    os.replace(partial, path)
    pixels.path.unlink()
    return path


def start_processes(device: str | None) -> str:
    """Join the other processes of ``torchrun`` and choose the device."""
    import torch
    from mmengine.dist import init_dist

    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    if int(os.environ.get('WORLD_SIZE', 1)) > 1:
        cpu = device == 'cpu'
        init_dist('pytorch', backend='gloo' if cpu else 'nccl')
    return device


def run(args: argparse.Namespace) -> None:
    from mmengine.dist import all_gather_object, barrier, is_main_process

    from mergevq_mm.models.generators.precision import set_precision

    cfg = config_utils.load_config(args.config)
    merge_options(cfg, args.cfg_options, ('model', 'data_preprocessor'))
    if args.batch_size < 1:
        raise ValueError(
            f'--batch-size {args.batch_size} draws nothing; give at least 1.'
        )
    model = build_generator(cfg, args.checkpoint, start_processes(args.device))
    set_precision(model, args.dtype)
    samples = plan(model.num_classes, args.classes, args.num_per_class)
    out, options = Path(args.out), sampling_options(args)
    seed = model.sample_cfg.get('seed', 0) if args.seed is None else args.seed

    start = time.monotonic()
    pixels = PixelFile(out / 'pixels.partial') if args.npz else None
    stats = generate(model, samples, out, seed, args.batch_size, options, pixels)
    seconds = time.monotonic() - start
    gathered = all_gather_object(stats)
    barrier()
    if not is_main_process():
        return
    means = {
        name: float(np.mean([v for part in gathered for v in part.get(name, [])]))
        for name in stats
    }
    write_grid(out, samples, model.num_classes)
    made = {
        'config': args.config,
        'checkpoint': args.checkpoint,
        'images': len(samples),
        'seed': seed,
        'dtype': args.dtype,
        'sampling': {**model.sample_cfg, **options},
        'seconds': round(seconds, 2),
        'mean_of_images': means,
    }
    (out / 'samples.json').write_text(json.dumps(made, indent=2) + '\n')
    print(f'{len(samples)} images in {seconds:.1f} s: {out}/, {out / "grid.png"}')
    if args.npz:
        print(f'ADM evaluation suite: {write_npz(out, samples, pixels)}')


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        run(args)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')

    from mergevq_mm.utils.distributed import end_process_group

    end_process_group()


if __name__ == '__main__':
    main()
