# Ablation: MergeVQ (G+R) of the miniature trained with 9 of 64 tokens throughout.
_base_ = ['mergevq_g+r.py']

model = dict(
    keep=dict(_delete_=True, target=9, candidates=[9]),
    test_cfg=dict(keep=[9, 64]),
)
