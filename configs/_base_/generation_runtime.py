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
    class_check=dict(type='mergevq_mm.ClassCheckHook'),
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

# The paper measures FID and IS of 50,000 images with the ADM suite, whose statistics
# of real images are those of the training set. The test takes the same ones: about 2 GB
# that are fetched, or a path,
#   --cfg-options test_evaluator.metrics.0.statistics=VIRTUAL_imagenet256_labeled.npz
# FID and IS come from StyleGAN's file of the same Inception. Its numbers are near the
# suite's, not equal: for a table, give the suite the file of tools/generate.py --npz.
# Without a network give the network a path, too, or drop metrics:
#   --cfg-options test_evaluator.metrics.0.inception_path=FILE
# Validations compare 5,000 images with the validation images: to follow a training,
# not to compare with a paper.
# Precision and recall, which the paper does not report, are mmagic's, on torchvision's
# VGG16 unless work_dirs/cache/vgg16.pt is StyleGAN's, against the validation images.
# All metrics are served by the same images. A batch size (val_dataloader.batch_size)
# that divides the number of images of a GPU makes them exactly images 0 to N - 1.
# Features of any other backbone, with or beside these:
#   dict(type='mergevq_mm.GenerationFrechet', fake_nums=50000,
#        real_stats='work_dirs/real_stats/imagenet_val_dinov2.npz',
#        extractor=dict(type='mergevq_mm.BackboneFeatures', network=dict(...)))
val_cfg = dict(type='MultiValLoop')
val_evaluator = dict(
    type='Evaluator',
    metrics=[
        dict(
            type='mergevq_mm.InceptionFID',
            prefix='FID-5k',
            fake_nums=5000,
            real_stats='work_dirs/real_stats/imagenet_val_256_inception.npz',
        ),
    ],
)

test_cfg = dict(type='MultiTestLoop')
test_evaluator = dict(
    type='Evaluator',
    metrics=[
        dict(
            type='mergevq_mm.InceptionFID',
            prefix='FID-50k',
            fake_nums=50000,
            statistics='https://openaipublic.blob.core.windows.net/diffusion/'
            'jul-2021/ref_batches/imagenet/256/VIRTUAL_imagenet256_labeled.npz',
        ),
        dict(
            type='IS',
            prefix='IS-50k',
            fake_nums=50000,
            inception_style='StyleGAN',
            sample_model='orig',
        ),
        # Without vgg16_pkl, mmagic names its file of real features by the data set.
        dict(
            type='PrecisionAndRecall',
            prefix='PR-10k',
            fake_nums=10000,
            sample_model='orig',
        ),
        # Distinct codes, slots of the cache, passes of the network.
        dict(type='mergevq_mm.GenerationStatistics', fake_nums=50000),
    ],
)
