"""Every error that the service raises on purpose.

ServiceError
├── ArtifactError            the model's folder is missing, damaged or not understood (never a client's fault)
├── RequestError             the client can mend it
│   ├── MalformedRequestError     400  the body or a header cannot be read
│   ├── UnauthorizedError         401  no key, or a wrong one
│   ├── ForbiddenError            403  a key that may not do this
│   ├── ForbiddenUrlError         403  an image's URL that leads where this server does not go
│   ├── NotFoundError             404  no such model, version or page
│   ├── NotAcceptableError        406  the answer has no form that the client takes
│   ├── ConflictError             409  not as things stand
│   ├── LoadFailedError           409  the repository's model cannot be loaded; what was there goes on serving
│   ├── BodyTooLargeError         413  more bytes than the limit
│   ├── ImageTooLargeError        413  more pixels than the limit
│   ├── UnsupportedBodyError      415  a content type that carries no image
│   ├── UnsupportedImageError     415  not one of the image formats taken
│   ├── UndecodableImageError     422  of a format taken, but truncated, damaged or of an unknown sample type
│   ├── InvalidParameterError     422  a query parameter is unknown or out of its range
│   ├── InvalidUrlError           422  an image's URL that is none, or of a kind not taken
│   ├── FetchError                502  what an image's URL leads to did not give an image
│   ├── FetchTimeoutError         504  or not in time
│   └── ClientLeftError           499  nobody waits for the answer (for the log alone)
└── UnavailableError              503  try again later
    ├── QueueFullError                 more requests wait than allowed, or the deadline is too close for the queue
    ├── ClientLimitError          429  this client alone has as many waiting as one may have
    ├── MemoryFullError                the bodies of all requests have more bytes than allowed
    ├── EngineDownError                the engine process is starting or has ended
    ├── CodecDownError                 the process that worked on the image has ended
    ├── DrainingError                  the server is about to stop
    └── DeadlineError             504  no answer within the request's time

`status`, `type` and `title` make the problem object (RFC 9457); `service.problems` maps them to a response.
"""


class ServiceError(Exception):
    """Base of all; `detail` says what happened and what to do."""

    status = 500
    type = "internal-error"
    title = "Internal error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class ArtifactError(ServiceError):
    """An artifact's folder is missing, damaged or not understood."""

    type = "artifact-error"
    title = "Artifact error"


class RequestError(ServiceError):
    """The request is at fault."""

    status = 400


class MalformedRequestError(RequestError):
    """The body or a header cannot be read."""

    type = "malformed-request"
    title = "Malformed request"


class UnauthorizedError(RequestError):
    """No key, or a wrong one."""

    status = 401
    type = "unauthorized"
    title = "API key missing or unknown"


class ForbiddenError(RequestError):
    """A key that is known, but may not do this."""

    status = 403
    type = "forbidden"
    title = "Not allowed with this key"


class ForbiddenUrlError(RequestError):
    """An image's URL that leads where this server does not go."""

    status = 403
    type = "forbidden-url"
    title = "URL not allowed"


class NotFoundError(RequestError):
    """No such model, version or page."""

    status = 404
    type = "not-found"
    title = "Not found"


class NotAcceptableError(RequestError):
    """The answer has no form that the client takes."""

    status = 406
    type = "not-acceptable"
    title = "Not acceptable"


class ConflictError(RequestError):
    """Not as things stand."""

    status = 409
    type = "conflict"
    title = "Conflict"


class LoadFailedError(RequestError):
    """The repository's model cannot be loaded; what was there goes on serving."""

    status = 409
    type = "load-failed"
    title = "Model cannot be loaded"


class BodyTooLargeError(RequestError):
    """The body has more bytes than the limit."""

    status = 413
    type = "body-too-large"
    title = "Request body too large"


class ImageTooLargeError(RequestError):
    """The image has more pixels than the limit."""

    status = 413
    type = "image-too-large"
    title = "Image too large"


class UnsupportedBodyError(RequestError):
    """A content type that carries no image."""

    status = 415
    type = "unsupported-body"
    title = "Content type not supported"


class UnsupportedImageError(RequestError):
    """The bytes are not one of the image formats taken."""

    status = 415
    type = "unsupported-image"
    title = "Image format not supported"


class UndecodableImageError(RequestError):
    """A known format, but truncated, damaged or of an unknown sample type."""

    status = 422
    type = "undecodable-image"
    title = "Image cannot be decoded"


class InvalidParameterError(RequestError):
    """A query parameter is unknown or out of its range."""

    status = 422
    type = "invalid-parameter"
    title = "Invalid parameter"


class InvalidUrlError(RequestError):
    """An image's URL that is none, or of a kind not taken."""

    status = 422
    type = "invalid-url"
    title = "Invalid URL"


class FetchError(RequestError):
    """What an image's URL leads to did not give an image."""

    status = 502
    type = "fetch-failed"
    title = "Image could not be fetched"


class FetchTimeoutError(RequestError):
    """What an image's URL leads to took too long."""

    status = 504
    type = "fetch-timeout"
    title = "Image could not be fetched in time"


class UnavailableError(ServiceError):
    """Not now; the same request may succeed later."""

    status = 503
    type = "unavailable"
    title = "Service unavailable"
    retry_after = 1


class QueueFullError(UnavailableError):
    """More requests wait than allowed."""

    type = "queue-full"
    title = "Queue full"


class ClientLimitError(UnavailableError):
    """One client has as many images waiting as one may have; others are served."""

    status = 429
    type = "client-limit"
    title = "Too many images of one client"


class MemoryFullError(UnavailableError):
    """The bodies of all requests have more bytes than allowed."""

    type = "memory-full"
    title = "Too many bytes at once"


class EngineDownError(UnavailableError):
    """The engine process is starting or has ended."""

    type = "engine-down"
    title = "Model not ready"
    retry_after = 5


class CodecDownError(UnavailableError):
    """The process that worked on the image has ended."""

    type = "codec-down"
    title = "Image process ended"


class DrainingError(UnavailableError):
    """The server is about to stop and takes nothing new."""

    type = "draining"
    title = "Server stopping"


class DeadlineError(UnavailableError):
    """No answer within the request's time."""

    status = 504
    type = "deadline-passed"
    title = "Deadline passed"


class ClientLeftError(RequestError):
    """The client has gone; nobody reads this."""

    status = 499
    type = "client-left"
    title = "Client left"


def error_of(type_: str, detail: str) -> ServiceError:
    """The error of that `type`, as another process of this server has raised it."""
    kinds = {kind.type: kind for kind in _below(ServiceError) if "type" in vars(kind)}
    return kinds.get(type_, ServiceError)(detail)


def _below(kind: type[ServiceError]) -> list[type[ServiceError]]:
    """A kind of error and all kinds of it."""
    return [kind, *(each for child in kind.__subclasses__() for each in _below(child))]
