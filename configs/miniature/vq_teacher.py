# Ablation: the plain VQ tokenizer with the alignment of G+R.
_base_ = ['mergevq_g+r.py']

model = dict(
    neck=dict(_delete_=True, type='mergevq_mm.GroupMapRecovery'),
    head=dict(source=None),
    keep=dict(_delete_=True, target=64, candidates=[64]),
    test_cfg=dict(keep=[64]),
)
