# Linear probe of the quickstart's tokenizer: class token, 16 of 64 tokens.
_base_ = ['mergevq-g+r_cls_1xb100-linear-30e_mnist5k.py']

model = dict(backbone=dict(keep=16))
