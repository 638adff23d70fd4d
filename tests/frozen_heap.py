"""Imported last in a process that is to be forked: spares what is there by then.

mmengine collects garbage for each data set, which takes half a second among the objects
of torch, mmpretrain and mmagic; a fork would copy the pages of all of them for it.
"""

import gc

gc.collect()
gc.freeze()
