"""A progress that keeps what it is told."""

from contextlib import contextmanager


class StageRecorder:
    """Keeps the names of the stages, and how far each got."""

    def __init__(self):
        self.stages, self.updates = [], []

    @contextmanager
    def stage(self, name):
        """Enter a stage."""
        self.stages.append(name)
        yield lambda done, total, message="": self.updates.append((name, done, total))
