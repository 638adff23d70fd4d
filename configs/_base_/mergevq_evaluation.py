# What validation and test report, at each K of `model.test_cfg.keep`: the metrics
# without weights, LPIPS (AlexNet) and rFID by the authors' protocol (pytorch-fid's
# Inception). The test also measures rFID with the predicted source map.
#
# The weights are downloaded before the training starts. Without a network name files:
#   LPIPS_WEIGHTS=FILE INCEPTION_WEIGHTS=FILE python tools/train.py ...
# A download that fails leaves its metric out with a warning; required=True makes it an
# error.
_base_ = ['reconstruction_metrics.py']

lpips_weights = (
    '{{$LPIPS_WEIGHTS:https://download.pytorch.org/models/alexnet-owt-7be5be79.pth}}'  # noqa: E501
)
inception_weights = '{{$INCEPTION_WEIGHTS:https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth}}'  # noqa: E501
lpips = dict(type='mergevq_mm.LPIPSMetric', net='alex', checkpoint=lpips_weights)
rfid = dict(
    type='mergevq_mm.FrechetMetric',
    extractor=dict(type='mergevq_mm.InceptionFeatures', checkpoint=inception_weights),
)

val_evaluator = _base_.val_evaluator + [lpips, dict(**rfid, predicted=False)]
test_evaluator = _base_.val_evaluator + [lpips, rfid]
