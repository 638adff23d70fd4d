"""ImageNet-style folders that are checked at the start and survive bad images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmengine import fileio
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmpretrain.datasets import ImageNet

from mergevq_mm.registry import DATASETS
from mergevq_mm.utils.images import image_endings, passed_over, walk_files

from .layout import check_classes, check_labels, check_root, expected_tree
from .links import check_links
from .shared_marks import SharedMarks
from .transforms.load_image import UnreadableImageError


@DATASETS.register_module()
class ImageFolder(ImageNet):
    """A data set of the layout ``data_root/<split>/<class>/<image>``.

    It reads what :class:`mmpretrain.datasets.ImageNet` reads (class folders, or
    ``meta/<split>.txt`` with a path and a class id a line), for any set of
    classes, and differs in these points.

    *Layout.* A missing root, no class folder, an empty class folder or a number of
    classes other than ``num_classes`` is an error at construction that draws the
    expected tree; so is a folder that may not be read, and a link that leads back to a
    folder above it.

    *Files.* All endings count whose format is read (:func:`image_endings`); what has
    another one is counted and named.

    *Bad images.* In training an image that :class:`LoadImage` cannot read is
    replaced by the next one of the list (so the replacement is deterministic and
    mostly of the same class), a warning names its path, and the run ends with a
    ``ValueError`` once more than ``max_bad`` **different** images were bad. With
    ``test_mode=True`` the first one raises with its path. The marks of bad images
    lie in shared memory: all worker processes of one data loader, and the main
    process, see one count (:attr:`num_bad`, :meth:`bad_files`). In a distributed
    run every rank counts for itself.

    Args:
        data_root (str): The root folder. Defaults to ``''``.
        split (str): ``'train'``, ``'val'`` or ``'test'`` (``'test'`` has no
            labels and no class folders); ``''`` reads ``data_prefix``. Defaults to
            ``''``.
        num_classes (int, optional): How many classes there must be. None accepts
            any number. Defaults to None.
        max_bad (int | float): How many bad images a training run survives: a number
            if ``int``, a fraction of the data set if ``float``. Defaults to 0.01, one
            per cent.
        **kwargs: Further arguments of :class:`mmpretrain.datasets.ImageNet`.

    Raises:
        FileNotFoundError: If the root, the class folders or ``ann_file`` are missing.
        ValueError: If a class folder is empty or cannot be read, a link leads in a
            circle, or an argument is out of range.
    """

    METAINFO: dict = {}  # classes are named by their folders, not by ImageNet
    IMG_EXTENSIONS = image_endings()

    def __init__(
        self,
        data_root: str = '',
        split: str = '',
        num_classes: int | None = None,
        max_bad: int | float = 0.01,
        **kwargs: Any,
    ) -> None:
        if split not in ('', 'train', 'val', 'test'):
            raise ValueError(
                f"split={split!r} is unknown; use 'train', 'val', 'test', or '' "
                'together with data_prefix.'
            )
        whole = isinstance(max_bad, int) and not isinstance(max_bad, bool)
        fraction = isinstance(max_bad, float) and max_bad <= 1.0
        if not (whole or fraction) or max_bad < 0:
            raise ValueError(
                f'max_bad={max_bad!r} must be a number of images (int >= 0) or a '
                'fraction of the data set (float in [0, 1]).'
            )
        if not (data_root or kwargs.get('data_prefix') or kwargs.get('ann_file')):
            raise ValueError(
                "data_root='' names no data; set it to the folder above train/ and "
                'val/, or give data_prefix.'
            )
        self.split = split
        self.num_classes = num_classes
        self.max_bad = max_bad
        super().__init__(data_root=data_root, split=split, **kwargs)

    # ---- layout -------------------------------------------------------------

    def _find_samples(self) -> list:
        """Find the images of the class folders, checking the layout first."""
        check_root(self.img_prefix, self.data_root, self.split)
        if '://' not in self.img_prefix:
            check_links(self.img_prefix)
        if self.with_label:
            self._check_class_folders()
        return super()._find_samples()

    def _check_class_folders(self) -> None:
        """Look into each class folder until its first image."""
        folder = self.img_prefix
        found = sorted(fileio.list_dir_or_file(folder, list_file=False))
        empty = {
            name
            for name in found
            if not any(
                self.is_valid_file(file)
                for file in fileio.list_dir_or_file(
                    fileio.join_path(folder, name), list_dir=False, recursive=True
                )
            )
        }
        tree = expected_tree(self.data_root, self.split)
        check_classes(found, empty, self.num_classes, folder, tree)

    def load_data_list(self) -> list[dict]:
        """List the samples.

        Returns:
            list[dict]: A dictionary with ``img_path`` and ``gt_label`` each.
        """
        if self.ann_file and not fileio.exists(self.ann_file):
            raise FileNotFoundError(
                f'ann_file={self.ann_file!r} does not exist; correct the path, or '
                'leave it out to read the class folders.'
            )
        samples = super().load_data_list()
        if self.ann_file and self.with_label:
            labels = [sample['gt_label'] for sample in samples]
            check_labels(labels, self.num_classes, self.ann_file)
        return samples

    # ---- bad images ---------------------------------------------------------

    def full_init(self) -> None:
        """Load the list and make the shared marks of bad images."""
        if self._fully_initialized:
            return
        super().full_init()
        self._bad = SharedMarks(len(self))
        if not self.ann_file and '://' not in self.img_prefix:
            self._tell_passed_over()

    def _tell_passed_over(self) -> None:
        """Count and name the files of the folder that are not read."""
        files = walk_files(self.img_prefix) if is_main_process() else ()
        top = Path(self.img_prefix)
        others = [
            file
            for file in files
            if not self.is_valid_file(file.name)
            or (self.with_label and file.parent == top)  # in no class
        ]
        if others:
            text = passed_over(others, self.img_prefix)
            print_log(text, logger='current', level=logging.WARNING)

    @property
    def num_bad(self) -> int:
        """int: The different images that were found unreadable so far."""
        return self._bad.count()

    @property
    def bad_limit(self) -> int:
        """int: The number of bad images that a training run survives."""
        if isinstance(self.max_bad, int):
            return self.max_bad
        return int(self.max_bad * len(self) + 1e-6)  # 0.29 * 100 is 28.999…

    def bad_files(self) -> list[str]:
        """List the images that were found unreadable so far.

        Returns:
            list[str]: Their paths, in the order of the data set.
        """
        marked = self._bad.indices()
        return [self.get_data_info(index)['img_path'] for index in marked]

    def _count_bad(self, index: int, error: UnreadableImageError) -> None:
        """Mark an image as bad; end the run if there are too many."""
        if len(self._bad) != len(self):  # a subset was taken since
            self._bad = SharedMarks(len(self))
        fresh = self._bad.set(index)
        bad, limit = self.num_bad, self.bad_limit
        if bad > limit:
            shown = '\n  '.join(self.bad_files()[:20])
            raise ValueError(
                f'max_bad={self.max_bad!r} allows {limit} unreadable images of '
                f'{len(self)}, but {bad} were found; repair the data or raise '
                f'max_bad:\n  {shown}'
            ) from error
        if fresh:
            print_log(
                f'{error} Training takes the next image instead ({bad} unreadable of '
                f'{len(self)} so far; the run ends with number {limit + 1}).',
                logger='current',
                level=logging.WARNING,
            )

    def __getitem__(self, idx: int) -> dict:
        """Get the sample at an index, or the next readable one in training.

        Args:
            idx (int): The index of the sample.

        Returns:
            dict: What the pipeline returns.

        Raises:
            UnreadableImageError: In test mode, if the image cannot be read.
            ValueError: In training, if more than ``max_bad`` images were bad.
        """
        if self.test_mode:
            return super().__getitem__(idx)
        self.full_init()
        idx = int(idx) % len(self)
        for _ in range(min(self.max_refetch, len(self) - 1) + 1):
            sample = None
            try:
                sample = self.prepare_data(idx)
            except UnreadableImageError as error:
                self._count_bad(idx, error)
            if sample is not None:
                return sample
            idx = (idx + 1) % len(self)
        raise ValueError(
            f'data_root={self.data_root!r}: no readable image in '
            f'{self.max_refetch + 1} tries; check the files and the pipeline.'
        )
