# MergeAR on the codes of MergeVQ (G+R), LlamaGen's size L.
model = dict(
    type='mergevq_mm.MergeAR',
    tokenizer=dict(
        type='mergevq_mm.FrozenTokenizer',
        model='configs/mergevq_g+r.py',
        checkpoint='work_dirs/mergevq_g+r/epoch_270.pth',
    ),
    arch='L',
    num_classes=1000,
    # K = 144, 169, 196, 225, 256, mostly 144 (paper: from [144, 256]).
    keep=dict(target=144, family='exponential', number=5),
    sequence='raster',
    window=2,
    class_dropout=0.1,
    dropout=0.1,
    # Guidance of the two parts of a code, as the authors' script has it for L. The
    # paper says that it has none, but the IS that it reports (about 254) is what
    # generators of this kind reach with guidance; guidance=1.0 is none.
    sample_cfg=dict(cache='compressed', guidance=[1.9, 2.0]),
)
