# MergeVQ (G+R) with the loss weights of the paper's Table A1 instead of the code's:
# L2 1.0 (not L1), perceptual 0.7 (1.0), adversarial 0.8 (0.1).
#
# Expected  as mergevq_g+r.py; the paper does not say which weights its numbers are of
# Run by us no (needs ImageNet and GPUs); the tests run it shrunk
_base_ = ['mergevq_g+r.py']

model = dict(
    head=dict(
        pixel=dict(_delete_=True, l2=1.0),
        perceptual=dict(loss_weight=0.7),
        gan_weight=0.8,
    ),
)
