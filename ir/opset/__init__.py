"""The operators: importing this package fills the table `tunesmith.ir.ops.OPS`."""

from __future__ import annotations

from .activation import *  # noqa: F403
from .attention import *  # noqa: F403
from .control import *  # noqa: F403
from .convolution import *  # noqa: F403
from .data_sizes import *  # noqa: F403
from .math import *  # noqa: F403
from .movement import *  # noqa: F403
from .norm import *  # noqa: F403
from .reduce import *  # noqa: F403
from .storage import *  # noqa: F403
