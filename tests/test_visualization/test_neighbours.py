"""Nearest training images: against a slow loop, mirrored ones, and on a page."""

from __future__ import annotations

import pytest
import torch

from mergevq_mm.visualization import nearest_images, neighbour_sheet


def test_nearest_are_those_of_a_slow_loop() -> None:
    torch.manual_seed(0)
    images, gallery = torch.rand(4, 3, 6, 5), torch.rand(9, 3, 6, 5)
    near = nearest_images(images, gallery, number=3)
    for i, image in enumerate(images):
        errors = [
            min(float((image - x).square().mean()) for x in (other, other.flip(-1)))
            for other in gallery
        ]
        order = sorted(range(9), key=errors.__getitem__)[:3]
        assert near.index[i].tolist() == order
        expected = -10 * torch.tensor([errors[j] for j in order]).log10()
        torch.testing.assert_close(near.psnr[i], expected)


def test_a_mirrored_copy_is_found() -> None:
    torch.manual_seed(0)
    gallery = torch.rand(5, 3, 8, 8)
    copy = gallery[3:4].flip(-1)
    near = nearest_images(copy, gallery, 1)
    assert near.index.item() == 3 and near.psnr.item() > 100
    assert nearest_images(copy, gallery, 1, mirrored=False).psnr.item() < 20


@pytest.mark.parametrize('number', [0, 6])
def test_no_such_number_of_neighbours(number: int) -> None:
    with pytest.raises(ValueError, match='at most as many neighbours'):
        nearest_images(torch.rand(1, 3, 4, 4), torch.rand(5, 3, 4, 4), number)


def test_sheet_has_each_image_with_its_neighbours() -> None:
    images, gallery = torch.zeros(3, 3, 64, 64), torch.rand(4, 3, 64, 64)
    near = nearest_images(images, gallery, 2)
    page = neighbour_sheet(images, gallery, near, list('abc'))
    assert page.dtype.name == 'uint8' and page.shape[2] == 3
    # Three black images of 128 pixels square among white and noise.
    assert (page == 0).all(axis=2).sum() >= 3 * 128 * 128
    with pytest.raises(ValueError, match='a title for each'):
        neighbour_sheet(images, gallery, near, ['a'])
