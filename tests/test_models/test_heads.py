import math

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import mergevq_mm  # noqa: F401
from mergevq_mm.models.heads import AlignmentHead, MergeVQHead
from mergevq_mm.models.heads.alignment_head import Prototypes
from mergevq_mm.models.losses import nonsaturating_generator_loss
from mergevq_mm.registry import MODELS


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    'width, layers, with_head, without',
    [  # spec section 2: encoder parameters with and without the head, in millions
        (384, 2, 40.00, 38.22),
        (512, 2, 64.96, 62.33),
        (384, 3, 42.69, 38.55),
        (512, 3, 69.49, 62.67),
        (768, 3, 99.84, 85.68),
    ],
)
def test_parameter_counts(width, layers, with_head, without):
    head = AlignmentHead(width, 768, layers=layers)
    assert count(head) / 1e6 == pytest.approx(with_head - without, abs=0.011)


def test_exact_parameter_counts():
    assert count(AlignmentHead(512, 768, layers=2)) == 2_628_352
    assert count(AlignmentHead(512, 768, layers=3)) == 6_820_608


def test_keys_are_those_of_the_authors():
    keys = {'0.weight', '0.bias', '2.weight', '2.bias', '4.weight', '4.bias'}
    assert set(AlignmentHead(8, 4, layers=3).projector.state_dict()) == keys
    keys = {'0.weight', '0.bias', '2.weight', '2.bias', '3.weight', '3.bias'}
    assert set(AlignmentHead(8, 4, layers=2).projector.state_dict()) == keys


def test_projection_equals_the_formula():
    head = AlignmentHead(8, 4, layers=3)
    p = head.projector.state_dict()
    x = torch.randn(5, 8)
    y = F.gelu(F.linear(x, p['0.weight'], p['0.bias']))
    y = F.gelu(F.linear(y, p['2.weight'], p['2.bias']))
    y = F.linear(y, p['4.weight'], p['4.bias'])
    torch.testing.assert_close(head.projector(x), y)
    target = torch.randn(5, 4)
    terms = head(x, target)
    kl = F.kl_div(
        (y / 4).log_softmax(1), (target / 4).softmax(1), reduction='batchmean'
    )
    torch.testing.assert_close(terms['loss_align'], kl * 16)
    cosine = F.cosine_similarity(y, target).mean()
    torch.testing.assert_close(terms['align_cos'], cosine.detach())


def test_prototypes_are_a_weight_normed_layer():
    layer = Prototypes(6, 10)
    reference = nn.Linear(6, 10, bias=False)
    reference.weight.data.copy_(layer.weight)
    reference = weight_norm(reference)
    reference.parametrizations.weight.original0.data.fill_(1)
    x = torch.randn(3, 6)
    torch.testing.assert_close(layer(x), reference(F.normalize(x)))


def test_dino_with_prototypes():
    head = MODELS.build(
        dict(
            type='mergevq_mm.AlignmentHead',
            in_channels=8,
            out_channels=6,
            num_prototypes=10,
            loss=dict(type='dino', center_momentum=0.5),
            loss_weight=0.1,
        )
    )
    target = torch.randn(4, 10)
    loss = head(torch.randn(4, 8), target)['loss_align']
    loss.backward()
    assert head.projector[-1].weight.grad.abs().sum() > 0
    torch.testing.assert_close(head.loss_module.center, target.mean(0) / 2)
    assert 'loss_module.center' in head.state_dict()


def test_labels_are_smoothed():
    head = AlignmentHead(8, 5, layers=2, loss='label')
    cls, labels = torch.randn(4, 8), torch.tensor([0, 4, 2, 1])
    terms = head(cls, labels=labels)
    logits = head.projector(cls)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(terms['loss_align'], expected)
    hits = (logits.argmax(1) == labels).float().mean()
    assert terms['align_acc'] == hits
    assert head(cls, torch.randn(4, 5)) == {}


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match='layers=4'):
        AlignmentHead(8, layers=4)
    with pytest.raises(ValueError, match="loss='mse'"):
        AlignmentHead(8, loss='mse')
    with pytest.raises(ValueError, match='out_channels=384'):
        AlignmentHead(8, 768)(torch.randn(2, 8), torch.randn(2, 384))
    with pytest.raises(ValueError, match="'l3'"):
        MergeVQHead(pixel=dict(l3=1.0))
    with pytest.raises(ValueError, match='recon of shape'):
        MergeVQHead()(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 16, 16))


@pytest.fixture
def step():
    torch.manual_seed(0)
    return dict(
        recon=torch.rand(2, 3, 8, 8) * 2 - 1,
        image=torch.rand(2, 3, 8, 8) * 2 - 1,
        cls=torch.randn(2, 8),
        target=torch.randn(2, 6),
        source_logits=torch.randn(2, 16, 4),
        group=torch.randint(0, 4, (2, 16)),
        index=torch.tensor([[3, 3, 1, 2], [0, 1, 2, 3]]),
        fake_logits=torch.randn(2, 1, 2, 2),
    )


def test_every_term_with_its_weight(step):
    head = MODELS.build(
        dict(
            type='mergevq_mm.MergeVQHead',
            pixel=dict(l1=0.5, l2=2.0),
            perceptual=dict(
                type='mergevq_mm.PerceptualLoss',
                network=dict(type='mmpretrain.ResNet', depth=18),
                random_init=True,
                loss_weight=0.7,
            ),
            source=dict(loss_weight=0.5),
            alignment=dict(in_channels=8, out_channels=6, loss='cosine'),
            gan_weight=0.1,
        )
    )
    terms = head(**step)
    difference = (step['recon'] - step['image']).double()
    pixel = 0.5 * difference.abs().mean() + 2 * (difference**2).mean()
    assert terms['loss_pixel'].item() == pytest.approx(pixel.item(), rel=1e-5)
    gan = 0.1 * nonsaturating_generator_loss(step['fake_logits'])
    torch.testing.assert_close(terms['loss_gan'], gan)
    source = 0.5 * F.cross_entropy(step['source_logits'].transpose(1, 2), step['group'])
    torch.testing.assert_close(terms['loss_source'], source)
    projected = head.alignment.projector(step['cls'])
    cosine = F.cosine_similarity(projected, step['target']).mean()
    torch.testing.assert_close(terms['loss_align'], 1 - cosine)
    perceptual = 0.7 * head.perceptual.distance(step['recon'], step['image']).mean()
    torch.testing.assert_close(terms['loss_perceptual'], perceptual)
    losses = {name for name in terms if 'loss' in name}
    assert losses == {
        'loss_' + name for name in ('pixel', 'perceptual', 'gan', 'source', 'align')
    }
    assert set(terms) - losses == {'source_acc', 'source_acc_codes', 'align_cos'}


def test_default_is_l1_and_missing_inputs_leave_terms_out(step):
    head = MergeVQHead()
    terms = head(step['recon'], step['image'])
    assert set(terms) == {'loss_pixel'}
    torch.testing.assert_close(
        terms['loss_pixel'], F.l1_loss(step['recon'], step['image'])
    )
    head = MergeVQHead(
        source=dict(), alignment=dict(in_channels=8, out_channels=6), gan_weight=0.0
    )
    step.update(source_logits=None, target=None)
    assert set(head(**step)) == {'loss_pixel'}


def test_a1_preset_is_l2(step):
    terms = MergeVQHead(pixel=dict(l2=1.0))(step['recon'], step['image'])
    torch.testing.assert_close(
        terms['loss_pixel'], F.mse_loss(step['recon'], step['image'])
    )


def test_labels_come_from_the_samples(step):
    head = MergeVQHead(alignment=dict(in_channels=8, out_channels=3, loss='label'))
    samples = [DataSample().set_gt_label(label) for label in (2, 0)]
    terms = head(step['recon'], step['image'], cls=step['cls'], data_samples=samples)
    logits = head.alignment.projector(step['cls'])
    expected = F.cross_entropy(logits, torch.tensor([2, 0]), label_smoothing=0.1)
    torch.testing.assert_close(terms['loss_align'], expected)


def test_half_precision_reconstruction_is_compared_in_float32(step):
    terms = MergeVQHead()(step['recon'].bfloat16(), step['image'])
    assert terms['loss_pixel'].dtype == torch.float32
    assert math.isfinite(terms['loss_pixel'].item())
