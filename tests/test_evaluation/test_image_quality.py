import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mergevq_mm.evaluation.functional import MAX_PSNR, psnr, quantize, ssim


def _arrays(image, reference):
    """Batches in [0, 1] as lists of H×W×3 uint8 arrays."""
    for a, b in zip(image, reference):
        yield tuple(quantize(t).byte().permute(1, 2, 0).numpy() for t in (a, b))


@pytest.fixture
def pair():
    photo = torch.from_numpy(data.astronaut()[100:148, 180:244].copy())
    reference = photo.permute(2, 0, 1).float().div(255).expand(3, -1, -1, -1)
    levels = torch.tensor([0.01, 0.1, 0.5]).reshape(-1, 1, 1, 1)
    return reference + levels * torch.randn(3, 3, 48, 64), reference


def test_psnr_equals_skimage(pair):
    expected = [peak_signal_noise_ratio(b, a) for a, b in _arrays(*pair)]
    np.testing.assert_allclose(psnr(*pair), expected, rtol=1e-12)


def test_ssim_equals_skimage(pair):
    expected = [structural_similarity(b, a, channel_axis=2) for a, b in _arrays(*pair)]
    np.testing.assert_allclose(ssim(*pair), expected, rtol=1e-10)


def test_by_hand():
    black = torch.zeros(1, 3, 8, 8)
    grey = torch.full((1, 3, 8, 8), 10 / 255)
    assert psnr(grey, black).item() == pytest.approx(10 * np.log10(255**2 / 100))
    # Only the luminance term differs: c1 / (10² + c1).
    c1 = (0.01 * 255) ** 2
    assert ssim(grey, black).item() == pytest.approx(c1 / (100 + c1))


def test_equal_images_and_clamping():
    image = torch.rand(2, 3, 9, 7)
    nearly = image + 0.3 / 255 * (torch.rand_like(image) - 0.5)
    nearly = torch.where(quantize(nearly) == quantize(image), nearly, image)
    assert psnr(nearly, image).tolist() == [MAX_PSNR, MAX_PSNR]
    np.testing.assert_allclose(ssim(nearly, image), 1.0)
    outside = torch.tensor([-0.2, 1.7]).reshape(2, 1, 1, 1).expand(2, 3, 8, 8)
    inside = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 3, 8, 8)
    assert psnr(outside, inside).tolist() == [MAX_PSNR, MAX_PSNR]


def test_nan_is_not_hidden():
    image = torch.rand(2, 3, 8, 8)
    broken = image.clone()
    broken[1, 0, 3, 3] = torch.nan
    for measure in (psnr, ssim):
        assert torch.isnan(measure(broken, image)).tolist() == [False, True]


def test_bad_input():
    with pytest.raises(ValueError, match='no pair'):
        psnr(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9))
    with pytest.raises(ValueError, match='smaller than the SSIM window of 7'):
        ssim(torch.rand(1, 3, 6, 8), torch.rand(1, 3, 6, 8))
