"""Exported graphs: equal to the model, small, and one sentence where they cannot be."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_mergevq as tiny
import torch
from doc_commands import REPO, blocks
from mmengine.config import Config
from PIL import Image
from torch import Tensor, nn

from mergevq_mm.apis.onnx_export import OnnxTokenizer, check, export_onnx
from mergevq_mm.apis.onnx_export.convert import write_onnx
from mergevq_mm.apis.onnx_export.export import generator_graphs
from mergevq_mm.apis.onnx_export.graphs import Graph
from mergevq_mm.apis.onnx_export.weights import (
    PRECISIONS,
    int8_of,
    with_stored_weights,
)
from mergevq_mm.base import tier
from mergevq_mm.cli import graph_arguments, main
from mergevq_mm.models import MergeAR, MergeVQ, RandAR
from mergevq_mm.models.generators.sampling import uniform_noise
from mergevq_mm.models.utils.pixel_range import to_grey_values

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, head_layers=1, ffn_multiple=32)


@pytest.fixture(scope='module')
def model() -> MergeVQ:
    torch.manual_seed(0)
    return tiny.build_model().eval()


@pytest.fixture(scope='module')
def folder(model: MergeVQ, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the command, with the model's own K and all; its lines in lines.txt."""
    root = tmp_path_factory.mktemp('onnx')
    Config(dict(model=tiny.model_cfg())).dump(root / 't.py')
    torch.save({'state_dict': model.state_dict()}, root / 't.pth')
    words = [str(root / 't.py'), '--weights', str(root / 't.pth')]
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr('builtins.print', said.append)
        main(['export-onnx', *words, '--out', str(root / 'graphs')])
    (root / 'lines.txt').write_text('\n'.join(said))
    return root / 'graphs'


def generator(kind: type = MergeAR, **cfg: object) -> nn.Module:
    tokenizer = dict(
        type='mergevq_mm.FrozenTokenizer', model=tiny.model_cfg(), random_init=True
    )
    more = dict(arch=ARCH, num_classes=5, keep=dict(target=9, candidates=[6, 9]))
    model = kind(tokenizer=tokenizer, **more, **cfg).eval()
    rng = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=rng)
    return model


# ----------------------------------------------------------------------- equal to torch


@pytest.mark.slow  # it makes the folder
def test_the_command_compares_and_says_so(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        'decoder.onnx',
        'encoder_all.onnx',
        'encoder_k9.onnx',
    ]
    first, second, third = (folder.parent / 'lines.txt').read_text().splitlines()
    size = (folder / 'encoder_k9.onnx').stat().st_size
    start = f'{folder}/encoder_k9.onnx: {size:,} bytes; onnxruntime equals torch at '
    assert first.startswith(start + 'batches of 1, 2, 5: numbers to ')
    assert first.endswith(', 100 % of 128 codes')  # 8 images of 16 positions
    assert 'encoder_all' in second and third.split(':')[0].endswith('decoder.onnx')


@pytest.mark.slow
@pytest.mark.parametrize('batch', [1, 3])
@torch.no_grad()
def test_a_tokenizer(batch: int, folder: Path, model: MergeVQ) -> None:
    tokenizer = OnnxTokenizer(folder)
    rng = np.random.default_rng(batch)
    pixels = rng.integers(0, 256, (batch, 8, 8, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    for keep in (9, 16):
        index, group = tokenizer.encode(pixels, keep)
        merged, quantized = model.encode(images, keep)
        assert np.array_equal(index, quantized.index)
        assert np.array_equal(group, merged.group)
        expected = to_grey_values(model.decode(merged, quantized)[0])
        found = torch.from_numpy(tokenizer.decode(index, group)).permute(0, 3, 1, 2)
        assert (found - expected).abs().max() <= 1  # rounded
    facts = tokenizer.facts(tokenizer.encoders[9])
    assert (facts['keep'], facts['image_size'], facts['grid']) == (9, [8, 8], [4, 4])
    assert (facts['bits'], facts['mean'], facts['std']) == (tiny.BITS, 127.5, 127.5)


@pytest.mark.parametrize(
    'guided', [pytest.param(True, marks=pytest.mark.slow), False], ids=['onnx', 'torch']
)
@torch.no_grad()
def test_a_generator_draws_the_same(guided: bool, tmp_path: Path) -> None:
    """As by its own loop; in onnxruntime, too, where there is all that can be."""
    options = dict(window=None, class_dropout=0.0, merge_token=False)
    if guided:
        options = dict(window=2, sample_cfg=dict(guidance=2.0, temperature=0.7))
    model = generator(**options)
    rule = dict(top_k=(0, 7), guidance_schedule='linear')
    graphs = generator_graphs(model, [9], rule)
    assert [graph.name for graph in graphs] == ['start_k9', 'step_k9', 'decoder']
    labels, seeds = torch.tensor([1, 4, 0]), [3, 4, 5]
    noise = uniform_noise(seeds, (tiny.LENGTH, 2), 'cpu').float()
    code, memory, seen = graphs[0].module(labels, noise[:, 0])
    drawn = [code]
    for place in range(1, tiny.LENGTH):
        code, memory, seen = graphs[1].module(code, noise[:, place], memory, seen)
        drawn.append(code)
    cfg = {**model.sample_cfg, **rule, 'cache': 'full'}
    expected = model.sample_codes(labels, 9, seeds, **cfg).index
    assert torch.equal(torch.stack(drawn, 1), expected)
    assert len(set(expected.flatten().tolist())) > 10
    assert seen.shape == (3, model.prefix + tiny.LENGTH - 1)
    for graph in graphs[: 2 * guided]:
        path = tmp_path / f'{graph.name}.onnx'
        write_onnx(graph, path)
        agreement = check.compare(graph, path)
        assert agreement.floats < 1e-5 and agreement.equal == agreement.codes == 8


# -------------------------------------------------------------------------- the weights


def test_int8_is_the_nearest_step_of_each_row() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    weight[2] = 0
    stored, scale = int8_of(weight)
    assert stored.dtype == np.int8 and stored.shape == weight.shape
    for row, steps, step in zip(weight, stored, scale, strict=True):
        most = np.abs(row).max()
        if most:
            assert step == pytest.approx(most / 127)
            assert np.abs(steps).max() == 127
        assert np.abs(row - steps * step).max() <= step / 2 * 1.0001


@pytest.mark.parametrize(
    ('precision', 'dtype'), [('fp16', torch.float16), ('bf16', torch.bfloat16)]
)
def test_halves(precision: str, dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 2)).eval()
    stored = with_stored_weights(module, precision)
    assert torch.equal(stored[0].weight, module[0].weight.to(dtype).float())
    assert torch.equal(stored[1].weight, module[1].weight)  # small
    assert torch.equal(stored[0].bias, module[0].bias)
    assert {p.dtype for p in stored[0].parameters()} == {dtype, torch.float32}
    assert module[0].weight.requires_grad  # the model itself is as it was


def test_a_graph_of_small_weights(tmp_path: Path) -> None:
    kinds = {'int8': nn.Conv2d(3, 64, 3), 'fp16': nn.Linear(64, 90)}
    kinds['bf16'] = nn.Linear(90, 40)
    conv, *lines = [with_stored_weights(part, kind) for kind, part in kinds.items()]
    graph = Graph(
        'all',
        nn.Sequential(conv, nn.Flatten(), *lines).eval(),
        lambda batch: {'input': torch.randn(batch, 3, 3, 3)},
        ('y',),
        {'input': {0: 'batch'}},
        {'keep': 4},
    )
    write_onnx(graph, tmp_path / 'all.onnx')
    assert check.compare(graph, tmp_path / 'all.onnx').floats < 1e-6
    stored = onnx.load(tmp_path / 'all.onnx')
    kinds = {3: 'int8', 10: 'fp16', 16: 'bf16'}  # of onnx
    sizes = {
        kinds.get(t.data_type): math.prod(t.dims) for t in stored.graph.initializer
    }
    assert sizes['int8'] == 27 * 64 and sizes['fp16'] == 64 * 90
    assert sizes['bf16'] == 90 * 40
    assert str(tmp_path) not in str(stored) and 'site-packages' not in str(stored)
    written = check.open_session(tmp_path / 'all.onnx').get_modelmeta()
    assert json.loads(written.custom_metadata_map['keep']) == 4


def test_a_weight_that_float16_does_not_hold() -> None:
    module = nn.Linear(40, 30)
    module.weight.data[0, 0] = 1e5
    with pytest.raises(
        ValueError, match="'fp16', but 0?.*weight has numbers up to 1000"
    ):
        with_stored_weights(nn.Sequential(module), 'fp16')
    assert graph_arguments.PRECISIONS == PRECISIONS


# ---------------------------------------------------------------------------- bad input


class Cummax(nn.Module):
    """What ONNX cannot."""

    def forward(self, x: Tensor) -> Tensor:
        """B×n to B×n."""
        return x.cummax(dim=1).values


def test_an_operator_that_onnx_lacks(tmp_path: Path) -> None:
    graph = Graph(
        'maps',
        Cummax(),
        lambda batch: {'x': torch.rand(batch, 4)},
        ('y',),
        {'x': {0: 'batch'}},
    )
    with pytest.raises(ValueError) as caught:
        write_onnx(graph, tmp_path / 'maps.onnx')
    assert str(caught.value) == (
        'maps needs the operator aten.cummax, which ONNX lacks; nothing was written: '
        'leave out the part of the model that uses it.'
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (dict(keep=[1]), 'keep=1 cannot be reached from 16 tokens'),
        (dict(keep=[17]), r'keep=17 lies outside \[1, 16\]'),
        (dict(image_size=(9, 8)), 'image size 9x8 is not divisible by the stride 2'),
        (dict(guidance=2.0), 'guidance: a tokenizer draws nothing'),
        (dict(precision='fp8'), "precision='fp8' is not known; choose one of fp32"),
    ],
)
def test_arguments(arguments: dict, said: str, model: MergeVQ, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        export_onnx(model, tmp_path / 'new', **arguments)
    assert not (tmp_path / 'new').exists()


def test_models_that_have_no_graph(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='Linear has no encoder, decoder or step of'):
        export_onnx(nn.Linear(2, 2), tmp_path)
    with pytest.raises(ValueError, match='RandAR draws several codes a step'):
        export_onnx(generator(RandAR), tmp_path)
    distinct = generator(sequence='distinct')
    with pytest.raises(ValueError, match='aten.cummax, and ONNX lacks it; export a'):
        export_onnx(distinct, tmp_path)
    raster = generator(class_dropout=0.0)
    for arguments, said in (
        (dict(keep=[6, 9]), 'is not one K, and each needs graphs of its own'),
        (dict(keep=[5]), r'keep=5 is not known to this generator; choose .*\[6, 9\]'),
        (dict(image_size=(8, 8)), 'has no meaning for a generator'),
        (dict(guidance=2.0), 'guidance=2.0 needs a null class'),
        (dict(temperature=-1.0), 'temperature=-1.0 is out of range'),
    ):
        with pytest.raises(ValueError, match=said):
            export_onnx(raster, tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_a_failing_comparison_leaves_nothing(
    model: MergeVQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, wrong = 'mergevq_mm.apis.onnx_export.export', check.Agreement(0.02, 126, 128)
    monkeypatch.setattr(f'{room}.compare', lambda *given: wrong)
    monkeypatch.setattr(f'{room}.write_onnx', lambda graph, path: path.touch())
    (tmp_path / 'config.json').write_text('{}')  # of the model that lies there
    with pytest.raises(ValueError) as caught:
        export_onnx(model, tmp_path, keep=[9])
    assert str(caught.value).startswith(
        'encoder_k9: onnxruntime agrees with torch in numbers to 2.0e-02, 98.44 % of '
        '128 codes, but it must be to 0.0001 and 99.9 %; nothing was written'
    )
    assert [path.name for path in tmp_path.iterdir()] == ['config.json']


class Signs(nn.Module):
    """Codes that are signs of pixels, and the pixels."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """B×n to B×n twice."""
        return (image > 0).long(), image


@pytest.mark.parametrize('merges', [True, False])
def test_what_hangs_on_rounding_is_left_out(
    merges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In torch, too: the pixels 0 of the second image, not the 1 of the first."""
    images = torch.tensor([[1.0, 1], [0, 0], [1, -1]])
    found = [np.array([[1, 1], [1, 0], [1, 0]]), images.numpy() + [[0], [9], [0]]]

    class Session:
        def run(self, names: None, fed: dict) -> list[np.ndarray]:
            return [found[0], found[1].astype(np.float32)]

    monkeypatch.setattr(check, 'open_session', lambda path, threads: Session())
    graph = Graph(
        'signs',
        Signs(),
        lambda batch: {'image': images},
        ('index', 'image'),
        {},
        codes=lambda made: made[0],
        merges=merges,
    )
    agreement = check.compare(graph, Path('signs.onnx'), [3])
    if not merges:
        assert agreement == (9.0, 5, 6, 3, 0) and not agreement.good
        return
    assert agreement == (0.0, 4, 4, 2, 1) and agreement.good
    assert str(agreement).endswith('(1 images left out, which hang on rounding)')
    found[0][0, 0] = 0  # of a pixel that is far from 0
    assert check.compare(graph, Path('signs.onnx'), [3]) == (0.0, 3, 4, 2, 1)


def test_agreement() -> None:
    assert check.Agreement(0, 8, 8, samples=1, left_out=3).good
    assert not check.Agreement(0, 8, 8, samples=1, left_out=4).good
    assert check.Agreement(1e-4, 999, 1000).good
    assert not check.Agreement(1.1e-4, 1000, 1000).good
    assert not check.Agreement(0, 998, 1000).good
    nan = torch.tensor([1.0, torch.nan])
    assert check.difference(torch.ones(2), nan) == float('inf')
    assert check.difference(torch.tensor([9.0, 10]), torch.tensor([9.0, 11])) == (
        pytest.approx(0.1)
    )


def _fails(*words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(['export-onnx', *words])
    return str(caught.value)


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tier, 'exists', lambda name: name != 'onnxscript')
    assert _fails('nowhere') == (
        'error: Exporting to ONNX needs onnxscript, which is not installed: pip '
        'install "mergevq_mm[export]".'
    )


@pytest.mark.slow
def test_a_folder_that_cannot_be(folder: Path, tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('mine')
    words = [str(folder.parent / 't.py'), '--weights', str(folder.parent / 't.pth')]
    said = _fails(*words, '--out', str(tmp_path / 'file' / 'under'))
    assert f'Saving to "{tmp_path}/file/under" failed (Not a directory)' in said
    assert (tmp_path / 'file').read_text() == 'mine'


def test_a_folder_of_what_only_training_needs(tmp_path: Path) -> None:
    model = {'type': 'mergevq_mm.LFQ', 'bits': 6, 'split': [2, 4]}
    from mergevq_mm.registry import MODELS
    from mergevq_mm.utils.export import write_folder

    write_folder(tmp_path / 'part', model, MODELS.build(dict(model)).state_dict())
    said = _fails(str(tmp_path / 'part'), '--out', str(tmp_path / 'out'))
    assert said.startswith('error: LFQ has no encoder, decoder or step of decoding to ')
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_what_the_graphs_do_not_have(folder: Path, tmp_path: Path) -> None:
    tokenizer = OnnxTokenizer(folder)
    images = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError) as caught:
        tokenizer.encode(images, 7)
    assert str(caught.value) == (
        f'keep=7 is not among the K of the graphs in "{folder}", 9, 16; choose one of '
        'these, or export it: mergevq export-onnx MODEL --keep 7.'
    )
    with pytest.raises(ValueError, match='takes B×8×8×3 uint8; resize them, or'):
        tokenizer.encode(images[:, 1:], 9)
    with pytest.raises(FileNotFoundError, match='has no graph of a tokenizer'):
        OnnxTokenizer(tmp_path)


@pytest.mark.slow
def test_graphs_of_two_models(folder: Path, tmp_path: Path) -> None:
    graph = onnx.load(folder / 'decoder.onnx')
    facts = {fact.key: fact for fact in graph.metadata_props}
    facts['tokenizer'].value = json.dumps('b' * 64)
    onnx.save(graph, tmp_path / 'decoder.onnx')
    (tmp_path / 'encoder_k9.onnx').symlink_to(folder / 'encoder_k9.onnx')
    tokenizer = OnnxTokenizer(tmp_path)
    index, group = tokenizer.encode(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match='is of another tokenizer than the graphs'):
        tokenizer.decode(index, group)


# ----------------------------------------------------------------------------- the page


@pytest.fixture
def example(folder: Path, tmp_path: Path) -> Iterator[str]:
    """The example of docs/export.md, where its folder and its picture are."""
    (body,) = blocks(REPO / 'docs' / 'export.md', 'python')[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        (tmp_path / 'photos-onnx').symlink_to(folder)
        Image.new('RGB', (30, 20), 'red').save('PHOTO.jpg')
        yield body


@pytest.mark.slow
def test_the_example_needs_no_torch(example: str, tmp_path: Path) -> None:
    words = [line.split() for line in example.splitlines()]
    imported = {w[1].split('.')[0] for w in words if w and w[0] in ('import', 'from')}
    assert imported == {'json', 'pathlib', 'numpy', 'onnxruntime', 'PIL'}
    scope: dict = {}
    exec(example.replace('576', '9'), scope)
    assert Image.open(tmp_path / 'back.png').size == (8, 8)
    with pytest.raises(SystemExit, match='no graph for K = 5; there is K = 9, 16'):
        exec(example.replace('576', '5'), {})
