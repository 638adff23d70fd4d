# Linear probe of MergeVQ (G): mean of the tokens, 256 of 1,024 tokens.
_base_ = ['mergevq-g_avg_8xb128-linear-90e_in1k.py']

model = dict(backbone=dict(keep=256))
