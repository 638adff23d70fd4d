"""Matching, entropy and perceptual losses of activations as large as half precision.

Sums and squares of values up to 6e4 are beyond float16 (largest value 65,504): each of
these computations has to leave autocast and work in float32.
"""

from __future__ import annotations

import pytest
import torch
from tiny_mergevq import PERCEPTUAL, batch, build_model
from torch import Tensor, nn

from mergevq_mm.models import LFQ
from mergevq_mm.models.losses import LeCAM, PerceptualLoss
from mergevq_mm.models.utils.token_merging import bipartite_matching, merge_tokens
from mergevq_mm.registry import MODELS

LARGE = 6e4
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(params=HALVES, ids=str)
def half(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def test_the_danger_is_real() -> None:
    x = torch.full((4,), LARGE, dtype=torch.float16)
    assert x.isfinite().all()
    assert (x * x).isinf().all() and (x + x).isinf().all()


def test_matching(half: torch.dtype) -> None:
    x = torch.randn(2, 17, 16).clamp(-1, 1).mul(LARGE).to(half)
    size = torch.ones(2, 17)
    expected = bipartite_matching(x.float(), 6)
    with torch.autocast('cpu', half):
        found = bipartite_matching(x, 6)
        tokens, sizes = merge_tokens(x, size, found)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert tokens.dtype == half and tokens.isfinite().all()
    exact, _ = merge_tokens(x.double(), size.double(), expected)
    torch.testing.assert_close(tokens.double(), exact, rtol=2**-8, atol=0)
    assert sizes.sum(dim=1).tolist() == [17, 17]


def test_entropy(half: torch.dtype) -> None:
    z = torch.randn(2, 30, 18).clamp(-1, 1).mul(LARGE).to(half).requires_grad_()
    quantizer = LFQ().train()
    with torch.autocast('cpu', half):
        found = quantizer(z).losses
    expected = quantizer(z.float()).losses
    for name, value in found.items():
        assert value.dtype == torch.float32 and value.isfinite(), name
        assert torch.equal(value, expected[name]), name
    found['loss_entropy'].backward()
    assert z.grad.isfinite().all()


class LargeMaps(nn.Module):
    """A network whose features are near the end of float16."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return (self.conv(image).tanh() * LARGE,)


def test_perceptual(half: torch.dtype) -> None:
    loss = PerceptualLoss(LargeMaps())
    image, recon = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8).requires_grad_()
    expected = loss(recon, image)
    with torch.autocast('cpu', half):
        found = loss(recon.to(half), image)
    assert found.dtype == torch.float32 and found.isfinite()
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0)
    found.backward()
    assert recon.grad.isfinite().all()


def test_lecam(half: torch.dtype) -> None:
    lecam = LeCAM()
    logits = torch.full((4, 1, 4, 4), LARGE, dtype=half)
    with torch.autocast('cpu', half):
        value = lecam(logits, -logits)
    assert torch.as_tensor(value).isfinite()


def test_a_perceptual_network_of_the_config_is_an_island(half: torch.dtype) -> None:
    loss = MODELS.build(PERCEPTUAL)
    images = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    expected = loss(*images)
    with torch.autocast('cpu', half):
        assert torch.equal(loss(*images), expected)


def test_the_whole_model_on_large_images() -> None:
    """Pixels of 6e4 instead of 255, through every loss, in bfloat16."""
    model = build_model()
    data = batch()
    data['inputs'] = [view / 255 * LARGE for view in data['inputs']]
    data = model.data_preprocessor(data, training=True)
    with torch.autocast('cpu', torch.bfloat16):
        losses, _ = model.generator_losses(data['inputs'], data['data_samples'])
    for name, value in losses.items():
        assert torch.as_tensor(value).isfinite().all(), name
