"""A new neck for a trained tokenizer: its data, its training, its checkpoint."""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor, nn

import mergevq_mm  # noqa: F401  (before torchvision and mmpretrain)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from extract_codes import READS, dataset_config  # noqa: F401

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from mergevq_mm.models.generators.tokenizer import TokenizerParts


class Images(NamedTuple):
    """A batch: images B×3×H×W in [-1, 1] and their classes B."""

    pixels: Tensor
    labels: Tensor


# -------------------------------------------------------------------------- data


class Loader:
    """Batches of images of a split, prepared as in validation or as random views.

    Args:
        cfg (Config): A stage-1 config.
        args (Namespace): The command line.
        device (torch.device): Where the batches are wanted.
    """

    def __init__(
        self, cfg: Config, args: argparse.Namespace, device: torch.device
    ) -> None:
        from mergevq_mm.registry import MODELS

        given = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')
        to_unit = {'mean': [127.5] * 3, 'std': [127.5] * 3, 'to_rgb': True}
        self.cfg, self.batch_size = cfg, args.batch_size
        self.preprocessor = MODELS.build(
            {'type': 'mmpretrain.SelfSupDataPreprocessor', **(given or to_unit)}
        ).to(device)

    def __call__(self, split: str, views: bool = False) -> Iterator[Images]:
        """One pass, shuffled where they are random views."""
        from mmengine.dataset import default_collate
        from torch.utils.data import DataLoader

        loader = DataLoader(
            self._images(split, views),
            self.batch_size,
            shuffle=views,
            num_workers=self.cfg.val_dataloader.get('num_workers', 0),
            collate_fn=default_collate,
        )
        for batch in loader:
            data = self.preprocessor(batch)
            pixels = data['inputs']  # B×3×H×W
            labels = torch.cat([sample.gt_label for sample in data['data_samples']])
            yield Images(pixels, labels.to(pixels.device))

    def number(self, split: str) -> int:
        """Images of a split."""
        return len(self._images(split, False))

    def _images(self, split: str, views: bool) -> Dataset:
        from mergevq_mm.registry import DATASETS

        data = dataset_config(self.cfg, split)
        if views and 'codes_pipeline' in self.cfg:
            data['pipeline'] = self.cfg.codes_pipeline
        return DATASETS.build(data)


def read_parts(cfg: Config, args: argparse.Namespace) -> TokenizerParts:
    """The parts of the tokenizer, its neck new where it is to be trained.

    Raises:
        ValueError: If the checkpoint does not fit, or the neck predicts nothing.
        FileNotFoundError: If there is no such checkpoint.
    """
    from mergevq_mm.models.generators import tokenizer
    from mergevq_mm.utils.checkpoint import load_pretrained

    parts = tokenizer.TokenizerParts(tokenizer.read_parts(dict(cfg.model)))
    if not parts.neck.learned:
        raise ValueError(
            f'the neck of {args.config} predicts no source map; set '
            "model.neck.type='mergevq_mm.SourceRecovery'."
        )
    for name, part in parts.named_children():
        if name == 'neck' and args.epochs:
            continue
        load_pretrained(part, args.checkpoint, prefix=f'{name}.', min_matched=1.0)
    return parts.eval()


@torch.no_grad()
def encode(
    parts: TokenizerParts, pixels: Tensor, keep: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes B×K×d, their indices B×K, and the true map B×L."""
    merged = parts.backbone(pixels, keep, mode='encode')
    quantized = parts.quantizer(merged.tokens)
    return quantized.codes, quantized.index, merged.group


# ---------------------------------------------------------------------- training


def train(
    parts: TokenizerParts, cfg: Config, load: Loader, args: argparse.Namespace
) -> None:
    """Train the neck on the codes of the frozen parts, at the config's draw of K.

    Args:
        parts (TokenizerParts): Of the tokenizer; the neck is trained in place.
        cfg (Config): Its config.
        load (Loader): Of images.
        args (Namespace): The command line.
    """
    from mergevq_mm.models.losses.source_recovery import source_cross_entropy
    from mergevq_mm.models.selfsup.mergevq_checks import read_keep_sampler

    grid = parts.backbone.grid
    sampler = read_keep_sampler(cfg.model.get('keep'), grid[0] * grid[1])
    steps = max(round(args.epochs * load.number('train') / args.batch_size), 1)
    neck, step = parts.neck.train(), 0
    optimizer = torch.optim.AdamW(
        neck.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=steps + 1, pct_start=0.05
    )
    begin = told = time.perf_counter()
    while step < steps:
        for images in load('train', views=True):
            codes, _, group = encode(parts, images.pixels, sampler(step))
            labels = images.labels if neck.num_classes else None
            logits = neck(codes, group, grid, labels).logits
            loss = source_cross_entropy(logits, group)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(neck.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            step += 1
            if time.perf_counter() - told > 10 or step == steps:
                told = time.perf_counter()
                value = float(loss.detach())
                print(f'neck: step {step}/{steps}, loss {value:.3f}', flush=True)
            if step == steps:
                break
    neck.eval()
    print(f'neck: trained in {time.perf_counter() - begin:.0f} seconds', flush=True)


def write(parts: TokenizerParts, args: argparse.Namespace) -> None:
    """Write the checkpoint's weights with the new neck in the place of its own."""
    from mergevq_mm.utils import checkpoint
    from mergevq_mm.utils.fileio import write_atomically

    content = checkpoint.load_checkpoint_file(args.checkpoint)
    found = checkpoint.get_state_dict(content)
    # Under plain names, or the old neck would be found under those of a wrapper.
    weights = checkpoint.normalize_keys(found, parts.state_dict())
    weights = {k: v for k, v in weights.items() if not k.startswith('neck.')}
    for name, value in parts.neck.state_dict().items():
        weights[f'neck.{name}'] = value.cpu()
    buffer = io.BytesIO()
    torch.save({'meta': content.get('meta', {}), 'state_dict': weights}, buffer)
    write_atomically(buffer.getvalue(), args.out)
    print(f'written to {args.out}')
