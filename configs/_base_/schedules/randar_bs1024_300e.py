# As MergeAR's, but with RandAR's cosine: 50,000 steps of warm-up (40 epochs of 1,251
# steps), then down to 5 % (spec section 11.3).
_base_ = ['./mergear_bs1024_300e.py']

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.001,
        by_epoch=True,
        end=40,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=40,
        end=300,
        eta_min_ratio=0.05,
        convert_to_iter_based=True,
    ),
]
