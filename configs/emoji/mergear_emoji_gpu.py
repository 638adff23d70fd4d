# The MergeAR of the emoji for one GPU, on the codes of mergevq_g+r_emoji_gpu.py.
#
# Data      data/emoji/codes_gpu, written by tools/extract_codes.py
# Hardware  1 GPU of 80 GB; meant for ten minutes, not measured
# Run by us no (needs a GPU); the tests run it shrunk
_base_ = ['mergear_emoji.py']

model = dict(
    tokenizer=dict(
        model='configs/emoji/mergevq_g+r_emoji_gpu.py',
        checkpoint='work_dirs/mergevq_g+r_emoji_gpu/epoch_300.pth',
    ),
    arch=dict(embed_dims=512, num_layers=12, num_heads=8),
)
optim_wrapper = dict(optimizer=dict(lr=6e-4))
train_dataloader = dict(
    batch_size=256,
    num_workers=8,
    persistent_workers=True,
    dataset=dict(root=_base_.data_root + '/codes_gpu'),
)
auto_scale_lr = dict(base_batch_size=256)
train_cfg = dict(max_epochs=200, val_interval=200)
default_hooks = dict(checkpoint=dict(interval=50))
