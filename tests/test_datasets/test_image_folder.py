"""ImageFolder: layout errors at construction, bad images in training and test."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from PIL import Image

from mergevq_mm.datasets import ImageFolder, UnreadableImageError
from mergevq_mm.utils.images import image_endings

PIPELINE = [dict(type='mergevq_mm.LoadImage'), dict(type='mmpretrain.PackInputs')]


def make_root(root: Path, per_class: int = 4, bad: tuple = ()) -> Path:
    """Two classes; image i has the colour (i, i, i); ``bad`` ones are empty files."""
    number = 0
    for name in ('a', 'b'):
        (root / 'train' / name).mkdir(parents=True)
        for i in range(per_class):
            path = root / 'train' / name / f'{i}.png'
            Image.new('RGB', (2, 2), (number,) * 3).save(path)
            if number in bad:
                path.write_bytes(b'')
            number += 1
    return root


def folder(root: Path, **kwargs) -> ImageFolder:
    return ImageFolder(str(root), split='train', pipeline=PIPELINE, **kwargs)


def value(sample: dict) -> int:
    return int(sample['inputs'].unique())


# ---- layout -----------------------------------------------------------------


def test_reads_class_folders(tmp_path: Path) -> None:
    data = DATASETS.build(
        dict(
            type='mergevq_mm.ImageFolder',
            data_root=str(make_root(tmp_path)),
            split='train',
            num_classes=2,
            pipeline=PIPELINE,
        )
    )
    assert len(data) == 8 and data.CLASSES == ('a', 'b')
    assert [value(data[i]) for i in range(8)] == list(range(8))
    assert [int(data[i]['data_samples'].gt_label) for i in (0, 3, 4)] == [0, 0, 1]
    assert data[5]['data_samples'].img_path.endswith('train/b/1.png')


def test_all_formats_are_read_and_the_rest_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    room = 'mergevq_mm.datasets.image_folder.print_log'
    monkeypatch.setattr(room, lambda text, **kwargs: said.append(text))
    folder = tmp_path / 'train' / 'a'
    folder.mkdir(parents=True)
    names = ['1.JPG', '2.webp', '3.tiff', '4.gif', '5.jfif', '7.jp2', '8.png']
    if '.avif' in image_endings():  # of a newer Pillow
        names.insert(5, '6.avif')
    for name in names:
        kind = 'JPEG' if name.endswith('jfif') else None
        Image.new('RGB', (8, 8)).save(folder / name, kind)
    for name in ('a/notes.txt', 'a/phone.heic', 'a/page.eps', 'a/.DS_Store', 'b.png'):
        (tmp_path / 'train' / name).touch()
    pipeline = [dict(type='mergevq_mm.LoadImage')]
    data = ImageFolder(str(tmp_path), 'train', pipeline=pipeline)
    read = [Path(data[i]['img_path']).name for i in range(len(data))]
    assert read == names
    assert said == [
        f'"{tmp_path}/train" holds files that are not read (1 .txt, 1 .eps, 1 .heic, '
        '1 .png): a/notes.txt, a/page.eps, a/phone.heic, …'
    ]


def test_missing_root_and_split(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'data_root(.|\n)*└── train/'):
        folder(tmp_path / 'nowhere')
    with pytest.raises(FileNotFoundError, match=r'train(.|\n)*<class a>'):
        folder(tmp_path)
    (tmp_path / 'train').mkdir()
    with pytest.raises(FileNotFoundError, match='no class folder'):
        folder(tmp_path)


def test_empty_and_missing_class_folder(tmp_path: Path) -> None:
    make_root(tmp_path)
    with pytest.raises(ValueError, match='num_classes=3.*2 class folders'):
        folder(tmp_path, num_classes=3)
    (tmp_path / 'train' / 'c').mkdir()
    (tmp_path / 'train' / 'c' / 'notes.txt').touch()
    with pytest.raises(ValueError, match="class folder 'c'"):
        folder(tmp_path)


def test_arguments(tmp_path: Path) -> None:
    make_root(tmp_path)
    for kwargs in (dict(max_bad=-1), dict(max_bad=1.5), dict(max_bad=True)):
        with pytest.raises(ValueError, match='max_bad'):
            folder(tmp_path, **kwargs)
    with pytest.raises(ValueError, match="split='training'"):
        ImageFolder(str(tmp_path), split='training')
    with pytest.raises(ValueError, match='data_root'):
        ImageFolder()


def test_annotation_file(tmp_path: Path) -> None:
    make_root(tmp_path)
    (tmp_path / 'meta').mkdir()
    lines = tmp_path / 'meta' / 'train.txt'
    lines.write_text('b/1.png 1\na/0.png 0\n')
    data = folder(tmp_path, num_classes=2)
    assert [value(data[i]) for i in range(2)] == [5, 0]
    lines.write_text('b/1.png 2\n')
    with pytest.raises(ValueError, match='class id 2'):
        folder(tmp_path, num_classes=2)
    with pytest.raises(FileNotFoundError, match='ann_file'):
        folder(tmp_path, ann_file='meta/other.txt')


# ---- bad images -------------------------------------------------------------


def test_training_takes_the_next_image_and_counts(tmp_path: Path) -> None:
    data = folder(make_root(tmp_path, bad=(1, 2, 7)), max_bad=3)
    # 1 and 2 are replaced by 3, 7 (the last) by 0: deterministic.
    assert [value(data[i]) for i in range(8)] == [0, 3, 3, 3, 4, 5, 6, 0]
    assert data.num_bad == 3
    assert [Path(p).name for p in data.bad_files()] == ['1.png', '2.png', '3.png']
    for i in range(8):  # a second epoch finds the same three
        data[i]
    assert data.num_bad == 3


def test_too_many_bad_images_end_the_run(tmp_path: Path) -> None:
    data = folder(make_root(tmp_path, bad=(1, 5)), max_bad=1)
    data[1]
    with pytest.raises(ValueError, match=r'max_bad=1(.|\n)*a/1.png(.|\n)*b/1.png'):
        data[5]
    fraction = folder(tmp_path, max_bad=0.25)  # 2 of 8
    assert fraction.bad_limit == 2
    assert value(fraction[1]) == 2 and value(fraction[5]) == 6
    with pytest.raises(ValueError, match='max_bad=0 '):
        folder(tmp_path, max_bad=0)[1]


def test_a_share_allows_one_bad_image_at_least(tmp_path: Path) -> None:
    data = folder(make_root(tmp_path, bad=(1, 5)))  # 0.01 of 8
    assert data.bad_limit == 1 and value(data[1]) == 2
    with pytest.raises(ValueError) as caught:
        data[5]
    assert 'max_bad=0.01 allows 1 unreadable image of 8, but 2 we' in str(caught.value)
    assert '--cfg-options train_dataloader.dataset.max_bad=4:' in str(caught.value)
    for none in (0, 0.0):
        assert folder(tmp_path, max_bad=none).bad_limit == 0


def test_the_variable_that_names_the_folder(tmp_path: Path) -> None:
    given = dict(variable='PHOTOS', with_label=False)
    (tmp_path / 'file').touch()
    for value, text in (
        ('', 'PHOTOS is not set or empty; give a folder that holds images, such as P'),
        (str(tmp_path / 'no'), f"PHOTOS='{tmp_path}/no' does not exist; give"),
        (str(tmp_path / 'file'), f"PHOTOS='{tmp_path}/file' is a file; give"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            ImageFolder(data_prefix=value, **given)
        assert str(caught.value).startswith(text)
    make_root(tmp_path, bad=())
    assert len(ImageFolder(data_prefix=str(tmp_path), **given)) == 8


def test_all_images_bad(tmp_path: Path) -> None:
    data = folder(make_root(tmp_path, per_class=2, bad=(0, 1, 2, 3)), max_bad=1.0)
    with pytest.raises(ValueError, match='no readable image'):
        data[0]


def test_test_mode_raises_with_the_path(tmp_path: Path) -> None:
    data = folder(make_root(tmp_path, bad=(1,)), test_mode=True)
    assert value(data[0]) == 0
    with pytest.raises(UnreadableImageError, match='train/a/1.png'):
        data[1]


def loader(data: ImageFolder, workers: int, batch_size: int = 4):
    return Runner.build_dataloader(
        dict(
            batch_size=batch_size,
            num_workers=workers,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
            dataset=data,
        )
    )


def test_workers_share_one_count(tmp_path: Path) -> None:
    data = folder(make_root(tmp_path, bad=(1, 4)), max_bad=2)
    batches = loader(data, 2, 1)
    values = [int(x[0, 0, 0]) for b in batches for x in b['inputs']]
    assert values == [0, 2, 2, 3, 5, 5, 6, 7]
    # One in each worker, both seen by the main process; the runner copies a data
    # set that is built already.
    assert batches.dataset.num_bad == 2 and data.num_bad == 0
    strict = folder(tmp_path, max_bad=0)
    with pytest.raises(ValueError, match='max_bad=0'):
        list(loader(strict, 1))


def test_subset_and_copy(tmp_path: Path) -> None:
    data = folder(make_root(tmp_path, bad=(1,)), max_bad=1, indices=[0, 1, 2])
    assert len(data) == 3 and value(data[1]) == 2 and data.num_bad == 1
    part = copy.deepcopy(data).get_subset([1, 2])
    assert value(part[0]) == 2


def test_collated_images_are_bgr_bytes(tmp_path: Path) -> None:
    make_root(tmp_path)
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[..., 0] = 200  # red
    Image.fromarray(picture).save(tmp_path / 'train' / 'a' / '0.png')
    batch = next(iter(loader(folder(tmp_path), 0)))
    assert batch['inputs'].shape == (4, 3, 2, 2)
    assert batch['inputs'][0, :, 0, 0].tolist() == [0, 0, 200]
