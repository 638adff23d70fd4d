# Ablation: MergeVQ (G+R) of the miniature without the alignment.
_base_ = ['mergevq_g+r.py']

model = dict(head=dict(alignment=None), target_generator=None)
