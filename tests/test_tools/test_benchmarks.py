"""The benchmarks at tiny sizes, and the numbers that they rest on."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from macs_by_hand import block_macs, encoder_macs, stem_macs
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mergevq_mm.models.backbones import MergeVQEncoder

REPO = Path(__file__).parents[2]
FOLDER = REPO / 'tools' / 'benchmarks'
CPU = torch.device('cpu')
MIB = 2**20

HYBRID = {
    'stem': 'hybrid',
    'base_channels': 8,
    'channel_mult': (1, 2, 4),
    'num_res_blocks': 2,
    'num_layers': 3,
    'num_heads': 4,
}
PATCH = {
    'stem': 'patch',
    'embed_dims': 32,
    'patch_size': 4,
    'num_layers': 3,
    'num_heads': 2,
}


class Tools:
    """The scripts, imported as a run of one of them imports the others."""

    def __getattr__(self, name: str) -> ModuleType:
        return importlib.import_module(name)


@pytest.fixture(scope='module')
def tools() -> Iterator[Tools]:
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield Tools()
    sys.path.remove(str(FOLDER))
    for script in FOLDER.glob('*.py'):  # `common` is nobody's name but here
        if script.stem not in before:
            sys.modules.pop(script.stem, None)


# ------------------------------------------------------------------- operations


@pytest.mark.parametrize('arch', [HYBRID, PATCH], ids=['hybrid', 'patch'])
@pytest.mark.parametrize('removed', [(0, 0, 0), (20, 10, 3)])
def test_macs_equal_the_flop_counter(arch: dict, removed: tuple[int, ...]) -> None:
    # On no device in particular: a CPU adds up the members of groups by no product.
    encoder = MergeVQEncoder(arch, img_size=(32, 24)).eval().to('meta')
    image = torch.randn(2, 3, 32, 24, device='meta')
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        encoder.encode(image, removed=removed)
    macs = encoder_macs(arch, (32, 24), removed)
    assert 2 * 2 * sum(macs.values()) == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        encoder.stem(image)
    assert 2 * 2 * macs['stem'] == counter.get_total_flops()


def test_macs_by_hand() -> None:
    # 5 tokens of width 8 in 2 heads, 1 of them merged.
    macs = block_macs(5, 8, 2, removed=1)
    assert macs['attention'] == 5 * 8 * 24 + 5 * 8 * 8 + 2 * (2 * 5 * 5 * 4)
    assert macs['mlp'] == 2 * 4 * 8 * 32
    assert macs['matching'] == 2 * 2 * 4
    assert macs['merging'] == 2 * 1 * 9
    # 4x4 px: 3x3 conv 3->2, one block 2->2, stride 2, one block 2->4 with shortcut.
    arch = {**HYBRID, 'base_channels': 2, 'channel_mult': (1, 2), 'num_res_blocks': 1}
    stem = stem_macs(arch, (4, 4))
    assert stem == 16 * 54 + 16 * 72 + 4 * 36 + 4 * (72 + 144 + 8)


def test_macs_of_the_papers_model() -> None:
    # Table A1: 46.4 G for the G+R encoder with merging to 144 tokens.
    removed = (12, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 5)
    macs = encoder_macs(MergeVQEncoder.arch_zoo['g+r-d64'], (256, 256), removed)
    assert sum(macs.values()) == pytest.approx(46.4e9, rel=0.01)


# ------------------------------------------------------------------- common parts


def test_variants_take_turns(tools: Tools) -> None:
    order: list[str] = []
    work = {name: lambda n=name: order.append(n) for name in 'ab'}
    seconds = tools.common.interleaved(work, repeats=2, device=CPU, warmup=1)
    assert ''.join(order) == 'ababab'
    assert [len(times) for times in seconds.values()] == [2, 2]
    # The ratio is taken turn by turn: a slow turn slows both.
    assert tools.common.median_ratio([2.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2.0


def _three_then_one() -> None:
    kept = torch.empty(MIB // 4)  # 1 MiB
    other = torch.empty(2 * MIB // 4)
    del other
    torch.empty(MIB // 4)
    kept.add_(1)


def test_peak_memory_on_a_cpu(tools: Tools) -> None:
    held = torch.zeros(MIB)  # there before: does not count, nor does freeing it
    assert tools.common.peak_memory(_three_then_one, CPU) == 3 * MIB
    assert tools.common.peak_memory(lambda: held.resize_(0), CPU) == 0


def test_peak_memory_sees_the_backward_pass(tools: Tools) -> None:
    x = torch.randn(512, 512, requires_grad=True)  # 1 MiB

    def work() -> None:
        torch.autograd.grad((x.exp() * x.cos()).sum(), x)

    peak = tools.common.peak_memory(work, CPU)
    assert 5 * MIB <= peak < 8 * MIB


@pytest.mark.gpu
def test_peak_memory_on_a_gpu(tools: Tools) -> None:
    gpu = torch.device('cuda')
    work = lambda: torch.empty(3 * MIB, dtype=torch.uint8, device=gpu)  # noqa: E731
    assert tools.common.peak_memory(work, gpu) == 3 * MIB


def test_rows_are_printed_and_stored_at_once(
    tools: Tools, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / 'made' / 'rows.json'
    columns = {'way': 'way', 'ms': 'time in all (ms)|.1f', 'share': 'share|.0%'}
    args = SimpleNamespace(json=file, seed=0, folder=tmp_path)
    report = tools.reporting.Report('Title', columns, args, CPU)
    report.add(way='first', ms=1.25, more=[3])
    first = capsys.readouterr().out.splitlines()
    assert first[1] == 'Title' and first[-1].split() == ['first', '1.2', '–']
    stored = json.loads(file.read_text())
    assert stored['rows'] == [{'way': 'first', 'ms': 1.25, 'more': [3]}]
    assert not stored['complete']
    report.add(way='second', ms=20.0, share=0.5)
    assert len(json.loads(file.read_text())['rows']) == 2
    (line,) = capsys.readouterr().out.splitlines()  # no second heading
    assert line.split() == ['second', '20.0', '50%'] and len(line) == len(first[-1])
    report.note('A note.')
    report.show(bandwidth=3)
    assert 'A note.' in capsys.readouterr().out
    stored = json.loads(file.read_text())
    assert stored['complete'] and stored['bandwidth'] == 3
    assert stored['notes'] == ['A note.'] and stored['arguments']['seed'] == 0
    assert [path.name for path in file.parent.iterdir()] == ['rows.json']


# ------------------------------------------------------------------- parts of a step


class Clock:
    """A clock that only :meth:`sleep` moves, whatever else the machine does."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Slow(torch.autograd.Function):
    """Takes its time on a clock, forward and backward."""

    @staticmethod
    def forward(ctx: object, x: Tensor, seconds: float, clock: Clock) -> Tensor:
        ctx.seconds, ctx.clock = seconds, clock
        clock.sleep(seconds)
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, None, None]:
        ctx.clock.sleep(2 * ctx.seconds)
        return grad, None, None


class SlowPart(nn.Module):
    def __init__(
        self, seconds: float, clock: Clock, inner: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.seconds, self.clock = seconds, clock
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        if self.inner is not None:
            x = self.inner(x)
        return Slow.apply(x, self.seconds, self.clock)


class Owner:
    def backward(self, loss: Tensor) -> None:
        loss.backward()


def test_step_is_cut_into_parts(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, clock = tools.parts, Clock()
    monkeypatch.setattr(parts, 'time', clock)
    inner = SlowPart(0.05, clock)
    first = SlowPart(0.15, clock, inner)
    second, idle = SlowPart(0.1, clock), SlowPart(1.0, clock)
    recorder = parts.PartRecorder(CPU)
    named = {'first': first, 'second': second, 'inner': inner, 'idle': idle}
    for name, module in named.items():
        recorder.watch(name, module, lambda name=name: name)
    owner = Owner()
    recorder.wrap(owner, 'backward', 'other', parts.BACKWARD)
    x = torch.zeros(3, requires_grad=True)

    second.seconds = 0.0
    second(x)  # outside a step nothing is recorded
    second.seconds = 0.1
    begin = clock.perf_counter()
    with recorder.step() as segments:
        clock.sleep(0.01)  # between the parts
        out = second(first(x))
        owner.backward(out.sum())
    whole = clock.perf_counter() - begin

    totals = parts.by_part(segments)
    assert list(totals) == ['other', 'first', 'inner', 'second']
    for name, seconds in (('first', 0.15), ('inner', 0.05), ('second', 0.1)):
        found = totals[name].seconds
        assert found == pytest.approx({'forward': seconds, 'backward': 2 * seconds})
    assert totals['other'].seconds['forward'] == pytest.approx(0.01)
    added = sum(sum(total.seconds.values()) for total in totals.values())
    assert added == pytest.approx(whole)
    assert whole == pytest.approx(0.01 + 3 * (0.15 + 0.05 + 0.1))
    assert recorder.reached == {
        'first': True,
        'second': True,
        'inner': True,
        'idle': False,
    }


def test_memory_of_parts(tools: Tools) -> None:
    parts = tools.parts
    module = nn.Linear(256, 1024, bias=False)
    recorder = parts.PartRecorder(CPU)
    recorder.watch('linear', module, lambda: 'linear')
    x = torch.randn(1024, 256)
    with recorder.step(memory=True) as segments:
        hidden = module(x)  # 4 MiB
        del hidden
        hidden = module(x)
        squared = hidden * hidden
    total = parts.by_part(segments)
    assert total['linear'].held == 8 * MIB  # left behind at the end of its calls
    assert total['linear'].peak == 4 * MIB
    assert total['other'].peak == 8 * MIB
    assert squared.shape == (1024, 1024)


# ------------------------------------------------------------------- whole benchmarks


def test_lfq(tools: Tools, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / 'lfq.json'
    flags = ['--bits', '8', '--tokens', '16', '64', '--repeats', '1', '--device', 'cpu']
    assert tools.lfq.main([*flags, '--json', str(file)]) == 0
    content = json.loads(file.read_text())
    assert content['agrees'] is True
    rows = content['rows']
    forms = {row['form'] for row in rows}
    assert forms >= {'factorised (ours)', 'dense'}
    assert len(rows) == 2 * len(forms)
    dense = [row for row in rows if row['form'] == 'dense']
    assert dense[1]['tokens'] == 64
    # At least logits, their softmax and two gradients of 64 x 2^8 float32.
    assert dense[1]['mib'] > 3 * 64 * 2**8 * 4 / MIB
    assert all(row['gradient'] < 1e-4 for row in content['agreement'] if _ours(row))
    assert 'factorised' in capsys.readouterr().out


def _ours(row: dict) -> bool:
    return row['form'].startswith('factorised')


def test_lfq_check_fails_below_the_requirement(
    tools: Tools, capsys: pytest.CaptureFixture
) -> None:
    # At 2 bits the dense form is as small as ours: the promise cannot be kept.
    flags = ['--bits', '2', '--tokens', '4', '--repeats', '1', '--no-vq-pytorch']
    assert tools.lfq.main([*flags, '--check', '--device', 'cpu']) == 1
    assert 'missed' in capsys.readouterr().out
    with pytest.raises(ValueError, match='--no-dense'):
        tools.lfq.main(['--check', '--no-dense'])


def test_encoder(
    tools: Tools,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    for name, arch in {'tiny-hybrid': HYBRID, 'tiny-patch': PATCH}.items():
        monkeypatch.setitem(MergeVQEncoder.arch_zoo, name, arch)
    file = tmp_path / 'encoder.json'
    flags = ['--img-size', '32', '--keep', '16', '--repeats', '1', '--device', 'cpu']
    flags += ['--arch', 'tiny-hybrid', 'tiny-patch', '--train', '--json', str(file)]
    assert tools.encoder.main(flags) == 0
    rows = json.loads(file.read_text())['rows']
    assert [(row['arch'], row['part']) for row in rows] == [
        ('tiny-hybrid', 'blocks'),
        ('tiny-hybrid', 'whole'),
        ('tiny-patch', 'blocks'),
        ('tiny-patch', 'whole'),
    ]
    removed = rows[0]['removed']
    assert sum(removed) == 64 - 16
    plain, merged = (encoder_macs(HYBRID, (32, 32), r) for r in ([0] * 3, removed))
    assert rows[1]['macs_plain'] == pytest.approx(sum(plain.values()) / 1e9)
    assert rows[1]['macs'] == pytest.approx(sum(merged.values()) / 1e9)
    price = merged['matching'] + merged['merging']
    assert rows[1]['macs_share'] == pytest.approx(price / sum(merged.values()))
    bound = sum(plain.values()) / (sum(merged.values()) - price)
    assert rows[1]['bound'] == pytest.approx(bound)
    blocks = sum(plain.values()) - plain['stem']
    assert rows[0]['macs_plain'] == pytest.approx(blocks / 1e9)
    assert rows[0]['bound'] > rows[1]['bound'] > 1
    assert all(row['matching'] > 0 for row in rows)
    assert 'reached' in capsys.readouterr().out


def _tiny_config(folder: Path) -> str:
    """A stage-1 config with all parts, and weights that are nowhere."""
    network = {
        'type': 'mergevq_mm.MergeVQEncoder',
        'arch': PATCH,
        'img_size': 32,
        'init_cfg': {'type': 'Pretrained', 'checkpoint': 'nowhere.pth'},
    }
    view = [{'type': 'mmpretrain.RandomCrop', 'crop_size': 32}]
    small = [{'type': 'mmpretrain.RandomResizedCrop', 'scale': 24}]
    views = {'type': 'mmpretrain.MultiView', 'num_views': [1, 1, 1]}
    views['transforms'] = [view, small, small]
    config = {
        'model': {
            'type': 'mergevq_mm.MergeVQ',
            'backbone': {
                'type': 'mergevq_mm.MergeVQEncoder',
                'arch': HYBRID,
                'img_size': 32,
            },
            'quantizer': {
                'type': 'mergevq_mm.LFQ',
                'bits': 8,
                'split': (4, 4),
                'in_channels': 32,
            },
            'neck': {
                'type': 'mergevq_mm.SourceRecovery',
                'bits': 8,
                'grid': (8, 8),
                'embed_dims': 32,
                'num_heads': 4,
                'feedforward_channels': 64,
            },
            'decoder': {
                'type': 'mergevq_mm.MergeVQDecoder',
                'bits': 8,
                'base_channels': 8,
                'channel_mult': (1, 2, 4),
                'num_res_blocks': 1,
                'num_layers': 1,
                'num_heads': 4,
            },
            'head': {
                'type': 'mergevq_mm.MergeVQHead',
                'perceptual': {
                    'type': 'mergevq_mm.PerceptualLoss',
                    'network': {**network, 'out_type': 'featmap'},
                },
                'source': {'loss_weight': 0.5},
                'alignment': {'in_channels': 32, 'out_channels': 32, 'loss': 'cosine'},
            },
            'discriminator': {
                'type': 'Conv2d',
                'in_channels': 3,
                'out_channels': 1,
                'kernel_size': 4,
                'stride': 4,
            },
            'target_generator': {
                'type': 'mergevq_mm.FrozenTeacher',
                'network': network,
            },
            'keep': {'target': 16, 'family': 'gaussian', 'number': 3},
            'discriminator_start': 1000,
        },
        'train_dataloader': {'dataset': {'pipeline': [views]}},
        'custom_hooks': [
            {'type': 'mergevq_mm.GeneratorEMAHook', 'momentum': 0.01},
            {'type': 'mergevq_mm.RunStateHook'},
        ],
    }
    file = folder / 'tiny.py'
    Config(config).dump(file)
    return str(file)


def test_train_step(
    tools: Tools, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / 'step.json'
    flags = ['--config', _tiny_config(tmp_path), '--img-size', '16', '--repeats', '1']
    flags += ['--batch-size', '2', '--json', str(file), '--device', 'cpu']
    assert tools.train_step.main(flags) == 0
    content = json.loads(file.read_text())
    # 16 px are 16 tokens of which K keeps its quarter; the views keep their share too.
    assert '2 images of 16 px, views [12, 12], K=4 of L=16' in content['title']
    assert content['idle'] == []
    rows = {row['part']: row for row in content['rows']}
    trained = ('encoder', 'quantizer', 'entropy', 'recovery', 'decoder')
    for part in (*trained, 'encoder, alignment view', 'perceptual loss'):
        assert rows[part]['forward'] > 0, part
        assert rows[part]['backward'] > 0, part
        assert rows[part]['held'] > 0, part
    for part in ('discriminator, G pass', 'discriminator, D pass'):
        assert rows[part]['forward'] > 0 and rows[part]['backward'] > 0
    assert rows['teacher']['backward'] is None
    for part in ('optimizer, generator', 'optimizer, discriminator', 'EMA'):
        assert rows[part]['update'] > 0
    step = rows.pop('step')
    assert sum(row['total'] for row in rows.values()) == pytest.approx(step['total'])
    assert step['peak'] == max(row['peak'] for row in rows.values())
    # AdamW keeps two numbers a parameter.
    twice = 2 * content['weights_mib']
    assert content['optimizer_mib'] == pytest.approx(twice, rel=0.01)
    assert 'decoder' in capsys.readouterr().out


def test_stored_targets_and_lpips_get_stand_ins(tools: Tools, tmp_path: Path) -> None:
    config = Config.fromfile(_tiny_config(tmp_path))
    config.model.head.perceptual = {'type': 'mergevq_mm.LPIPSLoss', 'net': 'squeeze'}
    config.model.target_generator = {'type': 'mergevq_mm.StoredTeacher', 'file': 'no'}
    config.optim_wrapper = {'generator': {'accumulative_counts': 4}}
    tools.offline.prepare(config, None, None, 3, tmp_path)
    assert config.optim_wrapper.generator.accumulative_counts == 1
    assert config.model.keep == 16
    from mergevq_mm.registry import MODELS

    loss = MODELS.build(config.model.head.perceptual)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    assert loss(images[:1], images[1:]) > 0
    teacher = MODELS.build(config.model.target_generator)
    samples = tools.train_step.make_batch(teacher, [8], 3)['data_samples']
    assert teacher(None, samples).shape == (3, 32)


# ------------------------------------------------------------------- generation


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The small generators of their own tests."""
    folder = REPO / 'tests' / 'test_models' / 'test_generators'
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module('tiny_mergear')


@torch.no_grad()
@pytest.mark.parametrize('guidance', [1.0, (1.5, 3.0)])
def test_the_plain_loop_is_the_generator_without_a_window(
    tools: Tools, tiny: ModuleType, guidance: float | tuple
) -> None:
    """Greedy, for the loop draws with other random numbers."""
    model = tiny.make(tiny.MergeAR, window=None)
    labels = torch.tensor([1, 4, 9])
    options = dict(
        temperature=0, guidance=guidance, guidance_schedule='linear', top_p=0.9
    )
    expected = model.sample_codes(labels, 4, [0, 1, 2], cache='full', **options)
    loop = tools.plain_loop.PlainLoop(model)
    drawn = loop(labels, 4, model.sampling_rule(**options))
    assert torch.equal(drawn.index, expected.index)
    assert (drawn.stats['passes'] == tiny.LENGTH).all()
    for name in ('passes', 'cache_peak_bytes'):
        assert drawn.stats[name].equal(expected.stats[name]), name
    with torch.autocast('cpu', torch.bfloat16):
        half = loop(labels, 4).stats['cache_peak_bytes']
    one = loop(labels, 4).stats['cache_peak_bytes']
    assert (2 * half == one).all()


@torch.no_grad()
def test_a_step_of_the_plain_loop_can_be_captured(
    tools: Tools, tiny: ModuleType
) -> None:
    """One graph for all steps and batches, nothing from the host, memory that stays."""
    model, graphs = tiny.make(tiny.MergeAR, window=None), []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    loop = tools.plain_loop.PlainLoop(model, dict(backend=backend))
    rule = model.sampling_rule(temperature=0, guidance=(1.5, 2.0))
    for labels in (torch.tensor([1, 4, 9]), torch.tensor([3, 3, 0])):
        expected = tools.plain_loop.PlainLoop(model)(labels, 4, rule)
        assert torch.equal(loop(labels, 4, rule).index, expected.index)
    assert len(graphs) == len(loop.states) == 1
    (state,) = loop.states.values()
    places = [tensor.data_ptr() for tensor in state.tensors()]
    state.token.zero_()
    with tiny.NoWaiting():
        loop.step(state, rule)
    assert [tensor.data_ptr() for tensor in state.tensors()] == places


def test_the_plain_loop_draws_as_it_is_told(tools: Tools, tiny: ModuleType) -> None:
    model, labels = tiny.make(tiny.MergeAR, window=None), torch.tensor([1, 4, 9])
    loop = tools.plain_loop.PlainLoop(model)
    greedy = loop(labels, 4, model.sampling_rule(temperature=0)).index
    for options in (dict(top_k=1), dict(top_p=1e-6), dict(temperature=1e-6)):
        assert torch.equal(
            loop(labels, 4, model.sampling_rule(**options)).index, greedy
        )
    part = loop(labels, 4, model.sampling_rule(temperature=(0, 1.0))).index
    assert torch.equal(part[:, 0] & 7, greedy[:, 0] & 7)  # the first part is greedy
    assert not torch.equal(part, greedy)


@torch.no_grad()
def test_what_a_pass_reads(tools: Tools, tiny: ModuleType) -> None:
    bench = tools.generation
    model = tiny.make(tiny.MergeAR, window=2)  # width 32, P = 2
    blocks = [2 * (4 * 32 * 32 + 3 * 32 * 96 + 2 * 32), 4 * 32 * 32 + 3 * 32 * 96 + 64]
    weights = blocks[0] + 2 * (blocks[1] + 32) + 32 * (8 + 32)
    assert bench.weight_bytes(model, element=4) == 4 * weights
    assert bench.weight_bytes(model, element=2) == 2 * weights
    index = torch.tensor([[5] * 30, [*range(29), 0]])
    stats = {'passes': torch.tensor([30, 10])}
    drawn = bench.SampledCodes(index, 4, True, stats)
    assert bench.slots_read(model, drawn, 'static').tolist() == [30 * 32, 10 * 32]
    full = sum(range(2, 32))  # after the prefix a token more at each step
    assert bench.slots_read(model, drawn, 'full').tolist() == [full, full / 3]
    # Of one code: the prefix, it, and two repetitions in the window of two.
    small = 2 + 3 + 4 + 27 * 5
    assert bench.slots_read(model, drawn, 'compressed').tolist() == [
        small,
        pytest.approx(full / 3),
    ]
    rand = tiny.make(tiny.RandAR, keep=7)
    drawn = rand.sample_codes(torch.tensor([1]), 7, [0], num_steps=3)
    # 1, 2 and 4 codes: the instructions see the prefix, all pairs, and themselves.
    assert bench.parallel_schedule(7, 3) == [1, 2, 4]
    assert bench.slots_read(rand, drawn, 'pairs') == (2 + 1) + (2 + 2 + 2) + (2 + 6 + 4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_generation(
    tools: Tools,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mergevq_mm.models.generators import decoding_step

    monkeypatch.chdir(REPO)
    monkeypatch.setattr(decoding_step, 'BACKEND', 'eager')
    monkeypatch.setattr(tools.generation, 'bandwidth', lambda device: 1e10)
    file = tmp_path / 'generation.json'
    others = ['mergear_mnist5k_distinct', 'randar_mnist5k']
    configs, layers = [], 2
    for name in ('mergear_mnist5k', *others):
        base = str(REPO / 'configs' / 'quickstart' / f'{name}.py')
        configs.append(str(tmp_path / f'{name}.py'))
        text = f'_base_ = {base!r}\nmodel = dict(arch=dict(num_layers={layers}))\n'
        Path(configs[-1]).write_text(text)
    flags = [configs[0], '--random', '--batch', '2', '--compile', '--repeats', '1']
    flags += ['--json', str(file), '--device', 'cpu', '--others', *configs[1:]]
    assert tools.generation.main(flags) == 0
    content = json.loads(file.read_text())
    rows = {row['way']: row for row in content['rows']}
    raster = ['full', 'compressed', 'full, compile', 'compressed, compile']
    raster += ['full, 4 drafts', 'compressed, 4 drafts']
    assert list(rows) == ['loop', 'loop, compile', *raster, *others]
    assert all(rows[name]['same'] == 1 for name in raster)
    assert rows['loop']['same'] is None and rows['loop']['ratio'] == 1
    assert rows['loop, compile']['cache'] == rows['loop']['cache']
    prefix, window, keep, length = 2, 9, 16, 64
    slot = 2 * layers * 128 * 4 * 2  # keys and values, with guidance
    assert rows['loop']['cache'] == (prefix + length) * slot / 1024
    share = (prefix + window + keep) / (prefix + length)
    for name in ('compressed', 'compressed, compile'):
        row = rows[name]
        assert row['most_distinct'] <= keep
        most = share * rows['full']['cache'] + 16 * slot / 1024
        assert row['cache'] == (prefix + window + keep) * slot / 1024 <= most
        assert row['cache_share'] == pytest.approx(share)
        assert row['read'] < rows['full']['read'] < rows['loop']['read']
    assert rows['compressed, 4 drafts']['cache'] <= row['cache'] + 4 * slot / 1024
    assert [rows[name]['passes'] for name in ('loop', 'full', *others)] == [
        *(64, 64, 32, 16)
    ]
    assert rows['randar_mnist5k']['accepted'] == 2
    for row in rows.values():
        assert row['rate'] > 0 and row['bound'] > 0
        assert row['reached'] == pytest.approx(row['rate'] / row['bound'])
    text = capsys.readouterr().out
    assert 'randar_mnist5k: untrained weights, speed only' in text


def test_generation_takes_the_settings_of_the_model(
    tools: Tools, tiny: ModuleType
) -> None:
    own = dict(temperature=(0.5, 0.7), top_k=(0, 3), guidance=(1.5, 2.0), keep=7)
    own.update(seed=3, cache='full', speculative=2, guidance_schedule='linear')
    model = tiny.make(tiny.MergeAR, sample_cfg=own)
    args = tools.generation.parse_args(['c', 'w', '--repeats', '1'])
    keep, options = tools.generation.settings(model, args)
    assert keep == 7
    assert options == dict(
        temperature=(0.5, 0.7),
        top_k=(0, 3),
        guidance=(1.5, 2.0),
        guidance_schedule='linear',
    )
    args = tools.generation.parse_args(['c', '--random', '--keep', '4'])
    args.guidance = 3.0
    keep, options = tools.generation.settings(model, args)
    assert keep == 4 and options['guidance'] == 3.0 and options['restrict'] is True
    ways = tools.generation.ways_of({'raster': model}, torch.tensor([1, 2]), args)
    ways['full'](), ways['compressed']()
    expected = model.sample_codes(torch.tensor([1, 2]), 4, [0, 1], **options)
    for name in ('full', 'compressed'):
        assert torch.equal(ways[name].last.index, expected.index)


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['configs/quickstart/mergear_mnist5k.py'], 'no checkpoint: give one'),
        (
            ['configs/quickstart/randar_mnist5k.py', '--random'],
            'randar_mnist5k.py is no MergeAR over the whole raster; give one such as',
        ),
        (
            ['configs/quickstart/mergear_mnist5k.py', '--random', '--keep', '5'],
            r'keep=5 is not known to this generator; choose one of \[16, 25\]',
        ),
    ],
)
def test_generation_refuses(
    tools: Tools, flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    monkeypatch.setattr(tools.generation, 'bandwidth', lambda device: 1e9)
    with pytest.raises(ValueError, match=message):
        tools.generation.main([*flags, '--batch', '1', '--device', 'cpu'])
