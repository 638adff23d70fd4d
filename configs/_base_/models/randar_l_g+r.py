# RandAR on the codes of MergeVQ (G+R), LlamaGen's size L.
model = dict(
    type='mergevq_mm.RandAR',
    tokenizer=dict(
        type='mergevq_mm.FrozenTokenizer',
        model='configs/mergevq_g+r.py',
        checkpoint='work_dirs/mergevq_g+r/epoch_270.pth',
    ),
    arch='L',
    num_classes=1000,
    keep=dict(target=144, family='exponential', number=5),
    class_dropout=0.1,
    dropout=0.1,
    # The paper draws 144 tokens in 64 steps. Its guidance weight, the best one of a
    # sweep in steps of 0.1, is not published: sweep model.sample_cfg.guidance.
    sample_cfg=dict(num_steps=64, guidance=2.0, guidance_schedule='linear'),
)
