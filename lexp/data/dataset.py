"""What `dataset=` names: texts, or an algorithmic task."""


class Dataset:
    """The base class of corpora (texts) and of tasks (problems with right answers)."""
