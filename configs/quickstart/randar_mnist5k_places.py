# The quickstart's RandAR without merging: a code for each of the 64 places, in random
# order. It needs no source recovery, and an edit keeps all places outside of a region.
#
# Data      codes at K = 64 (tools/extract_codes.py ... --keep 64, see the data set)
_base_ = ['randar_mnist5k.py']

model = dict(
    first_places=False,  # they are all known
    keep=dict(_delete_=True, target=64, candidates=[64]),
    sample_cfg=dict(num_steps=32),
)
