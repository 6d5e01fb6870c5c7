"""Every error that a user can cause or mend.

    SuperbatchError
    ├── ConfigError      a setting, or a combination of settings, that cannot work
    ├── DataError        data that is missing, broken or not what the settings say
    ├── CheckpointError  a checkpoint that is missing, broken or of another model
    ├── RunError         a run folder that cannot be written, read or continued
    │   └── Failed       work that had begun and cannot be done: a full disk, lost processes
    │       └── Diverged numbers that are not finite any more where finite ones are needed
    ├── LedgerError      a cost that would be counted wrong
    └── Stopped          a run that was asked to stop; its state is on disk

Each message says what was wrong, both values, and the way out. The command line prints the message
without a traceback and exits with 2, or with 1 for work that had begun and failed or was stopped.
"""


class SuperbatchError(Exception):
    """The root: whatever the library refuses with a sentence."""


class ConfigError(SuperbatchError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(SuperbatchError, ValueError):
    """Data that is missing, broken, or not what the settings say it is."""


class CheckpointError(SuperbatchError):
    """A checkpoint that is missing, broken, or of another model."""


class RunError(SuperbatchError):
    """A run folder that cannot be written, read or continued."""


class Failed(RunError):
    """Work that had begun and cannot be done, with nothing wrong in what was asked."""


class Diverged(Failed, DataError):
    """Numbers of a model that are not finite any more, where finite ones are needed."""


class LedgerError(SuperbatchError):
    """A cost that would be counted wrong."""


class Stopped(SuperbatchError):
    """A run that was asked to stop; its state is on disk."""
