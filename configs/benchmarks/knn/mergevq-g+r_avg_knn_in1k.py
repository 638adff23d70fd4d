# k-NN of MergeVQ (G+R): mean of the tokens, merging off.
_base_ = ['mergevq-g+r_cls_knn_in1k.py']

model = dict(backbone=dict(out_type='avg_featmap'))
