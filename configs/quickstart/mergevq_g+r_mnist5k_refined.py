# Recovery and decoder of the quickstart's tokenizer, trained on for maps that are
# predicted; encoder and codes stay as they are. What it is worth and what it costs:
# docs/measurements.md.
#
# Weights   work_dirs/quickstart/epoch_18.pth, of mergevq_g+r_mnist5k.py
# Hardware  one CPU core, 5 minutes
# Run by us yes, on a tokenizer of that config whose neck was trained anew
_base_ = ['mergevq_g+r_mnist5k.py']

model = dict(
    type='mergevq_mm.MergeVQRefinement',
    init_cfg=dict(type='Pretrained', checkpoint='work_dirs/quickstart/epoch_18.pth'),
    predicted=0.5,
    head=dict(alignment=None),
    target_generator=None,
    discriminator_start=0,
)

optim_wrapper = dict(
    generator=dict(modules=['neck', 'decoder', 'head'], optimizer=dict(lr=1e-3))
)
train_cfg = dict(max_epochs=5, val_interval=5)
