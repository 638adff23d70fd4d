# What validation and test report, at each K of `model.test_cfg.keep`.
#
# LPIPS and rFID need weights that are not shipped; add them where they are there:
#   dict(type='mergevq_mm.LPIPSMetric', net='alex', checkpoint=FILE),
#   dict(type='mergevq_mm.FrechetMetric',
#        extractor=dict(type='mergevq_mm.InceptionFeatures', checkpoint=FILE)),
val_evaluator = [
    dict(type='mergevq_mm.ReconstructionMetric'),
    dict(type='mergevq_mm.CodebookMetric', bits=18),
    dict(type='mergevq_mm.SourceRecoveryMetric'),
]
test_evaluator = val_evaluator
