"""The algorithm: modes, losses, two optimizers, precision, views, teachers, errors."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.model import MMSeparateDistributedDataParallel
from mmengine.model.wrappers import seperate_distributed
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import DefaultScope
from mmpretrain.models.peft.lora import LoRALinear
from mmpretrain.structures import DataSample
from tiny_mergevq import (
    BITS,
    DIMS,
    LENGTH,
    batch,
    build_model,
    clone_state,
    model_cfg,
    moved,
    optimizers,
)
from torch import Tensor, nn
from torch.nn import functional as F

from mergevq_mm.models import MergeVQ
from mergevq_mm.models.losses import (
    hinge_discriminator_loss,
    nonsaturating_generator_loss,
)
from mergevq_mm.models.quantizers.lfq_functional import index_to_codes
from mergevq_mm.models.utils.group_map import recover_tokens
from mergevq_mm.models.utils.keep_sampling import KeepSampler
from mergevq_mm.models.utils.possible_maps import best_possible_map
from mergevq_mm.registry import MODELS

_COUNT = itertools.count()
DINO = dict(
    type='mergevq_mm.MergeVQHead',
    source=dict(loss_weight=0.5),
    alignment=dict(
        in_channels=DIMS, out_channels=8, layers=2, num_prototypes=10, loss='dino'
    ),
)


@pytest.fixture(autouse=True)
def hub() -> MessageHub:
    """A message hub of its own for each test, at iteration 0."""
    hub = MessageHub.get_instance(f'test_mergevq_{next(_COUNT)}')
    hub.update_info('iter', 0)
    return hub


def prepared(model: MergeVQ, data: dict) -> tuple[list[Tensor], list[DataSample]]:
    """A batch after the preprocessor."""
    data = model.data_preprocessor(data, training=True)
    return data['inputs'], data['data_samples']


# ------------------------------------------------------------------------- modes


def test_tensor_mode_is_the_backbone() -> None:
    model = build_model().eval()
    x = torch.randn(2, 3, 8, 8)
    (cls,) = model(x)
    assert torch.equal(cls, model.backbone.encode(x).cls)
    assert torch.equal(model.extract_feat(x)[0], cls)
    with pytest.raises(RuntimeError, match='guess'):
        model(x, mode='guess')


def test_loss_mode_returns_all_terms() -> None:
    model = build_model()
    losses = model(*prepared(model, batch()), mode='loss')
    terms = {name for name in losses if 'loss' in name}
    assert terms == {
        f'loss_{name}'
        for name in (
            'pixel',
            'perceptual',
            'gan',
            'source',
            'align',
            'entropy',
            'commit',
        )
    }
    assert all(value.requires_grad == ('loss' in k) for k, value in losses.items())


@torch.no_grad()
def test_predict_returns_what_the_parts_return() -> None:
    model = build_model().eval()
    x = torch.rand(2, 3, 8, 12) * 2 - 1
    samples = [DataSample().set_gt_label(i) for i in range(2)]
    found = model(x, samples, mode='predict')
    assert [id(s) for s in found] == [id(s) for s in samples]
    for i, sample in enumerate(found):
        assert sample.gt_label == i and sample.grid == (4, 6)
        assert sample.bits == BITS
        torch.testing.assert_close(sample.original, x[i] * 0.5 + 0.5)
        assert list(sample.reconstructions) == [9, 16]
        for keep, made in sample.reconstructions.items():
            merged = model.backbone.encode(x, keep)
            assert torch.equal(made['group'], merged.group[i])
            assert made['index'].shape == (keep,)
            assert made['group'].unique().tolist() == list(range(keep))
            codes = index_to_codes(made['index'], BITS).float()[None]
            for name in ('', 'predicted_'):
                group = made[name + 'group'][None]
                image = model.decoder(recover_tokens(codes, group), (4, 6))[0]
                expected = (image * 0.5 + 0.5).clamp(0, 1)
                torch.testing.assert_close(made[name + 'image'], expected)
            scores = model.neck.scores(codes, (4, 6))
            assert torch.equal(made['predicted_group'], best_possible_map(scores)[0])


@torch.no_grad()
def test_predict_without_a_learned_neck_and_at_full_length() -> None:
    neck = dict(type='mergevq_mm.GroupMapRecovery')
    model = build_model(neck=neck, test_cfg=None, keep=None).eval()
    (sample,) = model.val_step(batch(number=1, views=1))  # a list of views, samples
    made = sample.reconstructions[LENGTH]
    assert set(made) == {'image', 'index', 'group'}
    assert made['group'].tolist() == list(range(LENGTH))
    assert 0 <= made['image'].min() and made['image'].max() <= 1


@torch.no_grad()
def test_the_predicted_map_is_optional() -> None:
    model = build_model(test_cfg=dict(keep=[9], predict_source=False)).eval()
    made = model.predict(torch.zeros(1, 3, 8, 8))[0].reconstructions[9]
    assert set(made) == {'image', 'index', 'group'}


@pytest.mark.parametrize('scope', ['mmengine', 'mmagic', 'mmpretrain'])
def test_default_preprocessor_in_any_scope(scope: str) -> None:
    """BGR bytes become RGB in [-1, 1], whatever ``default_scope`` a config has."""
    with DefaultScope.overwrite_default_scope(scope):
        model = build_model(data_preprocessor=None)
    data = batch(views=1)
    bgr = data['inputs'][0].clone()
    (image,), _ = prepared(model, data)
    torch.testing.assert_close(image, bgr.flip(1) / 127.5 - 1)


# ------------------------------------------------------------------------- losses


def test_generator_losses_are_those_of_the_parts() -> None:
    model = build_model()
    twin = copy.deepcopy(model)
    (image, student, teacher), samples = prepared(model, batch())
    losses, outputs = model.generator_losses([image, student, teacher], samples)

    keep = int(losses['keep'])
    merged = twin.backbone.encode(image, keep)
    quantized = twin.quantizer(merged.tokens)
    logits = twin.neck.scores(quantized.codes, merged.grid)
    recon = twin.decoder(recover_tokens(quantized.codes, merged.group), merged.grid)
    head = twin.head
    cls = twin.backbone.encode(student, keep).cls  # a view of the image's own size
    projected = head.alignment.projector(cls)
    target = twin.target_generator.model.network(teacher)[0]
    student_p, teacher_p = (x.div(4).log_softmax(1) for x in (projected, target))
    divergence = (teacher_p.exp() * (teacher_p - student_p)).sum(1).mean()
    source = F.cross_entropy(logits.flatten(0, 1), merged.group.flatten())
    expected = dict(
        quantized.losses,
        loss_pixel=(recon - image).abs().mean() + (recon - image).square().mean(),
        loss_perceptual=head.perceptual(recon, image),
        loss_gan=0.5 * nonsaturating_generator_loss(twin.discriminator(recon)),
        loss_source=0.5 * source,
        loss_align=16 * divergence,
    )
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, msg=lambda m, n=name: n + m)
    assert torch.equal(outputs['real'], image)
    torch.testing.assert_close(outputs['fake'], recon)
    assert not outputs['fake'].requires_grad


def test_one_view_serves_the_alignment_too() -> None:
    model = build_model()
    (image,), samples = prepared(model, batch(views=1))
    seen: list = []
    model.backbone.encode = spy(model.backbone.encode, seen)
    losses, _ = model.generator_losses(image, samples)  # a bare tensor
    (merged,) = seen  # encoded once
    terms = model.head.alignment(merged.cls, model.target_generator(image))
    torch.testing.assert_close(losses['loss_align'], terms['loss_align'])


def spy(function: Any, results: list) -> Any:
    """The function, with its results noted."""

    def call(*args: Any, **kwargs: Any) -> Any:
        results.append(function(*args, **kwargs))
        return results[-1]

    return call


# -------------------------------------------------------------- the discriminator


def test_discriminator_learns_from_the_same_detached_reconstruction() -> None:
    model = build_model()
    wrappers = optimizers(model)
    made, during = [], {}
    model.decoder.register_forward_hook(lambda *args: made.append(args[2]))
    losses_of = model.discriminator_losses

    def watch(outputs: dict) -> dict:
        during['outputs'] = outputs
        during['gradients'] = [p.grad for p in model.discriminator.parameters()]
        during['learned'] = [p.requires_grad for p in model.discriminator.parameters()]
        before = copy.deepcopy(model.discriminator)
        during['losses'] = losses_of(outputs)
        during['before'] = before
        return during['losses']

    model.discriminator_losses = watch
    log = model.train_step(batch(), wrappers)
    (recon,) = made
    fake = during['outputs']['fake']
    assert torch.equal(fake, recon) and not fake.requires_grad
    # The generator's backward pass left nothing in the discriminator …
    assert during['gradients'] == [None] * 6 and all(during['learned'])
    # … nor the discriminator's in the generator, whose optimizer cleared its own.
    assert all(p.grad is None for p in model.decoder.parameters())
    real, fake = (during['before'](during['outputs'][k]) for k in ('real', 'fake'))
    hinge = hinge_discriminator_loss(real, fake)
    torch.testing.assert_close(log['loss_d_hinge'], hinge)
    assert log['loss_discriminator'] == log['loss_d_hinge'] + log['loss_d_lecam']
    torch.testing.assert_close(model.lecam.real_mean, real.mean().detach())
    torch.testing.assert_close(log['d_fake'], fake.mean().detach())
    # `loss` is the generator's alone.
    total = sum(v for k, v in log.items() if k.startswith('loss_') and '_d' not in k)
    torch.testing.assert_close(log['loss'], total)


def test_discriminator_waits_for_its_start(hub: MessageHub) -> None:
    model = build_model(discriminator_start=2)
    wrappers = optimizers(model)
    for iteration in range(4):
        hub.update_info('iter', iteration)
        before = clone_state(model)
        log = model.train_step(batch(iteration), wrappers)
        started = iteration >= 2
        assert ('loss_gan' in log) == ('loss_d_hinge' in log) == started
        assert ('discriminator' in moved(before, model)) == started
        assert bool(model.lecam.initialized) == started
        assert moved(before, model) >= {'backbone', 'quantizer', 'neck', 'decoder'}


def test_without_a_discriminator() -> None:
    model = build_model(discriminator=None)
    log = model.train_step(batch(), optimizers(model))
    assert log['nonfinite'] == 0 and 'loss_gan' not in log
    assert not any(name.startswith('loss_d') for name in log)


# -------------------------------------------------------------------- train_step


@pytest.mark.parametrize('clip', [None, 0.05])
def test_accumulation_equals_one_step_with_the_mean(
    hub: MessageHub, clip: float | None
) -> None:
    model = build_model()
    twin = copy.deepcopy(model)
    kwargs = dict(clip_grad=dict(max_norm=clip)) if clip else {}
    wrappers = optimizers(model, accumulative_counts=2, **kwargs)
    first = clone_state(model)
    for i in range(2):
        hub.update_info('iter', i)
        model.train_step(batch(i), wrappers)
        changed = moved({k: first[k] for k, _ in model.named_parameters()}, model)
        assert bool(changed) == (i == 1)

    # By hand: no wrappers, gradients of (a + b) / 2, then one step of each side.
    for i in range(2):
        hub.update_info('iter', i)
        twin.discriminator.requires_grad_(False)
        losses, outputs = twin.generator_losses(*prepared(twin, batch(i)))
        (sum(v for k, v in losses.items() if 'loss' in k) / 2).backward()
        twin.discriminator.requires_grad_(True)
        losses = twin.discriminator_losses(outputs)
        (losses['loss_d_hinge'] + losses['loss_d_lecam']).div(2).backward()
    for wrapper in optimizers(twin).values():
        parameters = wrapper.optimizer.param_groups[0]['params']
        if clip:
            norm = nn.utils.clip_grad_norm_(parameters, clip)
            assert norm > clip
        wrapper.optimizer.step()
    for name, value in twin.state_dict().items():
        found = model.state_dict()[name]
        torch.testing.assert_close(found, value, msg=lambda m, n=name: n + m)


def test_clipping_bounds_the_step_of_each_side() -> None:
    model = build_model()
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    wrappers = optimizers(model, lr=1.0, clip_grad=dict(max_norm=0.01))
    model.train_step(batch(), wrappers)
    squares = {'generator': 0.0, 'discriminator': 0.0}
    for name, parameter in model.named_parameters():
        side = 'discriminator' if 'discriminator' in name else 'generator'
        squares[side] += (parameter.detach() - before[name]).square().sum().item()
    for square in squares.values():
        assert square**0.5 == pytest.approx(0.01, rel=1e-3)


class BFloat16Wrapper(OptimWrapper):
    """mmengine's ``AmpOptimWrapper`` refuses CPUs."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def test_bfloat16_keeps_its_float32_islands(hub: MessageHub) -> None:
    model = build_model()
    wrappers = optimizers(model, BFloat16Wrapper, lr=0.01)
    seen: dict[str, list] = {'z': [], 'recon': [], 'logits': []}

    def note(name: str) -> Any:
        return lambda module, args, out: seen[name].append(out.dtype)

    model.quantizer.projection.register_forward_hook(note('z'))
    model.decoder.register_forward_hook(note('recon'))
    model.discriminator.register_forward_hook(note('logits'))
    inner = model.quantizer.losses

    def losses_of(z: Tensor) -> dict[str, Tensor]:
        assert z.dtype == torch.float32 and not torch.is_autocast_enabled('cpu')
        losses = inner(z)
        for value in losses.values():
            assert value.dtype == torch.float32
        # The same from the formula in double precision.
        p = torch.sigmoid(4 * z.double().flatten(0, 1))  # temperature 1
        entropy = -(p * p.log() + (1 - p) * (1 - p).log()).sum(1).mean()
        bits = losses['token_entropy'].double() * torch.log(torch.tensor(2.0))
        torch.testing.assert_close(bits, entropy, rtol=1e-5, atol=1e-6)
        return losses

    model.quantizer.losses = losses_of
    for i in range(3):
        hub.update_info('iter', i)
        log = model.train_step(batch(i), wrappers)
        assert log['nonfinite'] == 0
        for name, value in log.items():
            assert value.isfinite(), name
            assert value.dtype == torch.float32 or 'loss' not in name, name
    # The networks did run in bfloat16.
    assert set(seen['z']) == set(seen['recon']) == {torch.bfloat16}
    assert set(seen['logits']) == {torch.bfloat16}
    assert all(p.isfinite().all() for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.gpu
def test_float16_with_a_scaler() -> None:
    model = build_model().cuda()
    wrappers = optimizers(model, AmpOptimWrapper, lr=1e-3, loss_scale=2.0**10)
    before = clone_state(model)
    log = model.train_step(batch(), wrappers)
    assert log['nonfinite'] == 0
    assert moved(before, model) >= {'backbone', 'decoder', 'discriminator'}
    assert all(p.isfinite().all() for p in model.parameters())
    # Gradients that overflow are dropped by the scaler, and the scale falls.
    wrappers = optimizers(
        model, AmpOptimWrapper, loss_scale=dict(init_scale=2.0**60, growth_interval=1)
    )
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    log = model.train_step(batch(), wrappers)
    assert log['nonfinite'] == 0
    assert not moved(before, model)
    for wrapper in wrappers.values():
        assert wrapper.loss_scaler.get_scale() == 2.0**59


# ------------------------------------------------------------------ NaN and inf


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('view', [0, 1])
def test_a_bad_batch_changes_nothing(hub: MessageHub, value: float, view: int) -> None:
    model = build_model(head=dict(model_cfg()['head'], **DINO, pixel=dict(l2=1.0)))
    model.target_generator = copy.deepcopy(model.head.alignment.projector)
    model.target_generator.forward = lambda *args: torch.randn(2, 10)
    wrappers = optimizers(model)
    model.train_step(batch(), wrappers)
    before = clone_state(model)
    hub.update_info('iter', 1)
    data = batch(1)
    data['inputs'][view][1, 0, 3, 3] = value
    log = model.train_step(data, wrappers)
    assert log['nonfinite'] == 1
    assert not moved(before, model)
    assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad for p in model.discriminator.parameters())
    assert model.train_step(batch(2), wrappers)['nonfinite'] == 0
    assert moved(before, model) >= {'backbone', 'discriminator', 'lecam'}


def test_a_bad_batch_does_not_count_in_the_accumulation(hub: MessageHub) -> None:
    models = [build_model()]
    models.append(copy.deepcopy(models[0]))
    bad = batch(9)
    bad['inputs'][0][:] = float('nan')
    for model, sequence in zip(models, [(0, None, 1), (0, 1)]):
        wrappers = optimizers(model, accumulative_counts=2)
        for seed in sequence:
            hub.update_info('iter', seed or 0)
            data = copy.deepcopy(bad) if seed is None else batch(seed)
            model.train_step(data, wrappers)
    first, second = (m.state_dict() for m in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_bad_discriminator_is_skipped_with_its_buffers() -> None:
    model = build_model()
    losses_of = model.discriminator_losses

    def spoil(outputs: dict) -> dict:
        losses = losses_of(outputs)
        losses['loss_d_hinge'] = losses['loss_d_hinge'] * float('nan')
        return losses

    model.discriminator_losses = spoil
    before = clone_state(model)
    log = model.train_step(batch(), optimizers(model))
    assert log['nonfinite'] == 1
    assert not moved(before, model), 'the iteration is skipped on both sides'


# ------------------------------------------------------------- K and the two views


def test_keep_is_a_function_of_the_iteration(hub: MessageHub) -> None:
    sampler = KeepSampler(9, candidates=[6, 9, 12, 16], family='uniform')
    drawn = {}
    for start in (0, 6):  # a second model takes over after a "resume"
        model = build_model()
        seen: list = []
        model.backbone.encode = spy(model.backbone.encode, seen)
        for iteration in range(start, 8):
            hub.update_info('iter', iteration)
            losses, _ = model.generator_losses(*prepared(model, batch(views=1)))
            keep = int(losses['keep'])
            assert seen[-1].tokens.shape[1] == keep == sampler(iteration)
            assert drawn.setdefault(iteration, keep) == keep
    assert len(set(drawn.values())) > 1


def test_keep_may_be_one_number_or_all(hub: MessageHub) -> None:
    for keep, expected in ((7, {7}), (None, {LENGTH})):
        sampler = build_model(keep=keep, test_cfg=None).keep_sampler
        assert {sampler(i) for i in range(20)} == expected
        assert sampler.target in expected


def merged_by(model: MergeVQ) -> list[tuple[int, list[int]]]:
    """Filled at each call of the blocks: tokens left at the end, and merged in each."""
    seen: list = []
    plan_of = model.backbone.plan

    def plan(grid: tuple[int, int], *args: Any) -> list[int]:
        removed = list(plan_of(grid, *args))
        seen.append((grid[0] * grid[1] - sum(removed), removed))
        return removed

    model.backbone.plan = plan
    return seen


def square_model(side: int, keep: int, legacy: bool) -> MergeVQ:
    """Twelve layers on ``side`` x ``side`` tokens of one pixel each."""
    arch = dict(stem='patch', embed_dims=8, patch_size=1, num_layers=12, num_heads=2)
    backbone = dict(type='mergevq_mm.MergeVQEncoder', arch=arch, img_size=side)
    decoder = dict(
        type='mergevq_mm.MergeVQDecoder',
        bits=BITS,
        base_channels=8,
        channel_mult=(1,),
        num_res_blocks=1,
        num_layers=1,
        num_heads=2,
    )
    cfg = model_cfg(
        backbone=backbone,
        decoder=decoder,
        neck=dict(type='mergevq_mm.GroupMapRecovery'),
        head=dict(
            type='mergevq_mm.MergeVQHead',
            alignment=dict(in_channels=8, out_channels=DIMS, layers=2),
        ),
        discriminator=None,
        keep=keep,
        legacy_absolute_merge=legacy,
        test_cfg=None,
    )
    cfg['quantizer']['in_channels'] = 8
    return MODELS.build(cfg).train()


@pytest.mark.parametrize(
    ('side', 'view', 'keep', 'share', 'legacy'),
    [  # spec section 8: tokens of the view, 224 px beside images of 256 px
        (32, 28, 256, 196, 24),
        (32, 28, 225, 172, 15),
        (16, 14, 144, 110, 84),
        (16, 14, 64, 49, 6),
        (16, 14, 36, 28, 2),
    ],
)
def test_tokens_of_the_alignment_view(
    side: int, view: int, keep: int, share: int, legacy: int
) -> None:
    for old, expected in ((False, share), (True, legacy)):
        model = square_model(side, keep, old)
        seen = merged_by(model)
        image, other = torch.randn(1, 3, side, side), torch.randn(1, 3, view, view)
        # The teacher's view has its own size.
        losses, _ = model.generator_losses(
            [image, other, torch.randn(1, 3, 8, 8)], None
        )
        assert [left for left, _ in seen] == [keep, expected]
        cls = model.backbone.encode(other, removed=seen[1][1]).cls
        target = model.target_generator(torch.zeros(1, 3, 8, 8))
        assert model.head.alignment(cls, target)['loss_align'].isfinite()
        assert losses['loss_align'].isfinite()


def test_alignment_of_a_small_view_takes_what_the_layers_reach() -> None:
    model = build_model(keep=4)
    seen = merged_by(model)
    views = [torch.randn(1, 3, 8, 8), torch.randn(1, 3, 2, 12), torch.randn(1, 3, 8, 8)]
    model.generator_losses(views, None)  # 4 of 16, so 1.5 of 6: two layers reach 2
    assert [left for left, _ in seen] == [4, 2]


def test_wrapped_projections_are_used_in_both_views() -> None:
    """As LoRA of peft or mmpretrain wraps them: nothing reads the weight beneath."""
    plain, wrapped = build_model(), build_model()
    wrapped.load_state_dict(plain.state_dict())
    generator = torch.Generator().manual_seed(2)
    for layer, adapted in zip(plain.backbone.layers, wrapped.backbone.layers):
        lora = LoRALinear(adapted.attn.qkv, alpha=1, rank=2)
        for part in (lora.lora_down, lora.lora_up):
            nn.init.normal_(part.weight, generator=generator)
        adapted.attn.qkv = lora
        update = lora.scaling * lora.lora_up.weight @ lora.lora_down.weight
        layer.attn.qkv.weight.data += update.detach()
    data = prepared(plain, batch())
    expected, found = (m.generator_losses(*data)[0] for m in (plain, wrapped))
    for name in ('loss_pixel', 'loss_align'):  # of the image, and of the student's view
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
    found['loss_align'].backward()
    for layer in wrapped.backbone.layers:
        assert layer.attn.qkv.lora_down.weight.grad.abs().sum() > 0


# ------------------------------------------------------------------------ teachers


def test_frozen_helpers_are_nowhere() -> None:
    model = build_model()
    model.init_weights()
    assert model.target_generator.model._network and model.head.perceptual is not None
    names = {name.split('.')[0] for name in model.state_dict()}
    sides = {'backbone', 'quantizer', 'neck', 'decoder', 'head', 'discriminator'}
    assert names == {*sides, 'lecam'}
    parameters = {name.split('.')[0] for name, _ in model.named_parameters()}
    assert parameters == sides
    assert not any('perceptual' in name for name in model.state_dict())
    assert list(model.generator_parts()) == list(MergeVQ.GENERATOR_PARTS)


@torch.no_grad()
def test_a_copy_of_another_type_leaves_the_losses_alone() -> None:
    model = build_model()
    data = prepared(model, batch())
    expected = model.generator_losses(*data)[0]
    copied = copy.deepcopy(model).to(torch.bfloat16)
    found = model.generator_losses(*data)[0]
    for name in ('loss_perceptual', 'loss_align'):  # of the two frozen networks
        assert torch.equal(found[name], expected[name])
    frozen = copied.target_generator.model.network
    assert {p.dtype for p in frozen.parameters()} == {torch.bfloat16}


def test_ema_teacher_follows_the_student(hub: MessageHub) -> None:
    teacher = dict(type='mergevq_mm.EMATeacher', momentum=0.25)
    model = build_model(head=DINO, target_generator=teacher)
    with torch.no_grad():
        model.backbone.cls_token.add_(1.0)  # set after the teacher was made
    model.init_weights()
    student = model._students()

    def averages() -> dict[str, Tensor]:
        return clone_state(model.target_generator.average.module)

    expected = clone_state(nn.ModuleDict(student))
    assert all(torch.equal(averages()[k], v) for k, v in expected.items())
    wrappers = optimizers(model, accumulative_counts=2)
    center = torch.zeros(10)
    for i in range(4):
        hub.update_info('iter', i)
        data = batch(i)
        _, _, view = prepared(model, copy.deepcopy(data))[0]
        target = model.target_generator(view)
        assert target.shape == (2, 10) and not target.requires_grad
        log = model.train_step(data, wrappers)
        center = 0.9 * center + 0.1 * target.mean(0)
        torch.testing.assert_close(model.head.alignment.loss_module.center, center)
        assert log['loss_align'] > 0
        if i % 2:  # when the optimizer steps
            for name, value in nn.ModuleDict(student).state_dict().items():
                expected[name] = 0.75 * expected[name] + 0.25 * value
        for name, value in averages().items():
            torch.testing.assert_close(value, expected[name], msg=name)
    state = model.state_dict()
    assert 'target_generator.average.module.backbone.cls_token' in state
    assert not any(p.requires_grad for p in model.target_generator.parameters())
    # A resumed model goes on with the same teacher.
    other = build_model(head=DINO, target_generator=teacher)
    other.init_weights()
    other.load_state_dict(state)
    assert torch.equal(other.target_generator(view), model.target_generator(view))
    assert other.target_generator.average.steps == 3  # the copy and two updates


def test_labels_in_the_place_of_a_teacher() -> None:
    head = dict(
        type='mergevq_mm.MergeVQHead',
        source={},
        alignment=dict(in_channels=DIMS, out_channels=2, layers=2, loss='label'),
    )
    model = build_model(head=head, target_generator=None)
    inputs, samples = prepared(model, batch(number=4, views=1))
    losses, _ = model.generator_losses(inputs, samples)
    cls = model.backbone.encode(inputs[0], int(losses['keep'])).cls
    logits = model.head.alignment.projector(cls)
    labels = torch.tensor([0, 1, 0, 1])
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(losses['loss_align'], expected)
    assert losses['align_acc'] == (logits.argmax(1) == labels).float().mean()
    for without in (None, [DataSample()] * 4):
        with pytest.raises(ValueError, match="no gt_label, .*loss='label'.*; read"):
            model.generator_losses(inputs, without)


def test_the_neck_is_told_of_the_classes() -> None:
    neck = {**model_cfg()['neck'], 'num_classes': 2}
    model, seen = build_model(neck=neck), []
    model.neck.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs['labels']), with_kwargs=True
    )
    inputs, samples = prepared(model, batch(number=4))
    model.generator_losses(inputs, samples)
    assert seen[0].tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match='no gt_label, .*neck.num_classes.*; read'):
        model.generator_losses(inputs, [DataSample()] * 4)


# --------------------------------------------------------------- errors when built


def changed(part: str, **arguments: Any) -> dict:
    return {part: {**model_cfg()[part], **arguments}}


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (dict(keep=3), r'keep=3 cannot be reached from 16 tokens.*; keep more'),
        (dict(keep=17), r'keep=17 lies outside \[1, 16\].*; choose K'),
        (dict(keep=0), r'candidates=\[0\] .*; raise'),
        (dict(keep=dict(target=16, number=3)), 'keep=25 lies outside'),
        (dict(test_cfg=dict(keep=[9, 2])), 'keep=2 cannot be reached'),
        (
            changed('decoder', channel_mult=(1, 1, 2)),
            'decoder of stride 4 does not fit a backbone of stride 2; give',
        ),
        (
            changed('quantizer', bits=8, split=(4, 4)),
            r'neck\.bits=6 does not fit .* \(8 bits\); set it to 8',
        ),
        (changed('neck', bits=8), r'neck\.bits=8 does not fit .*; set it to 6'),
        (
            dict(
                neck=dict(type='mergevq_mm.GroupMapRecovery'),
                test_cfg=dict(keep=[9], predict_source=True),
            ),
            'predict_source=True needs a neck .*; use',
        ),
        (
            dict(
                head=dict(type='mergevq_mm.MergeVQHead'),
                target_generator=dict(type='mergevq_mm.EMATeacher'),
            ),
            'target_generator is given, but no alignment uses it; give head=',
        ),
        (
            changed('quantizer', in_channels=7),
            r'quantizer\.in_channels=7 does not fit',
        ),
    ],
)
def test_parts_that_do_not_fit(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(**overrides)


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (
            dict(target_generator=None),
            r'target_generator=None, but head\.alignment compares .*; give a teacher',
        ),
        (
            changed('head', source=None),
            r'head\.source=None, but nothing else trains the neck SourceRecovery; give',
        ),
        (
            dict(neck=dict(type='mergevq_mm.GroupMapRecovery')),
            r'head\.source is given, but the neck GroupMapRecovery .*; use neck=',
        ),
    ],
)
def test_losses_without_effect_stop_before_training(
    overrides: dict, message: str
) -> None:
    model = build_model(**overrides)  # encodes and decodes, as a published one does
    assert list(model.predict(torch.zeros(1, 3, 8, 8))[0].reconstructions) == [9, 16]
    with pytest.raises(ValueError, match=message):
        model.init_weights()  # what the Runner calls before training
    with pytest.raises(ValueError, match=message):
        model.train_step(batch(), optimizers(model))


def test_what_nothing_trains_is_not_predicted_unless_asked_for() -> None:
    assert build_model().predict_source
    untrained = changed('head', source=None)
    assert not build_model(**untrained).predict_source
    asked = dict(keep=9, predict_source=True)
    assert build_model(**untrained, test_cfg=asked).predict_source


@pytest.mark.parametrize(
    ('keep', 'expected'),
    [
        (9, [9]),
        (0.5, [8]),
        (1.0, [16]),
        ([0.25, 9, 4, 0.25], [4, 9]),
        ((16, 0.5), [16, 8]),
    ],
)
def test_numbers_and_shares_to_evaluate_at(keep: Any, expected: list[int]) -> None:
    model = build_model(test_cfg=dict(keep=keep)).eval()
    (sample,) = model.predict(torch.zeros(1, 3, 8, 8))
    assert list(sample.reconstructions) == expected


def test_shares_to_train_with() -> None:
    sampler = build_model(keep=0.5, test_cfg=None).keep_sampler
    assert (sampler.target, sampler.candidates) == (8, (8,))
    sampler = build_model(keep=dict(target=0.25, candidates=[4, 0.5])).keep_sampler
    assert (sampler.target, sampler.candidates) == (4, (4, 8))


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (dict(test_cfg=dict(keep='9')), r"test_cfg\.keep='9' is no number .*; give"),
        (dict(test_cfg=dict(keep=[9, None])), r'test_cfg\.keep=None is no number'),
        (dict(test_cfg=dict(keep=True)), r'test_cfg\.keep=True is no number'),
        (dict(test_cfg=dict(keep=[])), r'test_cfg\.keep=\[\] names no number .*; give'),
        (dict(test_cfg=dict(keep=1.5)), r'keep=1\.5 is a share outside \(0, 1\]; give'),
        (dict(keep=-0.5), r'keep=-0\.5 is a share outside'),
        (dict(keep='all'), "keep='all' is no number of tokens; give"),
    ],
)
def test_keeps_that_are_no_numbers(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(**overrides)


@torch.no_grad()
def test_prediction_runs_the_stem_once() -> None:
    model = build_model(test_cfg=dict(keep=[4, 9, 16])).eval()
    calls: list = []
    model.backbone.stem.register_forward_hook(lambda *args: calls.append(1))
    model.predict(torch.zeros(1, 3, 8, 8))
    assert len(calls) == 1


# ------------------------------------------------------------------- initialization


@pytest.fixture
def one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A gloo group of one process; its wrapped parts stay on the CPU."""
    # They go to a GPU where there is one, while the rest of a test stays here.
    monkeypatch.setattr(seperate_distributed, 'get_device', lambda: 'cpu')
    store = f'file://{tmp_path}/store'
    torch.distributed.init_process_group(
        'gloo', init_method=store, rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def init_cases(folder: Path) -> dict:
    """Parts whose ``init_cfg`` leaves a trace, one of them a checkpoint."""
    source = MODELS.build(model_cfg()['backbone'])
    with torch.no_grad():
        source.cls_token.fill_(3.0)
    path = folder / 'backbone.pth'
    torch.save(source.state_dict(), path)
    constant = dict(type='Constant', layer='Conv2d', val=0.125)
    return {
        **changed('backbone', init_cfg=dict(type='Pretrained', checkpoint=str(path))),
        **changed('decoder', init_cfg=constant),
        'discriminator': dict(
            type='mmagic.PatchDiscriminator',
            in_channels=3,
            base_channels=32,
            num_conv=1,
            norm_cfg=dict(type='BN'),
            init_cfg=dict(type='normal', gain=0.02),
        ),
    }


def check_initialised(model: MergeVQ) -> None:
    assert (model.backbone.cls_token == 3).all()
    assert (model.decoder.conv_out.weight == 0.125).all()
    convs = [m for m in model.discriminator.modules() if isinstance(m, nn.Conv2d)]
    weight = torch.cat([conv.weight.flatten() for conv in convs[:-1]])
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    norms = [m for m in model.discriminator.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all((norm.bias == 0).all() for norm in norms)
    assert not hasattr(model.backbone, '_params_init_info')


def test_init_weights_reaches_every_part(tmp_path: Path) -> None:
    model = build_model(**init_cases(tmp_path))
    model.init_weights()
    check_initialised(model)
    model.init_weights()  # again, as the Runner does on a model that is ready
    check_initialised(model)


def test_init_weights_reaches_wrapped_parts(tmp_path: Path, one_process: None) -> None:
    model = build_model(**init_cases(tmp_path))
    wrapper = MMSeparateDistributedDataParallel(model, device_ids=None)
    wrapped = {name for name, m in model.named_children() if hasattr(m, 'module')}
    assert wrapped == {*MergeVQ.GENERATOR_PARTS, 'discriminator'}
    wrapper.module.init_weights()
    for name in wrapped:
        setattr(model, name, getattr(model, name).module)
    check_initialised(model)
    assert model.target_generator.model._network  # loaded before the first step


def test_wrapped_parts_train_as_bare_ones(one_process: None) -> None:
    bare = build_model()
    model = copy.deepcopy(bare)
    wrapper = MMSeparateDistributedDataParallel(model, device_ids=None)
    for stepper, owner in ((bare, bare), (wrapper, model)):
        stepper.train_step(batch(), optimizers(owner))
    after = {k.replace('.module.', '.'): v for k, v in model.state_dict().items()}
    for name, value in bare.state_dict().items():
        torch.testing.assert_close(after[name], value, msg=name)
    found = wrapper.val_step(batch(views=1))[0].reconstructions
    assert list(found) == [9, 16]
