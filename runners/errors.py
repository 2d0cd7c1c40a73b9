"""The one exception tree: every error a user can cause says what arrived, what was wanted and what to do next.

ParityError
  CaseError            a case
  CheckpointError      weights
  ConfigError          a configuration
  ShapeError           tensors
  StageInputError      a stage of the model (a ValueError, too)
  RunnerError          a runner
  RunError             a run or golden
  RegistryError        limits, speed baselines
    OutOfTimeError     what a sitting has no time left to measure
  MediaError           pictures, videos
  OutputError          a file or folder to write
  OutOfMemoryError     the device, or this process
"""


class ParityError(Exception):
    """Root of everything this project raises on purpose; the command line turns it into one sentence and exit 2.

    `engine_traceback` is that of an engine's code, where that is what failed, in whichever process; else empty.
    """

    engine_traceback: str = ""


class CaseError(ParityError):
    """A case file, or an override of one, that does not describe a runnable request."""


class CheckpointError(ParityError):
    """Weights that are missing, damaged, of another model version, or not the shape their configuration says."""


class ConfigError(ParityError):
    """A model or run configuration whose values contradict each other or lie outside what is supported."""


class ShapeError(ParityError):
    """Two tensors, or a tensor and a request, whose shapes do not belong together."""


class StageInputError(ParityError, ValueError):
    """A stage lacks something that an earlier stage should have left in the batch."""


class RunnerError(ParityError):
    """A runner that is unknown, not installed, or asked for a switch, tap or device it does not offer."""


class RunError(ParityError):
    """A run folder or golden that is incomplete, damaged, of another schema, or of another case."""


class RegistryError(ParityError):
    """A threshold or performance registry with unknown keys, missing entries or a refused loosening."""


class OutOfTimeError(RegistryError):
    """A calibration whose minutes are over before its next member; what was measured is kept."""


class MediaError(ParityError):
    """An image that cannot be decoded, or a video that cannot be written."""


class OutputError(ParityError):
    """A place to write that is not free: a device, a link, somebody else's folder, a finished run."""


class OutOfMemoryError(ParityError):
    """The device had too little memory for the request, or this process may take too little."""
