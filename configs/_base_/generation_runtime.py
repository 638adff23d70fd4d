# Runtime of stage 2: mmagic's, counted in epochs, with checkpoints that survive and
# mmagic's loops and metrics of generated images.
_base_ = ['mmagic::_base_/gen_default_runtime.py']

custom_imports = dict(imports=['mergevq_mm'], allow_failed_imports=False)

default_hooks = dict(
    logger=dict(interval=100, log_metric_by_epoch=True),
    checkpoint=dict(
        _delete_=True,
        type='mergevq_mm.SafeCheckpointHook',
        interval=1,
        max_keep_ckpts=3,
    ),
    # SIGTERM and Ctrl-C save before they end the run; a second run in this work_dir is
    # refused; images that cannot be read are listed; a resumed run says which schedules
    # it follows (docs/reliability.md).
    preemption=dict(type='mergevq_mm.PreemptionHook'),
    work_dir_lock=dict(type='mergevq_mm.WorkDirLockHook'),
    damaged_files=dict(type='mergevq_mm.DamagedFilesHook'),
    resumed_schedules=dict(type='mergevq_mm.ResumedSchedulesHook'),
)
log_processor = dict(by_epoch=True)

custom_hooks = [
    dict(type='mergevq_mm.RunStateHook'),
    dict(type='mergevq_mm.TokenizerCheckHook'),
    dict(type='mergevq_mm.NaNGuardHook', max_skips=3),
    dict(type='mergevq_mm.SampleVisualizationHook', num_images=32),
]

# One loss, one wrapper; it skips steps whose loss is not finite.
model_wrapper_cfg = dict(
    _delete_=True,
    type='mergevq_mm.GuardedDistributedDataParallel',
    broadcast_buffers=False,
    find_unused_parameters=False,
)

# Order of the data, dropout and initial weights. Ranks drop different classes; which K
# an iteration learns has a seed of its own (model.keep.seed), generated images too
# (model.sample_cfg.seed).
randomness = dict(seed=0, diff_rank_seed=True)

# Generated images against the validation images. mmagic fetches StyleGAN's Inception
# (FID and IS) into its cache, and torchvision's VGG16 (precision and recall) unless
# work_dirs/cache/vgg16.pt is StyleGAN's; without a network give paths, or drop metrics:
#   --cfg-options test_evaluator.metrics.0.inception_path=FILE
# All metrics are served by the same images. A batch size (val_dataloader.batch_size)
# that divides the number of images of a GPU makes them exactly images 0 to N - 1.
# Features of any other backbone, with or beside these:
#   dict(type='mergevq_mm.GenerationFrechet', fake_nums=50000,
#        real_stats='work_dirs/real_stats/imagenet_val_dinov2.npz',
#        extractor=dict(type='mergevq_mm.BackboneFeatures', network=dict(...)))
real_inception = 'work_dirs/real_stats/imagenet_val_256_inception.pkl'

val_cfg = dict(type='MultiValLoop')
val_evaluator = dict(
    type='Evaluator',
    metrics=[
        dict(
            type='FID',
            prefix='FID-5k',
            fake_nums=5000,
            inception_style='StyleGAN',
            inception_pkl=real_inception,
            sample_model='orig',
        ),
    ],
)

test_cfg = dict(type='MultiTestLoop')
test_evaluator = dict(
    type='Evaluator',
    metrics=[
        dict(
            type='FID',
            prefix='FID-50k',
            fake_nums=50000,
            inception_style='StyleGAN',
            inception_pkl=real_inception,
            sample_model='orig',
        ),
        dict(
            type='IS',
            prefix='IS-50k',
            fake_nums=50000,
            inception_style='StyleGAN',
            sample_model='orig',
        ),
        dict(
            type='PrecisionAndRecall',
            prefix='PR-10k',
            fake_nums=10000,
            vgg16_pkl='work_dirs/real_stats/imagenet_val_256_vgg16.pkl',
            sample_model='orig',
        ),
        # Distinct codes, slots of the cache, passes of the network.
        dict(type='mergevq_mm.GenerationStatistics', fake_nums=50000),
    ],
)
