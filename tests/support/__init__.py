"""What several tests share: settings, models, studies, pages, children to be killed."""

from pathlib import Path

ROOT = Path(__file__).parents[2]  # the repository's
