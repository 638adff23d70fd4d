# Linear probe of MergeVQ (G+R): mean of the tokens, merging on, 144 of 256 tokens.
_base_ = ['mergevq-g+r_avg_8xb128-linear-90e_in1k.py']

model = dict(backbone=dict(keep=144))
