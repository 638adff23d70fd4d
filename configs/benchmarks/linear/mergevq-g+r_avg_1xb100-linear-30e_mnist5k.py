# Linear probe of the quickstart's tokenizer: mean of the tokens, merging off.
_base_ = ['mergevq-g+r_cls_1xb100-linear-30e_mnist5k.py']

model = dict(backbone=dict(out_type='avg_featmap'))
