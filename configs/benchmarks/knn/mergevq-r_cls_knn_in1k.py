# k-NN of MergeVQ (R): class token, merging off.
_base_ = ['mergevq-g+r_cls_knn_in1k.py']

model = dict(backbone=dict(arch='r-base'))
