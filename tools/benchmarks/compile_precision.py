"""What torch.compile, bfloat16 and channels-last bring, for inference and training.

Each option is measured against float32 as it comes, taking turns in one run; a ratio
above 1 is faster. Inference is encode and decode at one K; training is a step of the
generator side without its frozen networks (teacher and perceptual loss, which have
their own ways). Options that change numbers say by how much: PSNR between their
reconstruction and that of float32, and the share of codes that stay the same.

Examples:
    python tools/benchmarks/compile_precision.py
    python tools/benchmarks/compile_precision.py --config configs/mergevq_g+r.py
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from common import (
    add_arguments,
    interleaved,
    median_ratio,
    run_main,
    start,
    synchronize,
)
from reporting import Report
from torch import Tensor, nn
from torch.nn import functional as F

import mergevq_mm  # noqa: F401  (before torchvision and mmpretrain)
from mergevq_mm.apis import get_model
from mergevq_mm.engine.hooks.speed_hook import prepare
from mergevq_mm.evaluation.functional.image_quality import psnr

QUICKSTART = Path(__file__).parents[2] / 'configs/quickstart/mergevq_g+r_mnist5k.py'


class Option(NamedTuple):
    """One way to run a model."""

    bf16: bool = False
    channels_last: bool = False
    compile: bool = False


OPTIONS = {
    'float32': Option(),
    'channels-last': Option(channels_last=True),
    'bf16': Option(bf16=True),
    'bf16, channels-last': Option(bf16=True, channels_last=True),
    'compile': Option(compile=True),
    'compile, bf16': Option(bf16=True, compile=True),
    'all three': Option(bf16=True, channels_last=True, compile=True),
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Benchmark of compile, bf16 and channels-last'
    )
    parser.add_argument(
        '--config', default=str(QUICKSTART), help="default: the quickstart's tokenizer"
    )
    parser.add_argument('--checkpoint', help='weights. Default: random ones')
    parser.add_argument('--keep', type=int, help="K (default: the config's target)")
    parser.add_argument('--batch-size', type=int, default=32, help='default: 32')
    parser.add_argument('--options', nargs='+', choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument(
        '--work',
        nargs='+',
        choices=['inference', 'training'],
        default=['inference', 'training'],
    )
    add_arguments(parser, repeats=5)
    return parser.parse_args(argv)


class Variant:
    """A copy of the model that runs in one way.

    Args:
        model (nn.Module): A MergeVQ in float32; copied.
        option (Option): The way.
        images (Tensor): B×3×H×W in [-1, 1].
        keep (int): K.
    """

    def __init__(
        self, model: nn.Module, option: Option, images: Tensor, keep: int
    ) -> None:
        self.model = prepare(
            copy.deepcopy(model),
            {'dynamic': False} if option.compile else False,
            ('backbone', 'decoder'),
            option.channels_last,
        )
        self.images, self.keep, self.bf16 = images, keep, option.bf16
        if option.channels_last:
            self.images = images.contiguous(memory_format=torch.channels_last)

    def autocast(self) -> Any:
        """The precision."""
        kind = self.images.device.type
        return torch.autocast(kind, torch.bfloat16) if self.bf16 else nullcontext()

    def forward(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Reconstruct: image, codes and losses of the quantizer."""
        merged, quantized = self.model.encode(self.images, self.keep)
        codes = quantized.codes
        image, _ = self.model.decode(codes, merged.group, merged.grid)
        return image, quantized.index, quantized.losses

    @torch.no_grad()
    def inference(self) -> tuple[Tensor, Tensor]:
        """Encode and decode."""
        self.model.eval()
        with self.autocast():
            image, index, _ = self.forward()
        return image, index

    def training(self) -> None:
        """Forward and backward of pixel, entropy and commitment losses."""
        self.model.train()
        with self.autocast():
            image, _, losses = self.forward()
            loss = F.mse_loss(image.float(), self.images)
            loss = loss + sum(v for k, v in losses.items() if k.startswith('loss'))
        loss.backward()
        self.model.zero_grad(set_to_none=True)


def photograph_crops(number: int, size: tuple[int, int], seed: int) -> Tensor:
    """Random crops of a photograph, number×3×H×W in [-1, 1]."""
    from photographs import photograph

    pixels = torch.from_numpy(photograph('chelsea').copy()).permute(2, 0, 1).float()
    random = torch.Generator().manual_seed(seed)
    crops = []
    for _ in range(number):
        side = int(torch.randint(100, 301, (), generator=random))
        top = int(torch.randint(pixels.shape[1] - side + 1, (), generator=random))
        left = int(torch.randint(pixels.shape[2] - side + 1, (), generator=random))
        crop = pixels[None, :, top : top + side, left : left + side]
        crops.append(F.interpolate(crop, size, mode='bilinear', antialias=True))
    return torch.cat(crops).clamp(0, 255) / 127.5 - 1


def first_calls(
    works: dict[str, Callable[[], Any]], device: torch.device
) -> dict[str, float]:
    """Seconds of the first call of each, which compiles."""
    seconds = {}
    for name, work in works.items():
        begin = time.perf_counter()
        work()
        synchronize(device)
        seconds[name] = time.perf_counter() - begin
    return seconds


def changes(variant: Variant, image: Tensor, index: Tensor) -> dict[str, Any]:
    """How far the results are from those of float32: dB, and share of equal codes."""
    found, codes = variant.inference()
    to_unit = lambda x: (x.float() * 0.5 + 0.5).clamp(0, 1)  # noqa: E731
    quality = float(psnr(to_unit(found), to_unit(image)).mean())
    return {
        'psnr': quality,
        'codes': float((codes == index).float().mean()),
    }


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    device = start(args)
    model = get_model(args.config, args.checkpoint or False, device)
    keep = args.keep or model.keep_sampler.target
    size = model.backbone.img_size
    images = photograph_crops(args.batch_size, size, args.seed).to(device)
    names = ['float32', *(name for name in args.options if name != 'float32')]
    variants = {name: Variant(model, OPTIONS[name], images, keep) for name in names}
    report = Report(
        f'{Path(args.config).name}, {args.batch_size} images of {size[0]} px, K={keep}',
        {
            'work': 'work',
            'option': 'option',
            'ms': 'time (ms)|.1f',
            'speed': 'times as fast|.2f',
            'first': 'first call (s)|.1f',
            'psnr': 'PSNR to float32 (dB)|.1f',
            'codes': 'equal codes|.1%',
        },
        args,
        device,
    )
    image, index = variants['float32'].inference()
    for work in args.work:
        works = {name: getattr(variant, work) for name, variant in variants.items()}
        first = first_calls(works, device)
        seconds = interleaved(works, args.repeats, device)
        for name, times in seconds.items():
            differs = work == 'inference' and name != 'float32'
            report.add(
                work=work,
                option=name,
                ms=1e3 * median(times),
                speed=median_ratio(seconds['float32'], times),
                first=first[name],
                **(changes(variants[name], image, index) if differs else {}),
            )
    if args.checkpoint is None:
        report.note(
            'random weights; give --checkpoint for the codes of a trained model.'
        )
    report.show()
    return 0


if __name__ == '__main__':
    run_main(main)
