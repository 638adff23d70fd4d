import numpy as np
import pytest
import torch
import torch.distributed as dist
from make_predictions import make_prediction
from mmengine.evaluator import Evaluator
from ready_processes import run_ranks
from torch import nn

from mergevq_mm.evaluation import (
    CodebookMetric,
    FeatureExtractor,
    FrechetMetric,
    LPIPSMetric,
    ReconstructionMetric,
    SourceRecoveryMetric,
)
from mergevq_mm.evaluation.functional import frechet_distance, psnr, ssim
from mergevq_mm.registry import METRICS, MODELS
from mergevq_mm.utils.distributed import end_process_group

EXTRACTOR = dict(
    type='mergevq_mm.BackboneFeatures',
    network=dict(type='mergevq_mm._FourMeans'),
    random_init=True,
)


@MODELS.register_module(force=True)
class _FourMeans(nn.Module):
    """Means of the quarters of an image: a feature map B×3×2×2 made flat."""

    def forward(self, x):
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


def _evaluate(metrics, samples, batch_size=3):
    evaluator = Evaluator(metrics)
    for start in range(0, len(samples), batch_size):
        evaluator.process(samples[start : start + batch_size])
    return evaluator.evaluate(len(samples))


def _images(samples, keep, field='image'):
    return torch.stack([s.reconstructions[keep][field] for s in samples])


def _originals(samples):
    return torch.stack([s.original for s in samples])


@pytest.fixture
def samples():
    return [make_prediction(learned=True) for _ in range(7)]


def test_reconstruction_metric(samples):
    found = _evaluate([dict(type='mergevq_mm.ReconstructionMetric')], samples)
    expected = {}
    for keep in (4, 16):
        for field, suffix in (('image', ''), ('predicted_image', '_predicted')):
            pair = _images(samples, keep, field), _originals(samples)
            expected[f'recon/K{keep}/psnr{suffix}'] = psnr(*pair).mean().item()
            expected[f'recon/K{keep}/ssim{suffix}'] = ssim(*pair).mean().item()
    assert found == pytest.approx(expected, rel=1e-12)
    assert found['recon/K4/psnr'] == pytest.approx(20, abs=1)  # noise of 0.1


def test_keeps_and_options(samples):
    found = _evaluate([ReconstructionMetric(ssim=False, keeps=[4])], samples[:1])
    assert set(found) == {'recon/K4/psnr', 'recon/K4/psnr_predicted'}
    with pytest.raises(ValueError, match=r'names \[9\], but reconstructions are at'):
        _evaluate([ReconstructionMetric(keeps=[4, 9])], samples)
    with pytest.raises(ValueError, match='hold no `reconstructions`'):
        ReconstructionMetric().process(None, [dict(original=torch.rand(3, 8, 8))])


def test_codebook_metric(samples):
    found = _evaluate([CodebookMetric(bits=6)], samples)
    for keep in (4, 16):
        index = _images(samples, keep, 'index').numpy().reshape(-1)
        distinct = len(set(index.tolist()))
        assert found[f'codebook/K{keep}/distinct'] == distinct
        assert found[f'codebook/K{keep}/usage'] == distinct / 64
        share = np.bincount(index)[np.bincount(index) > 0] / len(index)
        entropy = -(share * np.log2(share)).sum()
        assert found[f'codebook/K{keep}/entropy'] == pytest.approx(entropy)
        possible = distinct / min(64, 7 * keep)
        assert found[f'codebook/K{keep}/usage_of_possible'] == possible
    assert len(found) == 14
    with pytest.raises(ValueError, match='bits=0'):
        CodebookMetric(bits=0)
    with pytest.raises(ValueError, match='set bits=2'):
        _evaluate([CodebookMetric(bits=2)], samples)


def test_bits_are_the_model_s(samples):
    """Whatever stands in a config: 64 codes have 6 bits, not 18."""
    expected = _evaluate([CodebookMetric(bits=6)], samples)
    with pytest.raises(ValueError, match='do not say how many bits'):
        _evaluate([CodebookMetric()], samples)
    for sample in samples:
        sample.set_field(6, 'bits')
    assert _evaluate([CodebookMetric()], samples) == expected
    for bits in (18, 3):
        with pytest.raises(ValueError, match=f'bits={bits}, but .* have 6; leave'):
            _evaluate([CodebookMetric(bits=bits)], samples)


def test_source_recovery_metric(samples):
    found = _evaluate([SourceRecoveryMetric()], samples)
    for keep in (4, 16):
        right = alike = 0
        for sample in samples:
            result = sample.reconstructions[keep]
            for true, guess in zip(result['group'], result['predicted_group']):
                right += int(true == guess)
                alike += int(result['index'][true] == result['index'][guess])
        assert found[f'source/K{keep}/acc'] == pytest.approx(right / 112)
        assert found[f'source/K{keep}/acc_codes'] == pytest.approx(alike / 112)
    plain = [make_prediction() for _ in range(2)]
    assert _evaluate([SourceRecoveryMetric()], plain) == {}


def test_frechet_metric(samples):
    metric = METRICS.build(dict(type='mergevq_mm.FrechetMetric', extractor=EXTRACTOR))
    found = _evaluate([metric], samples)
    network = _FourMeans()
    original = network(_originals(samples) * 2 - 1).numpy()
    for keep in (4, 16):
        for field, suffix in (('image', ''), ('predicted_image', '_predicted')):
            features = network(_images(samples, keep, field) * 2 - 1).numpy()
            expected = frechet_distance(original, features)
            name = f'recon/K{keep}/rfid{suffix}'
            assert found[name] == pytest.approx(expected, rel=1e-4)
    assert metric.protocol == {
        'features': 'mergevq_mm._FourMeans',
        'weights': 'built in',
        'resize': 'none',
        'rounding': 'none',
        'image_size': [(32, 32)],
        'num_images': 7,
        'feature_dim': 12,
    }


def test_perfect_reconstruction():
    samples = [make_prediction(noise=0.0, learned=True) for _ in range(5)]
    metrics = [
        ReconstructionMetric(),
        FrechetMetric(EXTRACTOR, keeps=[4], predicted=False),
    ]
    found = _evaluate(metrics, samples)
    assert found['recon/K4/psnr'] == 100 and found['recon/K4/ssim'] == pytest.approx(1)
    assert found['recon/K4/rfid'] == pytest.approx(0, abs=1e-6)
    assert [name for name in found if 'rfid' in name] == ['recon/K4/rfid']


def test_frechet_metric_bad_input():
    with pytest.raises(ValueError, match='wrap the backbone'):
        FrechetMetric(dict(type='mergevq_mm._FourMeans'))
    missing = dict(type='mergevq_mm.InceptionFeatures', checkpoint='/nowhere.pth')
    with pytest.raises(FileNotFoundError, match='/nowhere.pth'):
        FrechetMetric(missing)


def test_lpips_metric(tmp_path):
    """Equals the ``lpips`` package on the same (random) trunk weights."""
    import lpips
    import torchvision

    path = tmp_path / 'alex.pth'
    trunk = torchvision.models.alexnet(weights=None)
    torch.save(trunk.state_dict(), path)
    reference = lpips.LPIPS(net='alex', pnet_rand=True, verbose=False).eval()
    own = reference.net.state_dict()
    theirs = {f'features.{k.split(".", 1)[1]}': k for k in own}
    weights = {theirs[k]: v for k, v in trunk.state_dict().items() if k in theirs}
    reference.net.load_state_dict(weights)
    samples = [make_prediction(size=64) for _ in range(3)]
    found = _evaluate([LPIPSMetric(checkpoint=str(path))], samples, batch_size=2)
    for keep in (4, 16):
        with torch.no_grad():
            pair = _images(samples, keep) * 2 - 1, _originals(samples) * 2 - 1
            expected = reference(*pair).mean().item()
        found_here = found[f'recon/K{keep}/lpips_alex']
        assert found_here == pytest.approx(expected, rel=1e-4)
    with pytest.raises(FileNotFoundError, match="checkpoint='/nowhere.pth'"):
        LPIPSMetric(checkpoint='/nowhere.pth')
    with pytest.raises(ValueError, match="net='resnet'"):
        LPIPSMetric(net='resnet')


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Downloads fail; the messages of the log."""

    def fail(*args, **kwargs):
        raise OSError('no route to host')

    messages = []
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr('mergevq_mm.utils.checkpoint_file.download', fail)
    monkeypatch.setattr(
        'mergevq_mm.evaluation.weights.print_log',
        lambda message, **kwargs: messages.append(message),
    )
    return messages


def _needs_weights(**kwargs):
    inception = dict(type='mergevq_mm.InceptionFeatures')
    return [
        dict(type='mergevq_mm.LPIPSMetric', **kwargs),
        dict(type='mergevq_mm.FrechetMetric', extractor=inception, **kwargs),
    ]


def test_weights_out_of_reach_leave_their_metrics_out(samples, no_network):
    metrics = [METRICS.build(config) for config in _needs_weights()]
    assert len(no_network) == 2, 'when they are made, not at the first validation'
    for name, message in zip(('LPIPSMetric', 'FrechetMetric'), no_network):
        assert message.startswith(f'{name} is left out of the evaluation: Checkpoint ')
        assert 'no route to host' in message
        assert message.endswith('To make this an error, set required=True.')
    for _ in range(2):
        found = _evaluate([ReconstructionMetric(ssim=False), *metrics], samples)
        assert {name.split('/')[2] for name in found} == {'psnr', 'psnr_predicted'}
    assert len(no_network) == 2


def test_weights_that_are_required_stop_the_run(no_network):
    for config in _needs_weights(required=True):
        with pytest.raises(FileNotFoundError, match='no route.*: give the path'):
            METRICS.build(config)


def test_weights_are_read_when_the_metric_is_made(tmp_path):
    path = tmp_path / 'damaged.pth'
    path.write_bytes(b'no weights')
    with pytest.raises(ValueError, match=r'damaged\.pth'):
        LPIPSMetric(checkpoint=str(path))
    extractor = dict(type='mergevq_mm.InceptionFeatures', checkpoint=str(path))
    with pytest.raises(ValueError, match=r'damaged\.pth'):
        FrechetMetric(extractor)


@MODELS.register_module(force=True)
class _Pixels(FeatureExtractor):
    """Needs no network, so that the ranks of the test start fast."""

    def extract(self, image):
        return image[:, :, :2, :2].flatten(1)


def _all_metrics():
    return [
        ReconstructionMetric(),
        CodebookMetric(bits=6),
        SourceRecoveryMetric(),
        FrechetMetric(dict(type='mergevq_mm._Pixels')),
    ]


def _one_rank_lacks_weights(rank):
    metric = FrechetMetric(dict(type='mergevq_mm._Pixels'))

    def load():
        if rank == 1:
            raise FileNotFoundError('weights are not here.')

    metric.load_weights(load, required=False)
    assert not metric.ready, 'left out on all ranks, or the others would wait for it'


def _rank(rank, folder, samples, whole):
    """Evaluates every second image; 7 images on two ranks: the last is padding."""
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    order = [*range(len(samples)), 0]
    evaluator = Evaluator(_all_metrics())
    mine = [samples[i] for i in order[rank::2]]
    for start in range(0, len(mine), 3):
        evaluator.process(mine[start : start + 3])
    found = evaluator.evaluate(len(samples))
    assert found == pytest.approx(whole, rel=1e-9)
    _one_rank_lacks_weights(rank)
    end_process_group()


def test_two_ranks_equal_one(samples, tmp_path):
    whole = _evaluate(_all_metrics(), samples)
    # As dicts: pickling a BaseDataElement turns its tensors into arrays.
    args = (str(tmp_path), [sample.to_dict() for sample in samples], whole)
    run_ranks(_rank, args)
