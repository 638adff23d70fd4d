# k-NN of MergeVQ (G+R): class token, merging on, 144 of 256 tokens.
_base_ = ['mergevq-g+r_cls_knn_in1k.py']

model = dict(backbone=dict(keep=144))
