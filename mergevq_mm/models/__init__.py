"""Models: the parts, and the algorithms that they make."""

from .backbones import *  # noqa: F403
from .decoders import *  # noqa: F403
from .generators import *  # noqa: F403
from .heads import *  # noqa: F403
from .losses import *  # noqa: F403
from .necks import *  # noqa: F403
from .quantizers import *  # noqa: F403
from .selfsup import *  # noqa: F403
from .target_generators import *  # noqa: F403
