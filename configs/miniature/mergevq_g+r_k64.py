# Ablation: MergeVQ (G+R) of the miniature trained with 64 of 64 tokens throughout.
_base_ = ['mergevq_g+r.py']

model = dict(
    keep=dict(_delete_=True, target=64, candidates=[64]),
    test_cfg=dict(keep=[64]),
)
