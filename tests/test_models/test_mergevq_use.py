"""MergeVQ as a user calls it: images to tokens and back, and what is no image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_mergevq import build_model


def test_reconstruct_and_decode_in_few_words() -> None:
    model = build_model().eval()
    images = torch.rand(2, 3, 8, 12) * 2 - 1
    merged, quantized = model.encode(images, 7)
    expected, recovered = model.decode(quantized.codes, merged.group, merged.grid)
    for found, tokens in (
        model.decode(merged, quantized),
        model.decode(quantized.index, merged.group, merged.grid),
    ):
        torch.testing.assert_close(found, expected)
        assert torch.equal(tokens.tokens, recovered.tokens)
    made = model.reconstruct(images, 7)
    torch.testing.assert_close(made, expected)
    assert not made.requires_grad and expected.requires_grad
    all_of_them = model.decode(*model.encode(images))[0]
    torch.testing.assert_close(model.reconstruct(images), all_of_them)
    with torch.no_grad():  # without a map the neck predicts it
        predicted = model.decode(quantized.index, None, merged.grid)[0]
        torch.testing.assert_close(
            predicted, model.decode(quantized.codes, None, merged.grid)[0]
        )
    with pytest.raises(ValueError, match='^grid=None; give rows and columns'):
        model.decode(quantized.codes, merged.group)
    half = build_model().eval().bfloat16()
    merged, quantized = half.encode(images.bfloat16(), 7)
    assert half.decode(quantized.index, merged.group, merged.grid)[0].isfinite().all()


@pytest.mark.parametrize(
    ('images', 'text'),
    [
        (
            torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
            'images are torch.uint8; give B×3',
        ),
        (np.zeros((8, 8, 3)), 'images are ndarray; give B×3×H×W in [-1, 1], such as'),
        (
            torch.zeros(3, 8, 8),
            'images of shape (3, 8, 8) are no batch; give images[No',
        ),
        (torch.zeros(8, 8), 'images have the shape (8, 8); give B×3×H×W'),
        (
            torch.zeros(1, 1, 8, 8),
            'have one channel; give three, such as images.expand',
        ),
        (torch.zeros(1, 8, 8, 3), 'have no three channels; give B×3×H×W'),
        (torch.full((1, 3, 8, 8), 255.0), 'images hold values up to 255; give B×3×H×W'),
    ],
)
def test_what_is_no_batch_of_images(images: object, text: str) -> None:
    model = build_model().eval()
    for call in (model.encode, model.reconstruct):
        with pytest.raises(ValueError) as caught:
            call(images)
        assert text in str(caught.value) and '\n' not in str(caught.value)
