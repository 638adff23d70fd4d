# Ablation: MergeVQ (G+R) of the miniature trained with 16 of 64 tokens throughout.
_base_ = ['mergevq_g+r.py']

model = dict(
    keep=dict(_delete_=True, target=16, candidates=[16]),
    test_cfg=dict(keep=[16, 64]),
)
