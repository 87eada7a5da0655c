"""The papers' formulas in float64 with naive loops, one function per scheme, named as its config.

Each takes queries and keys of one head [T, D], the head's index and their number, the scheme's
parameters and other numbers by name, learned or not, and the layer's input x [T, d_model], and
returns the T x T scores before masking and softmax.
Nothing here calls lexp.
"""

from oracles.base import *  # noqa: F403
from oracles.biases import *  # noqa: F403
from oracles.both_sides import *  # noqa: F403
from oracles.content import *  # noqa: F403
from oracles.masks import *  # noqa: F403
from oracles.rotary import *  # noqa: F403
from oracles.selecting import *  # noqa: F403
