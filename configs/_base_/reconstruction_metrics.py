# What needs no weights: PSNR and SSIM, use of the codebook, accuracy of the predicted
# source map, at each K of `model.test_cfg.keep`.
val_evaluator = [
    dict(type='mergevq_mm.ReconstructionMetric'),
    dict(type='mergevq_mm.CodebookMetric'),
    dict(type='mergevq_mm.SourceRecoveryMetric'),
]
test_evaluator = val_evaluator
