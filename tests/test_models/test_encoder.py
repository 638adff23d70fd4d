"""The encoder: golden numbers, sizes, merging, attention, bad inputs."""

from __future__ import annotations

import math

import golden
import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from mergevq_mm.models.backbones.mergevq_encoder import MergeVQEncoder
from mergevq_mm.models.heads.alignment_head import build_projector
from mergevq_mm.models.quantizers import LFQ
from mergevq_mm.models.utils.attention import Attention
from mergevq_mm.models.utils.group_map import recover_tokens
from mergevq_mm.models.utils.merge_schedule import resolve_keep

HYBRID = {
    'stem': 'hybrid',
    'base_channels': 8,
    'channel_mult': (1, 2),
    'num_res_blocks': 1,
    'num_layers': 3,
    'num_heads': 2,
}
PATCH = {
    'stem': 'patch',
    'embed_dims': 16,
    'patch_size': 4,
    'num_layers': 3,
    'num_heads': 4,
}


def build(arch: dict = PATCH, size: int = 16, **kwargs: object) -> MergeVQEncoder:
    """A small encoder in which every parameter is random and no branch hides."""
    encoder = MergeVQEncoder(arch, img_size=size, layer_scale=1.0, **kwargs).eval()
    for parameter in encoder.parameters():
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


# ------------------------------------------------------------------------- golden


@pytest.fixture(scope='module')
def known() -> tuple[dict[str, np.ndarray], MergeVQEncoder, LFQ, nn.Sequential]:
    numbers = golden.load('hybrid_tiny.npz')
    weights = golden.renamed_weights(numbers)
    encoder = MergeVQEncoder(golden.ARCH, img_size=32).eval()
    encoder.load_state_dict(golden.part(weights, 'backbone'))
    quantizer = LFQ(10, in_channels=64, split=(4, 6)).eval()
    quantizer.load_state_dict(golden.part(weights, 'quantizer'))
    head = nn.Sequential(
        nn.Linear(64, 256),
        nn.GELU(),
        nn.Linear(256, 256),
        nn.GELU(),
        nn.Linear(256, 48),
    )
    theirs = {k: torch.from_numpy(v) for k, v in numbers.items()}
    head.load_state_dict(golden.part(theirs, 'encoder.dist_head'))
    return numbers, encoder, quantizer, head


@pytest.mark.parametrize('keep', [64, 36, 25])
@torch.no_grad()
def test_golden_numbers(known: tuple, keep: int) -> None:
    numbers, encoder, quantizer, head = known
    theirs = {
        name: torch.from_numpy(numbers[f'K{keep}.{name}'])
        for name in ('r', 'cls_head', 'z', 'index', 'group')
    }
    x = torch.from_numpy(numbers['x'])
    merged = encoder.encode(x, keep)
    z = quantizer.projection(merged.tokens)
    index = quantizer(merged.tokens).index
    assert merged.grid == (8, 8)
    assert list(encoder.plan(merged.grid, keep)) == theirs['r'].tolist()
    torch.testing.assert_close(head(merged.cls), theirs['cls_head'], **golden.TOLERANCE)

    # Their tokens stand in another order, so all is compared at the positions.
    group = merged.group
    ours, other = group[:, :, None] == group[:, None], theirs['group']
    assert torch.equal(ours, other[:, :, None] == other[:, None])
    torch.testing.assert_close(
        recover_tokens(z, group),
        recover_tokens(theirs['z'], other),
        **golden.TOLERANCE,
    )
    assert torch.equal(index.gather(1, group), theirs['index'].gather(1, other))
    if keep == 64:  # K = L: the raster order
        assert torch.equal(group, torch.arange(64).expand(2, 64))
        assert torch.equal(group, other)


@pytest.mark.parametrize('keep', [36, 25])
@torch.no_grad()
def test_golden_numbers_with_hand_made_merging(known: tuple, keep: int) -> None:
    numbers, encoder, _, _ = known
    x = torch.from_numpy(numbers['x'])
    expected = encoder.encode(x, keep)
    found = encoder.encode(x, removed=numbers[f'K{keep}.r'].tolist())
    for a, b in zip(found[:4], expected[:4]):
        assert torch.equal(a, b)


# -------------------------------------------------------------------------- sizes

# Spec section 2: millions of parameters of the encoder without / with the [CLS] head.
SIZES = {
    'g-d32': ('38.22', '40.00', 2),
    'g-d64': ('62.33', '64.96', 2),
    'g+r-d32': ('38.55', '42.69', 3),
    'g+r-d64': ('62.67', '69.49', 3),
    'g+r-d96': ('140.91', '155.07', 3),
    'r-base': ('85.68', '99.84', 3),
}


@pytest.mark.parametrize('arch', SIZES)
def test_parameter_counts(arch: str) -> None:
    without, with_head, layers = SIZES[arch]
    with torch.device('meta'):
        encoder = MergeVQEncoder(arch, pos_embed=False)
        parts = [encoder, LFQ(in_channels=encoder.embed_dims)]
        count = sum(p.numel() for part in parts for p in part.parameters())
        head = build_projector(encoder.embed_dims, 768, layers)
    assert f'{count / 1e6:.2f}' == without
    count += sum(p.numel() for p in head.parameters())
    assert f'{count / 1e6:.2f}' == with_head


@pytest.mark.parametrize(
    ('arch', 'stride', 'width', 'has_pos'),
    [('g-d64', 8, 512, False), ('g+r-d64', 16, 512, False), ('r-base', 16, 768, True)],
)
def test_presets(arch: str, stride: int, width: int, has_pos: bool) -> None:
    with torch.device('meta'):
        encoder = MergeVQEncoder(arch)
    assert (encoder.stride, encoder.embed_dims, encoder.num_layers) == (
        stride,
        width,
        12,
    )
    assert (encoder.pos_embed is not None) == has_pos
    assert encoder.grid == (256 // stride, 256 // stride)
    assert set(MergeVQEncoder.arch_zoo) == set(SIZES)


# ---------------------------------------------------------------------- tokenizer


@pytest.mark.parametrize('arch', [HYBRID, PATCH])
@pytest.mark.parametrize(
    ('shape', 'keep'), [((16, 16), 9), ((8, 24), 0.5), ((4, 4), 1)]
)
@torch.no_grad()
def test_any_size_and_any_number(arch: dict, shape: tuple, keep: int | float) -> None:
    encoder = build(arch, pos_embed=True)
    if shape == (4, 4) and arch is HYBRID:
        keep = 4
    merged = encoder.encode(torch.randn(2, 3, *shape), keep)
    rows, columns = (side // encoder.stride for side in shape)
    length = rows * columns
    number = resolve_keep(keep, length)
    assert merged.grid == (rows, columns)
    assert merged.tokens.shape == (2, number, encoder.embed_dims)
    assert merged.cls.shape == (2, encoder.embed_dims)
    assert merged.group.shape == (2, length) and merged.group.dtype == torch.int64
    assert (merged.size.sum(dim=1) == length).all()
    for b in range(2):
        groups = merged.group[b].tolist()
        assert merged.size[b].tolist() == [groups.count(k) for k in range(number)]
        assert list(dict.fromkeys(groups)) == list(range(number))  # first occurrence


@torch.no_grad()
def test_an_image_is_encoded_alike_in_any_batch() -> None:
    encoder = build(HYBRID)
    x = torch.randn(3, 3, 16, 16)
    together = encoder.encode(x, 20)
    for i in range(3):
        alone = encoder.encode(x[i : i + 1], 20)
        assert torch.equal(alone.group[0], together.group[i])
        torch.testing.assert_close(alone.tokens[0], together.tokens[i])
        torch.testing.assert_close(alone.cls[0], together.cls[i])


@torch.no_grad()
def test_patch_encoder_without_positions_is_permutation_equivariant() -> None:
    """In float64: some CPUs and settings multiply float32 with fewer bits."""
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    order = torch.randperm(16)
    patches = F.unfold(x, 4, stride=4)[:, :, order]
    shuffled = F.fold(patches, (16, 16), 4, stride=4)
    found = {}
    for positions in (False, True):
        encoder = build(PATCH, pos_embed=positions).double()
        a, b = encoder.encode(x), encoder.encode(shuffled)
        found[positions] = [
            (b.tokens - a.tokens[:, order]).abs().max().item(),
            (b.cls - a.cls).abs().max().item(),
        ]
    assert max(found[False]) < 1e-12
    assert min(found[True]) > 1e-4


def test_gradient_reaches_every_parameter() -> None:
    encoder = build(HYBRID, pos_embed=True).train()
    merged = encoder(torch.randn(2, 3, 16, 16), 20, mode='encode')
    merged.tokens.square().sum().backward()  # even without a loss on the class token
    without = {n for n, p in encoder.named_parameters() if p.grad is None}
    assert not without
    assert all(p.grad.abs().sum() > 0 for n, p in encoder.named_parameters())


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('arch', [HYBRID, PATCH])
@torch.no_grad()
def test_compiles_into_one_graph(
    arch: dict, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untraceable(device: str) -> bool:
        raise AssertionError('some versions of torch cannot trace this')

    monkeypatch.setattr(torch.amp, 'is_autocast_available', untraceable)
    encoder = build({**arch, 'num_layers': 1})
    x = torch.randn(2, 3, 16, 16)
    torch._dynamo.reset()
    compiled = torch.compile(encoder.encode, fullgraph=True, backend='eager')
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        found, expected = compiled(x, 0.625), encoder.encode(x, 0.625)
    for a, b in zip(found[:4], expected[:4], strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_shapes_depend_on_no_data() -> None:
    # Fake tensors hold no numbers: reading one back (`item`, `nonzero`) would fail.
    encoder = build(HYBRID)
    with FakeTensorMode(allow_non_fake_inputs=True):
        merged = encoder.encode(torch.randn(2, 3, 16, 16), 9)
    assert merged.tokens.shape == (2, 9, 16) and merged.group.shape == (2, 64)


@pytest.mark.parametrize('whole', [False, True])
def test_bfloat16(whole: bool) -> None:
    encoder, x = build(PATCH), torch.randn(2, 3, 16, 16)
    if whole:
        merged = encoder.bfloat16().encode(x.bfloat16(), 5)
    else:
        with torch.autocast('cpu', dtype=torch.bfloat16):
            merged = encoder.encode(x, 5)
    assert merged.tokens.isfinite().all()
    assert (merged.size.sum(dim=1) == 16).all()


@pytest.mark.parametrize('arch', [HYBRID, PATCH])
@torch.no_grad()
def test_memory_format_changes_nothing(arch: dict) -> None:
    encoder, x = build(arch), torch.randn(2, 3, 16, 16)
    expected = encoder.encode(x, 12)
    encoder.to(memory_format=torch.channels_last)
    found = encoder.encode(x.to(memory_format=torch.channels_last), 12)
    for a, b in zip(found[:4], expected[:4]):
        torch.testing.assert_close(a, b)


# ---------------------------------------------------------------------- attention


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_proportional_attention_is_softmax_with_log_size(dtype: torch.dtype) -> None:
    attention = Attention(12, 3).to(dtype)
    x = torch.randn(2, 7, 12, dtype=dtype)
    size = torch.randint(1, 9, (2, 7)).to(dtype)
    found, keys = attention(x, size)
    weight, bias = attention.qkv.weight, attention.qkv.bias
    outs = torch.zeros(2, 7, 12, dtype=dtype)
    for head in range(3):
        rows = [slice(12 * i + 4 * head, 12 * i + 4 * head + 4) for i in range(3)]
        q, k, v = (x @ weight[row].T + bias[row] for row in rows)
        scores = q @ k.transpose(1, 2) / 2 + size.log()[:, None]  # sqrt(4) = 2
        outs[..., 4 * head : 4 * head + 4] = scores.softmax(dim=-1) @ v
        torch.testing.assert_close(keys[:, head], k)
    expected = outs @ attention.proj.weight.T + attention.proj.bias
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(attention(x)[0], attention(x, torch.ones_like(size))[0])


def test_a_token_of_size_s_counts_as_s_tokens() -> None:
    attention = Attention(8, 2).double()
    x, size = torch.randn(1, 4, 8).double(), torch.tensor([[1.0, 3.0, 2.0, 5.0]])
    repeated = x.repeat_interleave(size[0].long(), dim=1)
    first = torch.tensor([0, 1, 4, 6])
    torch.testing.assert_close(attention(x, size)[0], attention(repeated)[0][:, first])


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match='num_heads=3 does not divide the width 16'):
        MergeVQEncoder({**PATCH, 'num_heads': 3}, img_size=16)


@pytest.mark.parametrize('arch', [HYBRID, PATCH])
def test_sine_positions_by_hand(arch: dict) -> None:
    size = (8, 24)
    encoder = MergeVQEncoder(arch, img_size=size, pos_embed='sincos')
    rows, columns = encoder.grid
    dims = encoder.embed_dims
    assert rows != columns and encoder.pos_embed.requires_grad
    for row in range(rows):
        for column in range(columns):
            expected = [
                wave(place / 10000 ** (4 * i / dims))
                for place in (row, column)
                for wave in (math.sin, math.cos)
                for i in range(dims // 4)
            ]
            found = encoder.pos_embed[0, row * columns + column]
            torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize('arch', [HYBRID, PATCH])
def test_init_cfg_reaches_the_blocks_alone(arch: dict) -> None:
    xavier = dict(type='Xavier', layer='Linear', distribution='uniform')
    encoder = MergeVQEncoder(arch, img_size=16, init_cfg=xavier)
    stem = {k: v.clone() for k, v in encoder.stem.state_dict().items()}
    encoder.init_weights()
    assert all(torch.equal(v, stem[k]) for k, v in encoder.stem.state_dict().items())
    weights = [m.weight for m in encoder.layers.modules() if isinstance(m, nn.Linear)]
    assert len(weights) == 4 * 3
    for weight in weights:
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.9 * bound < weight.abs().max() <= bound


@pytest.mark.parametrize(('groups', 'hidden'), [(None, True), (4, False)])
def test_one_group_a_channel_hides_brightness(groups: int | None, hidden: bool) -> None:
    arch = PATCH if groups is None else {**PATCH, 'norm_groups': groups}
    encoder, x = build(arch), torch.rand(2, 3, 16, 16)
    shift = torch.tensor([0.3, -0.2, 0.1]).reshape(1, 3, 1, 1)
    dark, bright = encoder.encode(x).tokens, encoder.encode(x + shift).tokens
    assert torch.allclose(dark, bright, atol=1e-4) == hidden


# --------------------------------------------------------------------- bad inputs


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'arch': 'g-d128'}, "arch='g-d128' .* g-d32, g-d64"),
        ({'arch': {**PATCH, 'stem': 'swin'}}, "stem='swin' .* hybrid, patch"),
        ({'arch': {'num_layers': 2}}, 'stem=None'),
        ({'arch': {**PATCH, 'depth': 2}}, r"unknown \['depth'\]"),
        ({'arch': {**PATCH, 'num_res_blocks': 1}}, r"unknown \['num_res_blocks'\]"),
        ({'arch': {k: v for k, v in PATCH.items() if k != 'num_heads'}}, 'num_heads'),
        ({'pos_embed': 'cosine'}, "pos_embed='cosine' .* True, False, sincos"),
        (
            {'pos_embed': 'sincos', 'arch': {**PATCH, 'embed_dims': 6, 'num_heads': 2}},
            "pos_embed='sincos' needs a width that 4 divides, not 6",
        ),
        ({'out_type': 'map'}, "out_type='map' .* cls_token, featmap"),
        ({'schedule': 'cosine'}, "schedule='cosine'"),
        ({'out_indices': 3}, r'out_indices=\[3\] names block 3'),
        ({'out_indices': (0, -4)}, 'names block -4'),
        ({'out_stages': (1,)}, r'out_stages=\[1\] names stage 1'),
        ({'frozen_stages': 4}, r'frozen_stages=4 lies outside \[-1, 3\]'),
        ({'img_size': 18}, '18x18 is not divisible by the stride 4'),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MergeVQEncoder(**{'arch': PATCH, 'img_size': 16, **arguments})


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        ({'keep': 0}, r'keep=0 lies outside \[1, 16\]'),
        ({'keep': 17}, r'keep=17 lies outside \[1, 16\]'),
        ({'keep': -3}, 'keep=-3 lies outside'),
        ({'keep': 1}, 'keep=1 cannot be reached from 16 tokens'),
        ({'keep': 0.05}, 'keep=1 cannot be reached'),
        ({'keep': 1.5}, r'keep=1.5 is a share outside \(0, 1\]'),
        ({'keep': 0.0}, 'keep=0.0 is a share outside'),
        ({'removed': [9, 0, 0]}, r'r=9 in layer 0 lies outside \[0, 8\]'),
        ({'removed': [1, -1, 0]}, 'r=-1 in layer 1'),
        ({'removed': [1, 1]}, 'removed=.* has 2 numbers; give one for each of the 3'),
    ],
)
def test_bad_numbers_of_tokens(call: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(PATCH).encode(torch.randn(1, 3, 16, 16), **call)


@pytest.mark.parametrize('shape', [(17, 16), (16, 18), (2, 16), (0, 16)])
def test_bad_image_sizes(shape: tuple[int, int]) -> None:
    name = f'{shape[0]}x{shape[1]} is not divisible by the stride 4'
    with pytest.raises(ValueError, match=name):
        build(PATCH)(torch.randn(1, 3, *shape))


def test_bad_mode() -> None:
    with pytest.raises(ValueError, match=r"mode='loss' .* features, encode\."):
        build(PATCH)(torch.randn(1, 3, 16, 16), mode='loss')


@pytest.mark.parametrize(
    ('keep', 'number'), [(None, 10), (3, 3), (0.5, 5), (1.0, 10), (0.01, 1), (0.99, 10)]
)
def test_resolve_keep(keep: int | float | None, number: int) -> None:
    assert resolve_keep(keep, 10) == number


@pytest.mark.parametrize('keep', [True, False, 0.0, -0.5, 1.5, float('nan')])
def test_resolve_keep_refuses(keep: float) -> None:
    with pytest.raises(ValueError, match=f'keep={keep} is '):
        resolve_keep(keep, 10)
