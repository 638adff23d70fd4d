"""ImageNet-style folders that are checked at the start and survive bad images."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine import fileio
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmpretrain.datasets import ImageNet

from mergevq_mm.registry import DATASETS
from mergevq_mm.utils.images import image_endings, is_hidden, passed_over

from .class_numbers import (
    TrainingClasses,
    check_listed,
    class_folders,
    class_names,
    listed_numbers,
    number_folders,
    training_classes,
)
from .image_lists import read_labelled, read_names
from .layout import (
    check_classes,
    check_labels,
    check_root,
    check_variable,
    expected_tree,
)
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
    folder above it. Hidden folders and files do not count.

    *Classes.* The class folders of any split have the numbers that they have in
    training (``train/`` or ``meta/train.txt`` of the same root), also where the split
    lacks some of them; a list with other numbers is an error. Without training images,
    the folders are numbered in the order of their names, or as
    ``metainfo=dict(classes=[...])`` lists them.

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
            if ``int``, a fraction of the data set if ``float``, but one at least unless
            it is 0. Defaults to 0.01, one per cent.
        variable (str, optional): Environment variable that the config takes the folder
            from, for errors to name. Defaults to None.
        **kwargs: Further arguments of :class:`mmpretrain.datasets.ImageNet`.

    Raises:
        FileNotFoundError: If the root, the class folders or ``ann_file`` are missing.
        ValueError: If a class folder is empty, cannot be read or is no class of the
            training, a link leads in a circle, a line of a list is not understood, or
            an argument is out of range.
    """

    METAINFO: dict = {}  # classes are named by their folders, not by ImageNet
    IMG_EXTENSIONS = image_endings()

    def __init__(
        self,
        data_root: str = '',
        split: str = '',
        num_classes: int | None = None,
        max_bad: int | float = 0.01,
        variable: str | None = None,
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
        if variable is not None:
            check_variable(variable, data_root or kwargs.get('data_prefix', ''))
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

    def load_data_list(self) -> list[dict]:
        """List the samples.

        Returns:
            list[dict]: A dictionary with ``img_path`` and ``gt_label`` each.
        """
        if self.ann_file:
            samples = self._read_list()
        else:
            samples = self._find_samples()
        prefix = self.img_prefix
        join = fileio.get_file_backend(prefix, enable_singleton=True).join_path
        if not self.with_label:
            return [{'img_path': join(prefix, name)} for name in samples]
        return [
            {'img_path': join(prefix, name), 'gt_label': label}
            for name, label in samples
        ]

    def is_valid_file(self, filename: str) -> bool:
        """Whether a path below a class folder is that of an image."""
        return super().is_valid_file(filename) and not is_hidden(filename)

    def _find_samples(self) -> list:
        """Find the images of the class folders, checking the layout first."""
        folder = self.img_prefix
        check_root(folder, self.data_root, self.split)
        if '://' not in folder:
            check_links(folder)
        if not self.with_label:
            names, others = self._files_below('')
            self._tell_passed_over(others)
            if not names:
                raise FileNotFoundError(
                    f'data_root: {folder!r} holds no image; give a folder with files '
                    f'that end in {", ".join(sorted(self.extensions))}.'
                )
            return names
        found = class_folders(folder)
        files = {name: self._files_below(name) for name in found}
        images = {name: files[name][0] for name in found}
        empty = {name for name in found if not images[name]}
        tree = expected_tree(self.data_root, self.split)
        check_classes(found, empty, self.num_classes, folder, tree)
        numbers = number_folders(found, folder, self._training(), self.CLASSES)
        self._name_classes(numbers)
        beside = fileio.list_dir_or_file(folder, list_dir=False)  # in no class
        others = [file for name in found for file in files[name][1]]
        others += [file for file in beside if not is_hidden(file)]
        self._tell_passed_over(others)
        return [(image, numbers[name]) for name in found for image in images[name]]

    def _files_below(self, name: str) -> tuple[list[str], list[str]]:
        """Images in a class folder and below it, sorted, and what else is there."""
        folder = fileio.join_path(self.img_prefix, name)
        files = fileio.list_dir_or_file(folder, list_dir=False, recursive=True)
        images: list[str] = []
        others: list[str] = []
        for file in sorted(files):
            if not is_hidden(file):
                kind = images if self.is_valid_file(file) else others
                kind.append(f'{name}/{file}' if name else file)
        return images, others

    def _tell_passed_over(self, others: list[str]) -> None:
        """Count and name the files of the folder that are not read."""
        if others and is_main_process():
            top = Path(self.img_prefix)
            text = passed_over([top / file for file in others], top)
            print_log(text, logger='current', level=logging.WARNING)

    def _read_list(self) -> list:
        """Read the list of the images and check its classes."""
        if not fileio.exists(self.ann_file):
            raise FileNotFoundError(
                f'ann_file={self.ann_file!r} does not exist; correct the path, or '
                'leave it out to read the class folders.'
            )
        if not self.with_label:
            return read_names(self.ann_file)
        samples = read_labelled(self.ann_file)
        labels = [label for _, label in samples]
        check_labels(labels, self.num_classes, self.ann_file)
        training = self._training()
        check_listed(samples, self.ann_file, training, self.num_classes)
        self._name_classes(training.numbers if training else listed_numbers(samples))
        return samples

    def _training(self) -> TrainingClasses | None:
        """The classes of the training images, where these are another split's."""
        folder = self.img_prefix.rstrip('/')
        root = (self.data_root or '').rstrip('/')
        # A folder that is no split has nothing to do with a `train` beside it.
        if (root and folder != root) or os.path.basename(folder) in ('val', 'test'):
            return training_classes(folder)
        return None

    def _name_classes(self, numbers: Mapping[str, int] | None) -> None:
        """Name the classes by their folders, unless the config names them."""
        if self.CLASSES is None:
            self._metainfo['classes'] = class_names(numbers)

    # ---- bad images ---------------------------------------------------------

    def full_init(self) -> None:
        """Load the list and make the shared marks of bad images."""
        if self._fully_initialized:
            return
        super().full_init()
        self._bad = SharedMarks(len(self))

    @property
    def num_bad(self) -> int:
        """int: The different images that were found unreadable so far."""
        return self._bad.count()

    @property
    def bad_limit(self) -> int:
        """int: The number of bad images that a training run survives."""
        if isinstance(self.max_bad, int):
            return self.max_bad
        share = int(self.max_bad * len(self) + 1e-6)  # 0.29 * 100 is 28.999…
        return max(share, 1) if self.max_bad else 0

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
                f'max_bad={self.max_bad!r} allows {limit} unreadable '
                f'{"image" if limit == 1 else "images"} of {len(self)}, but {bad} were '
                'found; repair or remove them, or allow more, such as by --cfg-options '
                f'train_dataloader.dataset.max_bad={2 * bad}:\n  {shown}'
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
