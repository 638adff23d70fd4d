"""Computes the targets of all images of a folder once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mergevq_mm.base.process import is_main_process, print_log
from mergevq_mm.utils.images import find_files, image_endings, passed_over, read_image

from .stored_teacher import write_targets


class _ImageFolder(Dataset[Tensor]):
    """All images below a folder, 3×H×W in [-1, 1], in the order of their keys."""

    def __init__(self, root: Path, image_size: int | None) -> None:
        self.root = root
        self.image_size = image_size
        files, others = find_files(root)
        self.keys = sorted(path.relative_to(root).as_posix() for path in files)
        if others and is_main_process():
            print_log(passed_over(others, root), 'current', logging.WARNING)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, item: int) -> Tensor:
        import mmcv

        image = np.asarray(read_image(self.root / self.keys[item]))
        if self.image_size is not None:
            height, width = image.shape[:2]
            scale = self.image_size / min(height, width)
            if scale != 1:
                size = (round(width * scale), round(height * scale))
                shrink = 'area' if scale < 1 else 'bicubic'
                image = mmcv.imresize(image, size, interpolation=shrink)
            top = (image.shape[0] - self.image_size) // 2
            left = (image.shape[1] - self.image_size) // 2
            rows, columns = slice(top, top + self.image_size), slice(left, None)
            image = image[rows, columns][:, : self.image_size]
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)  # H×W×3 -> 3×H×W
        return pixels.float() / 127.5 - 1.0


@torch.no_grad()
def extract_targets(
    teacher: nn.Module | Callable[[Tensor], Tensor],
    dataset_root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    batch_size: int = 64,
    image_size: int | None = None,
    num_workers: int = 0,
    half: bool = False,
    device: str | torch.device = 'cpu',
    metadata: dict[str, str] | None = None,
) -> tuple[int, int]:
    """Runs a teacher over all images below a folder and writes their targets.

    Args:
        teacher (nn.Module): Takes images B×3×H×W in [-1, 1] and returns B×T.
        dataset_root (str | PathLike): Folder; the keys are the paths below it.
        out (str | PathLike): ``.safetensors`` or ``.npz`` file to write.
        batch_size (int): Images a batch. Defaults to 64.
        image_size (int, optional): Resize the shorter edge to this and take the square
            in the middle. Defaults to None: images stay as they are and must have one
            size.
        num_workers (int): Processes that read images. Defaults to 0.
        half (bool): Whether to store float16. Defaults to False.
        device (str | torch.device): Where the teacher runs. Defaults to 'cpu'.
        metadata (dict[str, str], optional): What to note in the file. Defaults to None.

    Returns:
        tuple[int, int]: Number of images and width of the targets.

    Raises:
        FileNotFoundError: If the folder is missing or holds no image.
        ValueError: If an image cannot be read.
    """
    from rich.progress import track

    root = Path(dataset_root)
    if not root.is_dir():
        raise FileNotFoundError(
            f'dataset_root="{root}" does not exist; give the folder above train/ and '
            'val/.'
        )
    dataset = _ImageFolder(root, image_size)
    if not dataset.keys:
        raise FileNotFoundError(
            f'dataset_root="{root}" holds no image ({", ".join(image_endings())}); '
            'give the folder above train/ and val/.'
        )
    if isinstance(teacher, nn.Module):
        initialize = getattr(teacher, 'init_weights', None)
        if initialize is not None:
            initialize()
        teacher = teacher.to(device).eval()
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=num_workers)
    targets = []
    quiet = not is_main_process()
    for images in track(loader, 'Computing targets', disable=quiet):
        feature = teacher(images.to(device)).cpu()
        targets.append(feature.half() if half else feature.float())
    joined = torch.cat(targets)
    write_targets(out, dataset.keys, joined, metadata)
    return joined.shape[0], joined.shape[1]
