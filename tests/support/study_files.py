"""The study files of conf/study and the scales of each."""

from support.config import choices

NAMES = choices("study")
SCALES = ("mini", "small", "paper")
EACH = [(name, scale) for name in NAMES for scale in SCALES]
