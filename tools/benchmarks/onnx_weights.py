"""What weights of 16 and of 8 bits cost a tokenizer in onnxruntime.

Exports the model once for each precision, encodes and decodes images by the graphs,
and prints a row each: the bytes, the PSNR of the reconstructions, what of it is lost
against float32, and the share of the positions whose code is that of float32. With
--dynamic also a row of onnxruntime's quantize_dynamic, which rounds activations, too.
With --torch the modules are run whose graphs would be exported: quicker, without sizes.

Examples:
    python tools/benchmarks/onnx_weights.py photos PHOTO.jpg --keep 0.25 --torch
    python tools/benchmarks/onnx_weights.py digits data/mnist5k/val --dynamic
"""

from __future__ import annotations

import argparse
import importlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

import mergevq_mm  # noqa: F401  (before torchvision)
from mergevq_mm.apis.coding_inferencers import EncodingInferencer
from mergevq_mm.apis.loading import load_for_inference
from mergevq_mm.apis.onnx_export import OnnxTokenizer, export_onnx
from mergevq_mm.apis.onnx_export.graphs import DecoderGraph, EncoderGraph
from mergevq_mm.apis.onnx_export.weights import PRECISIONS, with_stored_weights
from mergevq_mm.cli.keep_arguments import keep_of
from mergevq_mm.models.utils.pixel_range import to_grey_values

HEAD = (
    '| model | K | weights | encoder | decoder | PSNR | lost | equal codes |\n'
    '| --- | --- | --- | --- | --- | --- | --- | --- |'
)


class Coded(NamedTuple):
    """Images by the graphs of one precision.

    Attributes:
        codes (np.ndarray): Of each position, N×L.
        psnr (np.ndarray): Of each image, dB.
    """

    codes: np.ndarray
    psnr: np.ndarray


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', help='as of all commands: a name, a folder, a config')
    parser.add_argument('images', nargs='+', help='files, folders')
    parser.add_argument('--weights', help='checkpoint of a config')
    parser.add_argument(
        '--keep', type=keep_of, nargs='+', default=[None], help="default: the model's"
    )
    parser.add_argument(
        '--number', type=int, default=200, help='images at most. Default: 200'
    )
    parser.add_argument(
        '--dynamic', action='store_true', help='also a row of quantize_dynamic'
    )
    parser.add_argument(
        '--torch', action='store_true', help='run the modules, export nothing'
    )
    args = parser.parse_args(argv)
    if args.torch and args.dynamic:
        parser.error('--dynamic quantises graphs, and --torch makes none; leave one')
    return args


class Modules:
    """What :class:`OnnxTokenizer` does, by the modules that become the graphs.

    Args:
        parts (nn.Module): Of a tokenizer.
        precision (str): Of the weights.
    """

    def __init__(self, parts: nn.Module, precision: str) -> None:
        self.parts = with_stored_weights(parts, precision)

    @torch.inference_mode()
    def encode(self, images: np.ndarray, keep: int) -> list[np.ndarray]:
        """n×H×W×3 uint8 to codes n×K and map n×L."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
        return [t.numpy() for t in EncoderGraph(self.parts, keep)(pixels)[:2]]

    @torch.inference_mode()
    def decode(self, index: np.ndarray, group: np.ndarray) -> np.ndarray:
        """Codes n×K and map n×L to n×H×W×3 uint8."""
        decoder = DecoderGraph(self.parts, self.parts.backbone.grid)
        image = decoder(torch.from_numpy(index), torch.from_numpy(group))
        return to_grey_values(image).permute(0, 2, 3, 1).numpy().astype(np.uint8)


def read_images(infer: EncodingInferencer, paths: Sequence[str], number: int) -> list:
    """Batches of images as in validation, n×H×W×3 uint8, evenly from the files."""
    named = [item for path in paths for item in infer._inputs_to_list(path)]
    named = named[:: max(len(named) // number, 1)][:number]
    batches = infer.preprocess(named, batch_size=16, fit='crop')
    return [np.stack([image.pixels for image in batch]) for batch in batches]


def code(
    tokenizer: OnnxTokenizer | Modules, keep: int, batches: Sequence[np.ndarray]
) -> Coded:
    """Encode and decode."""
    codes, psnr = [], []
    for images in batches:
        index, group = tokenizer.encode(images, keep)
        codes.append(np.take_along_axis(index, group, 1))
        made = tokenizer.decode(index, group).astype(np.float64)
        error = ((made - images) ** 2).mean(axis=(1, 2, 3))
        psnr.append(10 * np.log10(255**2 / error))
    return Coded(np.concatenate(codes), np.concatenate(psnr))


def quantize(folder: Path, out: Path) -> Path:
    """The graphs of a folder by onnxruntime's dynamic quantisation."""
    library = importlib.import_module('onnxruntime.quantization')
    onnx = importlib.import_module('onnx')
    logging.getLogger().setLevel(logging.ERROR)
    out.mkdir()
    for path in folder.glob('*.onnx'):
        graph = onnx.load(path)
        facts = [(p.key, p.value) for p in graph.metadata_props]
        del graph.graph.value_info[:]  # it looks at types anew
        library.quantize_dynamic(graph, out / path.name, per_channel=True)
        graph = onnx.load(out / path.name)
        del graph.metadata_props[:]
        onnx.helper.set_model_props(graph, dict(facts))
        onnx.save(graph, out / path.name)
    return out


def row(
    name: str, keep: int, kind: str, folder: Path | None, made: Coded, base: Coded
) -> str:
    """A line of the table."""
    encoder = 'encoder_all' if keep == made.codes.shape[1] else f'encoder_k{keep}'
    sizes = [
        '–'
        if folder is None
        else f'{(folder / f"{part}.onnx").stat().st_size / 1e6:.2f} MB'
        for part in (encoder, 'decoder')
    ]
    equal = 100 * (made.codes == base.codes).mean()
    psnr = made.psnr.mean()
    return (
        f'| {name} | {keep} | {kind} | {sizes[0]} | {sizes[1]} | {psnr:.2f} dB | '
        f'{base.psnr.mean() - psnr:.3f} dB | {equal:.2f} % |'
    )


def measure(args: argparse.Namespace) -> Iterator[str]:
    """The rows of all K and precisions."""
    infer = EncodingInferencer(
        args.model, pretrained=args.weights, device='cpu', show_progress=False
    )
    model = load_for_inference(args.model, args.weights, 'cpu')
    tokenizer = model.tokenizer.network if hasattr(model, 'tokenizer') else model
    batches = read_images(infer, args.images, args.number)
    grid = infer.parts.backbone.grid_of(*batches[0].shape[1:3])
    keeps = [infer.read_keep(keep, grid) for keep in args.keep]
    yield f'{sum(map(len, batches))} images of {batches[0].shape[1:3]} pixels\n\n{HEAD}'
    with tempfile.TemporaryDirectory() as root:
        folders: dict[str, Path] = {}
        found = {kind: Modules(tokenizer, kind) for kind in PRECISIONS if args.torch}
        for kind in () if args.torch else PRECISIONS:
            folders[kind] = Path(root, kind)
            # Compared at one image, as that is what the command is for.
            export_onnx(tokenizer, folders[kind], keeps, precision=kind, batches=(1,))
        if args.dynamic:
            folders['int8, dynamic'] = quantize(folders['fp32'], Path(root, 'dynamic'))
        found |= {kind: OnnxTokenizer(folder) for kind, folder in folders.items()}
        for keep in keeps:
            base = code(found['fp32'], keep, batches)
            for kind, one in found.items():
                made, name = code(one, keep, batches), Path(args.model).name
                yield row(name, keep, kind, folders.get(kind), made, base)


def main(argv: Sequence[str] | None = None) -> None:
    for line in measure(parse_args(argv)):
        print(line, flush=True)


if __name__ == '__main__':
    main()
