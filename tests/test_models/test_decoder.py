"""The decoder: golden reconstruction, sizes, parts by their formulas, bad shapes."""

from __future__ import annotations

import golden
import pytest
import torch
from torch.nn import functional as F

from mergevq_mm.models.decoders import MergeVQDecoder
from mergevq_mm.models.quantizers import LFQ
from mergevq_mm.models.utils.attention import MixMlp
from mergevq_mm.models.utils.convolution import AdaptiveGroupNorm, Upsample
from mergevq_mm.models.utils.group_map import recover_tokens


def build(**kwargs: object) -> MergeVQDecoder:
    arguments = {
        'bits': 6,
        'base_channels': 8,
        'channel_mult': (1, 2),
        'num_res_blocks': 1,
        'num_layers': 2,
        'num_heads': 2,
        'layer_scale': 1.0,
        **kwargs,
    }
    return MergeVQDecoder(**arguments).eval()


@pytest.mark.parametrize('keep', [64, 36, 25])
@torch.no_grad()
def test_golden_reconstruction(keep: int) -> None:
    numbers = golden.load('hybrid_tiny.npz')
    arch = golden.ARCH
    decoder = MergeVQDecoder(
        bits=10,
        base_channels=arch['base_channels'],
        channel_mult=arch['channel_mult'],
        num_res_blocks=arch['num_res_blocks'],
        num_layers=arch['num_layers'],
        num_heads=arch['num_heads'],
    ).eval()
    decoder.load_state_dict(golden.part(golden.renamed_weights(numbers), 'decoder'))
    index = torch.from_numpy(numbers[f'K{keep}.index'])
    group = torch.from_numpy(numbers[f'K{keep}.group'])
    codes = LFQ(10, split=(4, 6)).index_to_codes(index)
    image = decoder(recover_tokens(codes, group), (8, 8))
    theirs = torch.from_numpy(numbers[f'K{keep}.recon'])
    torch.testing.assert_close(image, theirs, **golden.TOLERANCE)


# Spec section 2: base channels, multipliers, heads, millions of parameters.
SIZES = [
    (32, (2, 4, 8, 12), 8, '51.43'),
    (64, (1, 2, 4, 8), 8, '82.85'),
    (32, (2, 2, 4, 8, 12), 8, '51.95'),
    (64, (1, 1, 2, 4, 8), 8, '83.37'),
    (96, (1, 1, 2, 4, 8), 12, '187.19'),
]


@pytest.mark.parametrize(('base', 'mult', 'heads', 'millions'), SIZES)
def test_parameter_counts(base: int, mult: tuple, heads: int, millions: str) -> None:
    with torch.device('meta'):
        decoder = MergeVQDecoder(base_channels=base, channel_mult=mult, num_heads=heads)
    count = sum(p.numel() for p in decoder.parameters())
    assert f'{count / 1e6:.2f}' == millions
    assert decoder.stride == 2 ** (len(mult) - 1)


@pytest.mark.parametrize('grid', [(4, 4), (3, 5), (1, 7), (1, 1)])
def test_any_grid(grid: tuple[int, int]) -> None:
    decoder = build().train()
    length = grid[0] * grid[1]
    codes = (torch.randint(2, (2, length, 6)) * 2.0 - 1).requires_grad_()
    image = decoder(codes, grid)
    assert image.shape == (2, 3, 2 * grid[0], 2 * grid[1])
    image.square().sum().backward()
    assert image.isfinite().all() and codes.grad.isfinite().all()
    assert all(p.grad is not None for p in decoder.parameters())


@torch.no_grad()
def test_the_grid_gives_the_positions() -> None:
    decoder = build()
    codes = torch.randint(2, (1, 8, 6)) * 2.0 - 1
    wide, tall = decoder(codes, (2, 4)), decoder(codes, (4, 2))
    assert wide.shape == (1, 3, 4, 8) and tall.shape == (1, 3, 8, 4)
    turned = codes.view(1, 2, 4, 6).transpose(1, 2).reshape(1, 8, 6)
    assert not torch.allclose(decoder(turned, (4, 2)), tall)


@pytest.mark.parametrize(
    ('shape', 'grid'),
    [
        ((2, 16, 6), (4, 5)),
        ((2, 16, 5), (4, 4)),
        ((16, 6), (4, 4)),
        ((2, 4, 4, 6), (4, 4)),
        ((2, 9, 6), (4, 4)),  # K tokens that nobody recovered
    ],
)
def test_wrong_shapes_are_refused(shape: tuple, grid: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match='codes of shape .* do not fit a grid of 4x'):
        build()(torch.ones(shape), grid)


@torch.no_grad()
def test_depth_to_space_takes_rows_columns_channels() -> None:
    upsample = Upsample(3)
    x = torch.randn(2, 3, 4, 5)
    wide = upsample.conv(x)
    found = upsample(x)
    assert found.shape == (2, 3, 8, 10)
    for row in range(2):
        for column in range(2):
            first = 3 * (2 * row + column)
            expected = wide[:, first : first + 3]
            assert torch.equal(found[:, :, row::2, column::2], expected)


@pytest.mark.parametrize('length', [12, 1])
@torch.no_grad()
def test_adaptive_norm_follows_its_formula(length: int) -> None:
    norm = AdaptiveGroupNorm(64, 6)
    x, codes = torch.randn(2, 64, 3, 4), torch.randn(2, length, 6)
    found = norm(x, codes)
    for b in range(2):
        groups = x[b].view(32, -1)
        mean, var = groups.mean(1, keepdim=True), groups.var(1, False, keepdim=True)
        normed = ((groups - mean) / (var + 1e-6).sqrt()).view(64, 3, 4)
        shift = codes[b].mean(dim=0)
        spread = (codes[b] - shift).square().sum(dim=0) / max(length - 1, 1)
        scale = norm.gamma((spread + 1e-6).sqrt())
        expected = normed * scale[:, None, None] + norm.beta(shift)[:, None, None]
        torch.testing.assert_close(found[b], expected, rtol=1e-4, atol=1e-5)
    assert not list(norm.norm.parameters())  # not affine


@torch.no_grad()
def test_mix_mlp_convolves_on_the_grid() -> None:
    mlp = MixMlp(4, 8)
    x = torch.randn(2, 6, 4)
    hidden = mlp.fc1(x)
    slow = mlp.dwconv.bias.expand(2, 6, 8).clone()
    for position in range(6):
        row, column = divmod(position, 3)
        for i in range(-1, 2):
            for j in range(-1, 2):
                if 0 <= row + i < 2 and 0 <= column + j < 3:
                    weight = mlp.dwconv.weight[:, 0, i + 1, j + 1]
                    slow[:, position] += weight * hidden[:, 3 * (row + i) + column + j]
    torch.testing.assert_close(mlp(x, (2, 3)), mlp.fc2(F.gelu(slow)))


@torch.no_grad()
def test_bfloat16_autocast() -> None:
    decoder = build()
    codes = torch.randint(2, (2, 16, 6)) * 2.0 - 1
    exact = decoder(codes, (4, 4))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        image = decoder(codes, (4, 4))
    assert image.isfinite().all()
    assert (image.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


@torch.no_grad()
def test_memory_format_changes_nothing() -> None:
    decoder, codes = build(), torch.randint(2, (2, 15, 6)) * 2.0 - 1
    expected = decoder(codes, (3, 5))
    found = decoder.to(memory_format=torch.channels_last)(codes, (3, 5))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
