# Runtime of stage 1: mmpretrain's, with checkpoints that survive and the averaged
# generator side. `custom_imports` makes the types known to any OpenMMLab tool.
_base_ = ['mmpretrain::_base_/default_runtime.py']

custom_imports = dict(imports=['mergevq_mm'], allow_failed_imports=False)

default_hooks = dict(
    logger=dict(interval=50),
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

custom_hooks = [
    dict(type='mergevq_mm.RunStateHook'),
    dict(type='mergevq_mm.NaNGuardHook', max_skips=3),
    dict(type='mergevq_mm.GeneratorEMAHook', momentum=0.001),
    dict(type='mergevq_mm.ReconstructionVisualizationHook', num_images=8),
]

# Each part with parameters is wrapped on its own; all of them are used in each step.
model_wrapper_cfg = dict(
    type='mmengine.MMSeparateDistributedDataParallel',
    broadcast_buffers=False,
    find_unused_parameters=False,
)

# Order of the data and initial weights; which K an iteration keeps has a seed of its
# own, model.keep.seed.
randomness = dict(seed=0)
