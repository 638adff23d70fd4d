"""Operations and parameters: by hand, by the paper's numbers, and by the tool."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from macs_by_hand import encoder_macs
from torch import nn
from torch.nn import functional as F

from mergevq_mm.models.backbones.architectures import ARCHITECTURES
from mergevq_mm.models.utils.merge_schedule import SCHEDULES, merge_schedule
from mergevq_mm.utils.config import load_config
from mergevq_mm.utils.flops import count_macs, model_costs, tokenizer_costs

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    path = REPO / 'tools' / 'analysis_tools' / 'get_flops.py'
    spec = importlib.util.spec_from_file_location('get_flops', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache
def costs(name: str, keep: int | None = None, **options: object) -> dict:
    model = load_config(REPO / 'configs' / f'{name}.py').model
    return {cost.part: cost for cost in model_costs(model, keep=keep, **options)}


class Known(nn.Module):
    """A layer of each kind, and a product of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
        self.linear = nn.Linear(8, 5)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).flatten(2).transpose(1, 2)  # 1×16×8, not contiguous
        x = self.attention(x[:, :6], x, x)[0]  # 1×6×8
        seen = F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])
        return self.linear(seen)


def test_layers_and_products_by_hand() -> None:
    with torch.device('meta'):
        module, image = Known().requires_grad_(False).eval(), torch.zeros(1, 4, 8, 8)
    layers, products = count_macs(module, lambda: module(image))
    conv = 16 * 8 * (4 // 2) * 9
    projections = (6 + 16 + 16 + 6) * 8 * 8
    linear = 6 * 8 * 5
    assert layers == conv + projections + linear
    assert products == 2 * (6 * 16 * 8) + 2 * (6 * 6 * 8)


@pytest.mark.parametrize(
    ('name', 'keep', 'size'),
    [('g', 256, None), ('g+r', 20, (128, 192)), ('r', 36, None)],
)
def test_encoder_agrees_with_the_formulas(
    name: str, keep: int, size: tuple | None
) -> None:
    """An independent count, for any size and K."""
    arch = ARCHITECTURES[{'r': 'r-base'}.get(name, f'{name}-d64')]
    stride = 8 if name == 'g' else 16
    rows, columns = size or (256, 256)
    plan = merge_schedule(rows // stride * (columns // stride), keep, 12)
    slow = encoder_macs(arch, (rows, columns), plan)
    options = {} if size is None else {'size': size}
    encoder = costs(f'mergevq_{name}', keep, **options)['encoder']
    assert encoder.macs == pytest.approx(sum(slow.values()), rel=5e-4)


def test_the_papers_numbers() -> None:
    """Table A1, which counts layers alone; see docs/weights.md for R."""
    g, both = costs('mergevq_g', 256), costs('mergevq_g+r', 144)
    for part, gigas in (
        (g['encoder'], 97.5),
        (both['encoder'], 46.4),
        (g['decoder'], 169.2),
        (both['decoder'], 65.6),
    ):
        assert part.layers == pytest.approx(gigas * 1e9, rel=0.02)
        assert part.layers < part.macs
    r = costs('mergevq_r', 64, schedule='square')
    assert r['encoder'].layers == pytest.approx(9.5e9, rel=0.02)
    assert r['decoder'].layers == both['decoder'].layers
    millions = {
        (name, part): cost.parameters / 1e6
        for name, parts in (('g', g), ('g+r', both))
        for part, cost in parts.items()
    }
    # The projection to codes, which the paper's encoders have, is the quantizer here.
    for name, encoder, head, decoder in (
        ('g', 62.33, 64.96, 82.85),
        ('g+r', 62.67, 69.49, 83.37),
    ):
        found = millions[name, 'encoder'] + millions[name, 'quantizer']
        assert found == pytest.approx(encoder, abs=0.005)
        assert found + millions[name, 'head'] == pytest.approx(head, abs=0.01)
        assert millions[name, 'decoder'] == pytest.approx(decoder, abs=0.005)


def test_generators() -> None:
    raster = costs('mergear_b_g+r')
    assert sum(c.parameters for c in raster.values()) == 106_275_072
    dim, layers, tokens = 768, 12, 1 + 1 + 255
    block = 4 * dim**2 + 3 * dim * 2048
    assert raster['generator'].layers == layers * block * tokens
    products = 2 * layers * tokens**2 * dim
    assert raster['generator'].products == pytest.approx(products, rel=1e-6)
    pairs = 2 * 256
    head = 2 * block * pairs + 256 * dim * (64 + 4096)
    assert raster['code head'].layers == head


def test_the_tool(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / 'a' / 'flops.json'
    tool.main(
        ['mergevq_g+r_d32', '--shape', '128', '--keep', '16', '0.5', '--json', str(out)]
    )
    text = capsys.readouterr().out
    assert 'encoder' in text and '51.95 M' in text
    rows = json.loads(out.read_text())
    assert [row['keep'] for row in rows[::5]] == [16, 0.5] and len(rows) == 10
    model = load_config(REPO / 'configs' / 'mergevq_g+r_d32.py').model
    direct = tokenizer_costs(model, (128, 128), 32)
    assert [row['macs'] for row in rows[5:]] == [cost.macs for cost in direct]


def test_an_added_schedule(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'even_schedule.py').write_text(
        'from mergevq_mm.models.utils.merge_schedule import SCHEDULES\n'
        "SCHEDULES['evenly'] = SCHEDULES['constant']\n"
    )
    config = tmp_path / 'mine.py'
    config.write_text(
        f"_base_ = ['{REPO}/configs/mergevq_r.py']\n"
        "custom_imports = dict(imports=['even_schedule'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        known, added = (
            tool.report(
                tool.parse_args([str(config), '--keep', '36', '--schedule', name])
            )
            for name in ('constant', 'evenly')
        )
    finally:
        del SCHEDULES['evenly']
        del sys.modules['even_schedule']
    assert added == known


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['mergevq_r', '--shape', '100'], '100x100 is not divisible by the stride 16'),
        (['mergevq_r', '--keep', '300'], r'keep=300 lies outside \[1, 256\]'),
        (['mergevq_r', '--schedule', 'cubic'], "schedule='cubic' is not known"),
        (['mergear_b_g', '--keep', '7'], 'keep=7 is not known to this generator'),
        (['mergear_b_g', '--shape', '128'], 'is of no use for a generator'),
        (['nothing'], 'model="nothing" is not known'),
        (['nowhere.py'], 'nowhere.py" does not exist'),
    ],
)
def test_bad_arguments(tool: ModuleType, arguments: list, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        tool.main(arguments)
