"""What a started interpreter needs to know of this package: when to import it.

Installing puts this file beside the package as ``mergevq_mm_startup``, and a ``.pth``
file that imports it. The first import of a package of the stack then imports
``mergevq_mm``, so that its measures come first in whatever order a script has its
imports. Nothing is imported before that, and nothing where none of them is.
"""

import sys

STACK = {'mim', 'mmagic', 'mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg'}
STACK |= {'torchvision'}


class FirstOfStack:
    """A finder that waits for the stack; finds nothing itself."""

    waits = True

    def find_spec(self, fullname, path=None, target=None):
        """Import ``mergevq_mm`` before a package of the stack, and step aside."""
        if not self.waits or fullname not in STACK:
            return None
        # It stays in the list: who takes a finder out while another thread goes through
        # the list lets that one pass over the next finder.
        self.waits = False
        import importlib.util  # not at the start of every interpreter

        try:
            import mergevq_mm  # noqa: F401
        except Exception:
            return None  # Who asks for mergevq_mm will see what is wrong with it.
        return importlib.util.find_spec(fullname)


sys.meta_path.insert(0, FirstOfStack())
