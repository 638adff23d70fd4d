# MergeAR that draws the K codes alone, each with the place where its group begins;
# source recovery finds the other places. Half the passes of the raster.
#
# Data      codes at K = 32 (tools/extract_codes.py ... --keep 32, see the data set)
# Hardware  two CPU cores
# Run by us seed 0, by `bash tools/emoji.sh`; the numbers stand in docs/emoji.md
_base_ = ['mergear_emoji.py']

model = dict(
    sequence='distinct',
    first_places=True,
    # More guidance, or more freedom, is worse here, where it helps the raster.
    sample_cfg=dict(temperature=0.7, guidance=3.0),
    keep=dict(_delete_=True, target=32, candidates=[32]),
)
