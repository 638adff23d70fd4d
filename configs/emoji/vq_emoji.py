# Baseline: a plain VQ tokenizer of the emoji. Networks and recipe of G+R; all 64 tokens
# always, no teacher, no source to recover.
#
# Data      as mergevq_g+r_emoji.py
# Hardware  two CPU cores
# Run by us seed 0; the numbers stand in docs/emoji.md
_base_ = ['mergevq_g+r_emoji.py']

model = dict(
    neck=dict(_delete_=True, type='mergevq_mm.GroupMapRecovery'),
    head=dict(source=None, alignment=None),
    target_generator=None,
    keep=dict(_delete_=True, target=64, candidates=[64]),
    test_cfg=dict(keep=[64]),
)
