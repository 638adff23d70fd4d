# MergeVQ (R) trained around 64 tokens, as the authors' code does (paper: 36).
_base_ = ['mergevq_r.py']

model = dict(
    keep=dict(target=64, family='gaussian', number=6),
    test_cfg=dict(keep=[64, 144]),
)
