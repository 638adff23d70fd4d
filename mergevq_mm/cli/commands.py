"""What the commands do. Imports what is heavy only in the one that runs."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import keep_arguments


def models(args: argparse.Namespace) -> None:
    """List names, one a line.

    Args:
        args (Namespace): The command line.

    Raises:
        ValueError: If there is none.
    """
    from mergevq_mm.apis import list_models, model_info

    names = list_models(args.pattern, pretrained=args.pretrained)
    if not names:
        raise ValueError(
            f'no model begins with "{args.pattern}"; leave it out for all.'
        )
    width = max(map(len, names))
    for name in names:
        info = model_info(name) if args.paths else None
        print(f'{name:{width}}  {info.config}' if info else name)


def model_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of an inferencer that name its model."""
    from mergevq_mm.utils.shipped import find_model

    if args.weights and args.random_weights:
        raise ValueError(
            f'--weights {args.weights} and --random-weights contradict each other; '
            'leave one out.'
        )
    if args.random_weights and Path(find_model(args.model)).is_dir():
        raise ValueError(
            f'--random-weights has no effect on the folder "{args.model}", which has '
            'weights of its own; leave it out, or give a config.'
        )
    if getattr(args, 'tokenizer', None) == '':
        raise ValueError("--tokenizer '' names nothing; give a path, or leave it out.")
    found: dict[str, Any] = {
        'model': args.model,
        'pretrained': False if args.random_weights else args.weights,
        'device': args.device,
    }
    if getattr(args, 'tokenizer', None):
        found['tokenizer'] = {'checkpoint': args.tokenizer}
    return found


def image_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of a call on images."""
    return {'size': args.size, 'fit': args.fit, 'batch_size': args.batch_size}


def named_files(paths: Sequence[str]) -> list[str]:
    """What somebody names; one of several that cannot be read ends nothing.

    A shell writes `photographs/*.jpg` out, so that nobody has looked at each of them.

    Args:
        paths (Sequence[str]): Files, folders, addresses.

    Returns:
        list[str]: The same for an inferencer.
    """
    from mergevq_mm.apis.image_inputs import FolderFile

    return list(paths) if len(paths) == 1 else [FolderFile(path) for path in paths]


def conclude(args: argparse.Namespace, failed: Sequence[str], good: int) -> None:
    """Say how many of several files could not be read, if there are any.

    Args:
        args (Namespace): The command line.
        failed (Sequence[str]): What was wrong with them.
        good (int): Files that could.

    Raises:
        ValueError: If there are any, with ``--strict``.
    """
    if not failed:
        return
    text = f'{len(failed)} of {len(failed) + good} files could not be read'
    if args.strict:
        raise ValueError(f'{text}; the first: {failed[0]}')
    logging.getLogger('mergevq_mm').warning('%s, see above', text)


def reconstruct(args: argparse.Namespace) -> None:
    """Reconstruct and write; print a line for each image and K, of many their means.

    Args:
        args (Namespace): The command line.
    """
    from mergevq_mm.apis import ReconstructionInferencer
    from mergevq_mm.apis.known_images import is_foreign, known_images, own_psnrs

    from .summary import ReconstructionSummary

    keep = keep_arguments.budget_of(args) or args.keep
    infer = ReconstructionInferencer(
        **model_arguments(args), show_progress=not args.quiet
    )
    summary, psnrs = ReconstructionSummary(), []
    for result in infer.stream(
        named_files(args.images),
        keep=keep,
        predict_source=args.predict_source,
        draw=not args.no_pictures,
        out_dir=args.out,
        **image_arguments(args),
    ):
        for line in summary.add(result, infer.number):
            print(line, flush=True)
        psnrs += own_psnrs(infer, result)
    if infer.number > 1:
        summary.write(args.out, infer.task, infer.sources)
        print('\n'.join(summary.means()))
    print(f'{summary.images} images, {summary.files} files: {args.out}/')
    if is_foreign(psnrs) and known_images(infer):
        logging.getLogger('mergevq_mm').warning(
            'little comes back (%.1f dB): this model has learnt from %s',
            np.mean(psnrs),
            known_images(infer),
        )
    conclude(args, infer.failed, summary.images)


def encode(args: argparse.Namespace) -> None:
    """Encode, write, and print a line for each image.

    Args:
        args (Namespace): The command line.
    """
    from mergevq_mm.apis import EncodingInferencer

    keep = keep_arguments.budget_of(args) or args.keep
    infer = EncodingInferencer(**model_arguments(args), show_progress=not args.quiet)
    rates, keeps, total = [], [], 0
    for result in infer.stream(
        named_files(args.images),
        keep=keep,
        with_map=not args.no_map,
        out_dir=args.out,
        **image_arguments(args),
    ):
        size = result['file_bits'] // 8
        print(
            f'{result["files"][0]}: K = {len(result["index"])}, {size} bytes, '
            f'{result["bpp"]:.4f} bits a pixel ({result["file_bpp"]:.4f} with the '
            'header)',
            flush=True,
        )
        rates.append(result['bpp'])
        keeps.append(len(result['index']))
        total += size
    print(
        f'{len(rates)} images, {total} bytes, {np.mean(keeps):.1f} tokens and '
        f'{np.mean(rates):.4f} bits a pixel on average: {args.out}/'
    )
    conclude(args, infer.failed, len(rates))


def decode(args: argparse.Namespace) -> None:
    """Decode, write, and print a line for each file.

    Args:
        args (Namespace): The command line.
    """
    from mergevq_mm.apis import DecodingInferencer

    infer = DecodingInferencer(**model_arguments(args), show_progress=not args.quiet)
    number = 0
    for result in infer.stream(
        named_files(args.files), out_dir=args.out, batch_size=args.batch_size
    ):
        height, width = result['image'].shape[:2]
        print(f'{result["files"][0]}: {width}x{height}', flush=True)
        number += 1
    print(f'{number} images: {args.out}/')
    conclude(args, infer.failed, number)


def features(args: argparse.Namespace) -> None:
    """Write features of all images to a file.

    Args:
        args (Namespace): The command line.
    """
    from mergevq_mm.apis import FeatureInferencer
    from mergevq_mm.evaluation.feature_files import check_ending, write_features

    check_ending(args.out)  # before the work
    keep = keep_arguments.budget_of(args) or args.keep
    infer = FeatureInferencer(**model_arguments(args), show_progress=not args.quiet)
    results = infer(
        named_files(args.images),
        keep=keep,
        features=args.features,
        **image_arguments(args),
    )
    rows = {name: np.stack([r[name] for r in results]) for name in args.features}
    rows['label'] = np.full(len(results), -1, dtype=np.int64)
    rows['path'] = np.array([result['source'] for result in results])
    kept = 'all' if keep is None else str(keep)
    metadata = {'model': str(args.model), 'weights': str(args.weights), 'keep': kept}
    write_features(args.out, rows, metadata)
    widths = ', '.join(f'{name} {rows[name].shape[1]}' for name in args.features)
    print(f'{len(results)} images, widths {widths}: {args.out}')
    conclude(args, infer.failed, len(results))


def generate(args: argparse.Namespace) -> None:
    """Generate, write the images and a grid.

    Args:
        args (Namespace): The command line.
    """
    from mergevq_mm.apis import GenerationInferencer
    from mergevq_mm.apis.outputs import write_outputs
    from mergevq_mm.visualization import sample_grid

    from .summary import sampling_words

    infer = GenerationInferencer(**model_arguments(args), show_progress=not args.quiet)
    classes = args.classes or list(range(min(10, infer.model.num_classes)))
    made, stats = [], []
    for result in infer.stream(
        classes,
        num_per_class=args.num_per_class,
        out_dir=args.out,
        batch_size=args.batch_size,
        **sampling_arguments(args),
    ):
        made.append(result['image'])
        stats.append(result['stats'])
    labels = [f'class {label}' for label in classes]
    grid = sample_grid(made, columns=len(classes), captions=labels)
    (path,) = write_outputs(args.out, {'grid.png': grid}, infer.task)
    print(sampling_words(result['keep'], stats))
    print(f'{len(made)} images: {args.out}/, {path}')


def sampling_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of a call that draws."""
    single = ('keep', 'seed', 'mode', 'num_steps')
    return drawing_arguments(args) | {name: getattr(args, name) for name in single}


def drawing_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """How values are drawn, where the command line says it."""
    return {
        name: values[0] if len(values) == 1 else tuple(values)
        for name in ('guidance', 'temperature', 'top_k', 'top_p')
        if (values := getattr(args, name)) is not None
    }


def edit(args: argparse.Namespace) -> None:
    """Draw a region of an image anew, write the variants and a grid.

    Args:
        args (Namespace): The command line.
    """
    from mergevq_mm.apis import EditingInferencer
    from mergevq_mm.apis.outputs import write_outputs
    from mergevq_mm.visualization import sample_grid, shade_region

    infer = EditingInferencer(**model_arguments(args), show_progress=not args.quiet)
    pictures = []
    for result in infer.stream(
        args.image,
        mask=args.mask,
        label=args.label,
        num=args.num,
        out_dir=args.out,
        batch_size=args.batch_size,
        **sampling_arguments(args),
    ):
        if result['place'] == 0:
            before = result['original']
            pictures += [before, shade_region(before, result['region'])]
        pictures.append(result['image'])
        print(result['files'][0], flush=True)
    labels = ['image', 'region', *(f'edit {place}' for place in range(args.num))]
    grid = sample_grid(pictures, columns=2 + args.num, captions=labels)
    (path,) = write_outputs(args.out, {'grid.png': grid}, infer.task, infer.sources)
    print(f'{args.out}/, {path}')


def export(args: argparse.Namespace) -> None:
    """Write the folder of a model.

    Args:
        args (Namespace): The command line.
    """
    from mergevq_mm.apis import save_pretrained
    from mergevq_mm.apis.loading import load_for_inference

    model = load_for_inference(**model_arguments(args))
    tokenizer = getattr(model, 'tokenizer', None)
    if tokenizer is not None:
        tokenizer.init_weights()  # an early error where its file is missing
    metadata = {'images': args.images} if args.images else None
    folder = save_pretrained(model, args.folder, metadata=metadata, half=args.half)
    for path in sorted(path for path in folder.rglob('*') if path.is_file()):
        print(f'{path}: {path.stat().st_size:,} bytes')
    generator = tokenizer is not None
    number = sum(p.numel() for p in model.parameters())
    name = shlex.quote(str(folder))
    print(
        f'{type(model).__name__}{" with its tokenizer" * generator}, {number:,} '
        f'parameters. Try: mergevq {"generate" if generator else "reconstruct"} {name}'
        f'{"" if generator else " IMAGE"}'
    )


def export_onnx(args: argparse.Namespace) -> None:
    """Write the graphs of a model; print a line for each, with the comparison.

    Args:
        args (Namespace): The command line.
    """
    from mergevq_mm.apis.loading import load_for_inference
    from mergevq_mm.apis.onnx_export import export_onnx as export_graphs
    from mergevq_mm.apis.onnx_export.convert import check_packages

    check_packages()  # before the model is read
    written = export_graphs(
        load_for_inference(**model_arguments(args)),
        args.out,
        args.keep,
        args.image_size and tuple(args.image_size),
        args.precision,
        **drawing_arguments(args),
    )
    print('\n'.join(map(str, written)))


def web(args: argparse.Namespace) -> None:
    """Serve the page until it is interrupted.

    Args:
        args (Namespace): The command line.
    """
    from mergevq_mm.web import serve

    generator = None
    if args.generator:
        more = {}
        if args.generator_tokenizer:
            more['tokenizer'] = {'checkpoint': args.generator_tokenizer}
        generator = {
            'model': args.generator,
            'pretrained': False if args.random_weights else args.generator_weights,
            'device': args.device,
            **more,
        }
    serve(
        model_arguments(args),
        generator,
        examples=args.examples or (),
        host=args.host,
        port=args.port,
    )
