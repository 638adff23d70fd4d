"""Images between images: from one to the other, bit by bit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tiny_mergevq import build_model

from mergevq_mm.models import interpolate


def two_batches() -> torch.Tensor:
    """Two batches of two images, 2×2×3×8×12."""
    return torch.rand(2, 2, 3, 8, 12) * 2 - 1


def test_the_ends_are_the_reconstructions() -> None:
    model = build_model().eval()
    first, second = two_batches()
    made = interpolate(model, first, second, [0.0, 0.5, 1.0])
    assert made.shape == (3, 2, 3, 8, 12) and not made.requires_grad
    torch.testing.assert_close(made[0], model.reconstruct(first))
    torch.testing.assert_close(made[2], model.reconstruct(second))
    assert not torch.equal(made[1], made[0]) and not torch.equal(made[1], made[2])
    back = interpolate(model, second, first, [0.5])
    torch.testing.assert_close(back[0], made[1])


def test_bits_turn_once_and_only_where_the_images_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build_model().eval()
    first, second = two_batches()
    seen: list[torch.Tensor] = []
    decode = model.decode

    def spy(codes: torch.Tensor, *args: object) -> tuple:
        seen.append(codes)
        return decode(codes, *args)

    monkeypatch.setattr(model, 'decode', spy)
    interpolate(model, first, second, [i / 20 for i in range(21)])
    codes = torch.stack(seen)
    turns = (codes[1:] != codes[:-1]).sum(0)
    differs = model.encode(first)[1].codes != model.encode(second)[1].codes
    assert torch.equal(turns, differs.long())
    values = [len(c.unique()) for c in codes]
    assert values == [2] * 21 and differs.any() and not differs.all()


def test_in_the_precision_of_the_weights() -> None:
    model = build_model().eval().bfloat16()
    first, second = two_batches().bfloat16()
    made = interpolate(model, first, second, [0.3])
    assert made.dtype == torch.bfloat16 and made.isfinite().all()


@pytest.mark.parametrize(
    ('size', 'shares', 'text'),
    [
        (8, [0.5], r'second of shape \(2, 3, 8, 8\) does not go with first of shape'),
        (12, [0.5, 1.5], r'shares=\[0.5, 1.5\]; give one or more numbers in \[0, 1\]'),
        (12, [float('nan')], r'shares=\[nan\]; give one or more numbers'),
        (12, [], r'shares=\[\]; give one or more numbers in \[0, 1\]'),
    ],
)
def test_what_has_nothing_between(
    size: int, shares: Sequence[float], text: str
) -> None:
    first, second = two_batches()
    with pytest.raises(ValueError, match=text):
        interpolate(build_model().eval(), first, second[..., :size], shares)
