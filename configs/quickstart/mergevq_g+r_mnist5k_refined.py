# Recovery and decoder of the quickstart's tokenizer, trained on for codes as generators
# draw them; encoder and codes stay as they are.
#
# Weights   work_dirs/quickstart/epoch_18.pth, of mergevq_g+r_mnist5k.py
# Hardware  two CPU cores
_base_ = ['mergevq_g+r_mnist5k.py']

model = dict(
    type='mergevq_mm.MergeVQRefinement',
    init_cfg=dict(type='Pretrained', checkpoint='work_dirs/quickstart/epoch_18.pth'),
    exchanged=0.1,
    predicted=0.5,
    head=dict(alignment=None),
    target_generator=None,
    discriminator_start=0,
)

optim_wrapper = dict(
    generator=dict(modules=['neck', 'decoder', 'head'], optimizer=dict(lr=1e-3))
)
train_cfg = dict(max_epochs=5, val_interval=5)
