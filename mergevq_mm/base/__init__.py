"""What our classes derive from: OpenMMLab's where it is, else a small one of our own.

With OpenMMLab installed (:func:`~mergevq_mm.base.tier.has_openmmlab`) each file
of this room hands on its classes and functions, the very same objects, so that our
models are models of mmengine and mmpretrain. Without it :mod:`.small` has what a
trained model needs, and the rest says in one sentence what to install.

============== =========================================================================
``tier``       which of the two is installed, and the sentences of the other one
``module``     ``BaseModule``, ``BaseModel``, ``BaseDataPreprocessor``
``algorithm``  mmpretrain's ``BaseBackbone`` and ``BaseSelfSupervisor``
``registry``   ``Registry``, its roots, ``DefaultScope``
``config``     ``Config``
``inferencer`` ``BaseInferencer``
``fileio``     reading files
``process``    device, ranks, log, iteration of the run
============== =========================================================================

What only training needs is imported where it is needed, and not here. A type checker
reads the small classes, as OpenMMLab's have no types. Nothing of this room imports
another one.
"""
