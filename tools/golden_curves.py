"""Losses of fifty steps of each model, which a change of the code must not move.

The configs of G, G+R, R, MergeAR and RandAR are trained with narrow networks and small
made-up data; their losses, weights of the losses and optimizers stay as they are. What
comes out is compared with ``tests/golden/curves.json``.

On the machine and the torch that have made the file the losses are equal to the bit, in
float32. Elsewhere kernels add in another order, and a code is a sign: a last bit grows
from step to step. There the same code runs in float64, whose last bits do not come far.

Whoever changes the losses on purpose renews the file and says why in the commit.

Examples:
    python tools/golden_curves.py             compare, one line a curve
    python tools/golden_curves.py --update    write the file anew
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import itertools
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import Tensor, nn

import mergevq_mm  # noqa: F401  (before torchvision and mmagic)
from mergevq_mm.models.utils.frozen import FrozenModel
from mergevq_mm.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / 'tests' / 'golden' / 'curves.json'
CURVES = {
    'G': 'mergevq_g.py',
    'G+R': 'mergevq_g+r.py',
    'R': 'mergevq_r.py',
    'MergeAR': 'mergear_l_g+r.py',
    'RandAR': 'randar_l_g+r.py',
}
STEPS, BATCHES, IMAGES = 50, 4, 2
GRID, LENGTH, KEEP, BITS, CLASSES = (4, 4), 16, 9, 18, 5
_COUNT = itertools.count()

# Of a loss in float64 on another machine, relative to the largest of its curve. Between
# AVX2 and no vector instructions (ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41
# MKL_CBWR=COMPATIBLE) the largest difference was 8e-13.
TOLERANCE = 1e-8
GPU_TOLERANCE = 1e-3  # not measured yet

# What makes kernels round otherwise on the same CPU.
SWITCHES = (
    'ATEN_CPU_CAPABILITY',
    'DNNL_MAX_CPU_ISA',
    'MKL_CBWR',
    'MKL_ENABLE_INSTRUCTIONS',
    'ONEDNN_MAX_CPU_ISA',
)


# ------------------------------------------------------------------ models and batches


@MODELS.register_module(force=True)
class CodesOfCurves(nn.Module):
    """What a generator asks of its tokenizer, without images."""

    grid, length, split, bits = GRID, LENGTH, (6, 12), BITS
    learned_recovery = True

    def init_weights(self) -> None:
        """There are none."""


def shrink_tokenizer(model: Config) -> None:
    """Narrow the networks of stage 1, whose images have 4×4 tokens."""
    hybrid = model.backbone.arch != 'r-base'
    dims, stride = 32, 2 ** (len(model.decoder.channel_mult) - 1)
    arch = dict(num_layers=2, num_heads=2)
    if hybrid:
        mult = tuple(model.decoder.channel_mult)
        base = dims // mult[-1]
        arch.update(stem='hybrid', base_channels=base, channel_mult=mult)
        arch.update(num_res_blocks=1, norm_groups=2)
    else:
        arch.update(stem='patch', embed_dims=dims, patch_size=stride)
    size = GRID[0] * stride
    model.backbone.update(arch=arch, img_size=size, init_cfg=None)
    model.quantizer.update(in_channels=dims, norm_groups=2)
    model.neck.update(grid=GRID, embed_dims=16, num_heads=2, feedforward_channels=32)
    model.decoder.update(
        base_channels=4, num_heads=2, num_layers=1, num_res_blocks=1, norm_groups=2
    )
    model.discriminator.update(base_channels=4, num_conv=2)
    tiny = dict(
        type='mergevq_mm.MergeVQEncoder',
        arch=dict(stem='patch', embed_dims=16, patch_size=8, num_layers=1, num_heads=2),
        img_size=size,
    )
    model.head.alignment.update(in_channels=dims, out_channels=16)
    model.head.perceptual = dict(
        type='mergevq_mm.PerceptualLoss',
        network=dict(tiny, out_type='featmap'),
        random_init=True,
    )
    model.target_generator.network = tiny  # update() would mix it with the old one
    model.target_generator.random_init = True
    model.keep.update(target=KEEP, number=2)
    model.test_cfg.keep = [KEEP]


def shrink_generator(model: Config) -> None:
    """Narrow the networks of stage 2; dropout, whose noise differs by device, is off.

    The heads begin with zeros, so that the first loss is the logarithm of the codes.
    """
    model.arch = dict(
        embed_dims=32, num_layers=2, num_heads=4, ffn_multiple=32, head_layers=1
    )
    model.tokenizer = dict(type='mergevq_mm.CodesOfCurves')
    model.num_classes = CLASSES
    model.keep.update(target=KEEP, number=2)
    model.dropout = 0.0


def fill(model: nn.Module, seed: int = 0) -> None:
    """Replace random weights by numpy's, alike on all machines and versions of torch.

    Each tensor keeps its mean and deviation, to four digits.
    """
    numbers = np.random.default_rng(seed)
    networks = [m.network for m in model.modules() if isinstance(m, FrozenModel)]
    for network in (model, *networks):
        for parameter in network.parameters():
            value = parameter.detach().double()
            std = float(f'{value.std(correction=0).item():.4g}')
            if std == 0:
                continue
            drawn = numbers.standard_normal(tuple(value.shape)) * std
            parameter.data.copy_(
                torch.from_numpy(drawn + round(value.mean().item(), 4))
            )


def batches(model: nn.Module, seed: int = 1) -> list[dict]:
    """Batches as the data loader makes them: three views of images, or codes."""
    from mmpretrain.structures import DataSample

    numbers = np.random.default_rng(seed)
    made = []
    for _ in range(BATCHES):
        labels = numbers.integers(CLASSES, size=IMAGES)
        samples = [DataSample().set_gt_label(int(label)) for label in labels]
        if hasattr(model, 'backbone'):
            size = (IMAGES, 3, *model.backbone.img_size)
            inputs = [_picture(numbers, size) for _ in range(3)]
        else:
            inputs = {}
            for keep in model.keeps:
                codes = numbers.integers(2**BITS, size=(IMAGES, keep))
                groups = np.arange(LENGTH) % keep
                inputs[f'index_K{keep}'] = torch.from_numpy(codes)
                inputs[f'group_K{keep}'] = torch.from_numpy(
                    np.tile(groups, (IMAGES, 1))
                )
        made.append(dict(inputs=inputs, data_samples=samples))
    return made


def _picture(numbers: np.random.Generator, size: tuple[int, ...]) -> Tensor:
    """Coloured squares with noise on them, grey values B×3×H×W."""
    squares = numbers.integers(30, 220, size=(*size[:2], *GRID))
    side = size[-1] // GRID[-1]
    picture = squares.repeat(side, 2).repeat(side, 3)
    return torch.from_numpy(picture + numbers.integers(-20, 20, size=size)).float()


def build(name: str) -> tuple[nn.Module, Config]:
    """The narrow model of a curve, and the config of its optimizers."""
    cfg = Config.fromfile(ROOT / 'configs' / CURVES[name])
    (shrink_generator if 'tokenizer' in cfg.model else shrink_tokenizer)(cfg.model)
    with (
        DefaultScope.overwrite_default_scope('mmpretrain'),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        model.init_weights()
    fill(model)
    return model.train(), cfg.optim_wrapper


# --------------------------------------------------------------------------- the curves


@contextmanager
def same_noise(seed: int = 2) -> Iterator[None]:
    """Random numbers of a CPU, whatever device asks for them."""
    rand = torch.rand

    def on_cpu(*size: int, device: torch.device | None = None) -> Tensor:
        return rand(*size).to(device)

    with torch.random.fork_rng(devices=[]), mock.patch('torch.rand', on_cpu):
        torch.manual_seed(seed)
        yield


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """With 'float64', what our code computes in float32 on purpose is in it as well."""
    kind = getattr(torch.Tensor, {'float32': 'float', 'float64': 'double'}[dtype])
    with mock.patch.object(torch.Tensor, 'float', kind):
        yield


def curve(
    name: str, dtype: str = 'float32', device: str = 'cpu'
) -> dict[str, list[float]]:
    """Train a model for fifty steps.

    Args:
        name (str): Of ``CURVES``.
        dtype (str): 'float32', or 'float64', in which machines agree. Defaults to
            'float32'.
        device (str): Defaults to 'cpu'.

    Returns:
        dict[str, list[float]]: ``loss`` and, of stage 1, ``loss_discriminator``: a
        number for each step.
    """
    model, optimizers = build(name)
    model.to(device, getattr(torch, dtype))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        wrapper = build_optim_wrapper(model, optimizers)
    data = batches(model)
    hub = MessageHub.get_instance(f'golden {name} {next(_COUNT)}')  # the current one
    found: dict[str, list[float]] = {}
    with same_noise(), precision(dtype):
        for step in range(STEPS):
            hub.update_info('iter', step)
            log = model.train_step(copy.deepcopy(data[step % BATCHES]), wrapper)
            assert not log['nonfinite']
            for key in ('loss', 'loss_discriminator'):
                if key in log:
                    found.setdefault(key, []).append(log[key].item())
    return found


def machine() -> dict[str, str]:
    """What decides how the last bits are rounded: torch and the CPU."""
    words: dict[str, str] = {}
    info = Path('/proc/cpuinfo')
    for line in info.read_text().splitlines() if info.is_file() else ():
        name, _, value = line.partition(':')
        words.setdefault(name.strip(), value.strip())
    cpu = words.get('model name') or platform.processor() or platform.machine()
    details = [words.get(key, '') for key in ('flags', 'cache size', 'model')]
    return {
        'torch': str(torch.__version__),
        'instructions': torch.backends.cpu.get_cpu_capability(),
        'cpu': cpu,
        'details': hashlib.sha256('\n'.join(details).encode()).hexdigest()[:12],
        'libc': ' '.join(platform.libc_ver()),
        'switches': ' '.join(
            f'{n}={os.environ[n]}' for n in SWITCHES if n in os.environ
        ),
    }


def compare(
    found: dict[str, list[float]], expected: dict[str, list[float]], tolerance: float
) -> str | None:
    """How a curve differs from what it should be.

    Args:
        found (dict[str, list[float]]): The curve.
        expected (dict[str, list[float]]): That of the file.
        tolerance (float): Of a difference, relative to the largest loss; 0 wants every
            bit.

    Returns:
        str: The first step that differs, and by how much; None if none does.
    """
    if set(found) != set(expected):
        return f'has {sorted(found)} in the place of {sorted(expected)}'
    for key, values in expected.items():
        a, b = np.float64(found[key]), np.float64(values)
        if a.shape != b.shape:
            return f'{key} has {len(a)} steps in the place of {len(b)}'
        off = np.abs(a - b) / np.abs(b).max()
        wrong = np.flatnonzero(~(off <= tolerance))
        if len(wrong):
            step = int(wrong[0])
            return (
                f'{key} of step {step} is {a[step]:.9g} in the place of {b[step]:.9g}; '
                f'the largest difference is {off.max():.1e} of the curve'
            )
    return None


def check(name: str, golden: dict, device: str = 'cpu') -> str | None:
    """Compare a curve with the file, to the bit where this machine has made it.

    Args:
        name (str): Of ``CURVES``.
        golden (dict): The file.
        device (str): Defaults to 'cpu'.

    Returns:
        str: As of :func:`compare`.
    """
    if device != 'cpu':
        dtype, tolerance = 'float64', GPU_TOLERANCE
    elif golden['machine'] == machine():
        dtype, tolerance = 'float32', 0.0
    else:
        dtype, tolerance = 'float64', TOLERANCE
    return compare(curve(name, dtype, device), golden[dtype][name], tolerance)


def read() -> dict:
    """The file."""
    return json.loads(FILE.read_text(encoding='utf-8'))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Losses of fifty steps of each model')
    parser.add_argument('--update', action='store_true', help='write the file anew')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    MMLogger.get_instance('mmengine', log_level='WARNING')  # not of each weight
    torch.set_num_threads(1)
    if args.update:
        made = {d: {n: curve(n, d) for n in CURVES} for d in ('float32', 'float64')}
        text = json.dumps({'machine': machine(), **made}, indent=1)
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(text + '\n', encoding='utf-8')
        print(f'{FILE} is written; say in the commit why the losses change.')
        return
    golden = read()
    same = golden['machine'] == machine()
    print('to the bit' if same else f'to {TOLERANCE:g}: made on {golden["machine"]}')
    notes = {name: check(name, golden) for name in CURVES}
    for name, note in notes.items():
        print(f'{name:8} {note or "as it was"}')
    sys.exit(any(notes.values()))


if __name__ == '__main__':
    main()
