"""Every error this package raises on purpose.

    MissileError
    ├── ConfigError              a configuration file, environment variable or flag is wrong
    ├── ModelError               one model is at fault; all others go on
    │   ├── ModelNotFoundError
    │   ├── ModelExistsError
    │   ├── ModelUnavailableError  configured, but being loaded, unloaded, or not to be loaded
    │   ├── ModelLoadError       tracing, compiling or profiling failed
    │   │   └── CheckpointError  its parameters cannot be read from disk
    │   └── ModelRaisedError     the model failed while it ran
    ├── RequestError             one request is at fault
    │   ├── InvalidInputError    wrong tree, shape or dtype
    │   ├── UnsupportedShapeError  a shape outside the declared buckets
    │   └── DeadlineExceededError
    ├── DeviceMemoryError        the device has too little memory left
    ├── HostMemoryError          host memory has too little room for a model's parameters
    ├── QueueFullError           too many requests wait
    │   └── OverloadedError      so many that the deadline cannot be met
    ├── ServerBusyError          the server holds as much of requests as it may
    ├── ChannelError             something about VRAM channels
    │   ├── ChannelMapError      a map, or a page's state, is impossible
    │   └── RecoveryError        no map explains what was measured well enough
    ├── PluginError              no PJRT plugin can be wrapped, or not this one
    ├── ArbiterError             the arbiter of a device cannot be reached or started
    ├── AccessError              a client may not do what it asks for
    │   ├── UnauthenticatedError  nobody knows who it is
    │   └── ForbiddenError       it is known, and may not
    ├── RuntimeClosedError       the runtime was closed before the request was done
    └── ServerError              a client had no answer from a server, or an error

Each message says what was wrong, what was received and what is allowed. None knows a transport:
``server`` maps classes to status codes. A cancelled request raises the standard
``concurrent.futures.CancelledError``.
"""


class MissileError(Exception):
    """Base of all errors of this package."""


class ConfigError(MissileError, ValueError):
    """A configuration value is unknown, impossible or contradictory."""


class ModelError(MissileError):
    """Something is wrong with one model; the others are not affected."""


class ModelNotFoundError(ModelError, LookupError):
    """No model of this name is loaded."""


class ModelExistsError(ModelError, ValueError):
    """A model of this name is loaded already."""


class ModelUnavailableError(ModelError):
    """A model that the server is configured for takes no requests; the message says why."""


class ModelLoadError(ModelError):
    """A model could not be traced, compiled or profiled."""


class CheckpointError(ModelLoadError):
    """A model's checkpoint is missing, of another model, or damaged: not what was written."""


class ModelRaisedError(ModelError):
    """A model failed while it ran; ``__cause__`` is the original error."""


class RequestError(MissileError):
    """Something is wrong with one request."""


class InvalidInputError(RequestError, ValueError):
    """The inputs do not have the tree, shapes or dtypes of the model's example."""


class UnsupportedShapeError(InvalidInputError):
    """The batch size or sequence length is outside the declared buckets."""


class DeadlineExceededError(RequestError, TimeoutError):
    """The deadline passed before the result was there."""


class DeviceMemoryError(MissileError, MemoryError):
    """The device ran out of memory."""


class HostMemoryError(MissileError, MemoryError):
    """The parameters of a model do not fit into what the runtime may take of host memory."""


class QueueFullError(MissileError):
    """The queue of this model, or of its tenant, is at its limit.

    retry_after_s: seconds after which it is worth while to ask again.
    """

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverloadedError(QueueFullError):
    """With what waits already, the request could not be done by its deadline."""


class ServerBusyError(MissileError):
    """The server holds as many bytes of requests as it may.

    retry_after_s: seconds after which it is worth while to ask again.
    """

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ChannelError(MissileError):
    """Something about VRAM channels cannot be."""


class ChannelMapError(ChannelError, ValueError):
    """A channel map, or the state of a page, is impossible."""


class RecoveryError(ChannelError):
    """No channel map explains the timings well enough; the message says what failed."""


class PluginError(MissileError, RuntimeError):
    """The PJRT plugin cannot be registered: nothing to wrap, or nothing that can be."""


class ArbiterError(MissileError):
    """The arbiter of a device that processes share can not be reached, nor started."""


class AccessError(MissileError):
    """A client may not do what it asks for."""


class UnauthenticatedError(AccessError):
    """A client sent no token, or one that is not known."""


class ForbiddenError(AccessError, PermissionError):
    """A client's token is known and does not allow what it asks for."""


class RuntimeClosedError(MissileError):
    """The runtime was closed, or the model unloaded, before the request was done."""


class ServerError(MissileError):
    """A server that was asked did not answer, or answered with an error."""


def one_line(error: BaseException) -> str:
    """Its type and the first line of what it says, at most 300 characters of that."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first:.300}"
