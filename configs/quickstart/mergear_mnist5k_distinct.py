# The quickstart's MergeAR that draws the K codes alone, each with the place where its
# group begins; source recovery finds the other places. Half the passes of the raster.
#
# Data      codes at K = 32 (tools/extract_codes.py ... --keep 32, see the data set)
_base_ = ['mergear_mnist5k.py']

model = dict(
    sequence='distinct',
    first_places=True,
    keep=dict(_delete_=True, target=32, candidates=[32]),
)
train_cfg = dict(max_epochs=9, val_interval=9)
