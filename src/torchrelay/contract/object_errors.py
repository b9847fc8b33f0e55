"""What an exception of an fsspec driver means: try again, the user's to mend, or neither.

Drivers are told apart by names, never by importing them: s3fs raises plain OSErrors caused by botocore's ClientError,
gcsfs its HttpError, adlfs azure.core's, and all of them pass on what aiohttp raises below.
"""

import errno
import os
import re

# Base classes of "the connection did not hold", by top-level package and name.
_TRANSPORT = {
    "botocore.HTTPClientError",
    "botocore.ConnectionError",
    "botocore.ResponseStreamingError",
    "botocore.IncompleteReadError",
    "botocore.ResponseParserError",
    "aiohttp.ClientError",
    "urllib3.HTTPError",
    "requests.ConnectionError",
    "requests.Timeout",
    "requests.ChunkedEncodingError",
    "azure.ServiceRequestError",
    "azure.ServiceResponseError",
    "azure.IncompleteReadError",
    "http.IncompleteRead",
    "fsspec.FSTimeoutError",
    "google.TransportError",
}
_UNREACHABLE = {
    "botocore.EndpointConnectionError",
    "botocore.ConnectTimeoutError",
    "botocore.SSLError",
    "aiohttp.ClientConnectorError",
    "azure.ServiceRequestError",
}
_TRANSIENT_ERRNO = {
    errno.ECONNRESET,
    errno.ECONNREFUSED,
    errno.ECONNABORTED,
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EAGAIN,
}
_TRANSIENT_CODES = {
    "InternalError",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "RequestTimeout",
    "RequestTimeoutException",
    "OperationAborted",
    "ConditionalRequestConflict",
    "ConcurrentModification",  # by Ceph, of an object that was replaced while it was read
    "409",  # the same of a HEAD, whose answer has no code
    "IncompleteBody",
    "BadDigest",
    "XAmzContentSHA256Mismatch",
}
_TRANSIENT_STATUS = {408, 425, 429}
_NOT_IMPLEMENTED = 501

_CREDENTIAL_CODES = {
    "AccessDenied",
    "AllAccessDisabled",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "403",
    "401",
}
_REGION_CODES = {
    "PermanentRedirect",
    "TemporaryRedirect",
    "IllegalLocationConstraintException",
    "AuthorizationHeaderMalformed",  # signed for another region than the bucket's
    "301",
    "307",
}
_BUCKET_CODES = {"NoSuchBucket", "InvalidBucketName", "ContainerNotFound", "InvalidResourceName"}
_SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_CLIENT_SECRET",
)


class TruncatedError(Exception):
    """Fewer bytes came than were asked for."""


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed when it is sent again."""
    if isinstance(error, (TruncatedError, TimeoutError, ConnectionError)) or _names(error) & _TRANSPORT:
        return True
    status = status_of(error)
    if status == _NOT_IMPLEMENTED:
        return False
    if code_of(error) in _TRANSIENT_CODES or status >= 500 or status in _TRANSIENT_STATUS:
        return True
    return isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO and not code_of(error)


def is_unreachable(error: BaseException) -> bool:
    """Whether nothing answered at the address at all: a wrong endpoint, as likely as an outage."""
    return isinstance(error, ConnectionRefusedError) or bool(_names(error) & _UNREACHABLE)


def code_of(error: BaseException) -> str:
    """The storage's own code, such as NoSuchKey, or an empty text."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict) and isinstance(response.get("Error"), dict):
            return str(response["Error"].get("Code", ""))
        code = getattr(one, "error_code", None)  # azure.core
        if code:
            return str(getattr(code, "value", code))
    return ""


def status_of(error: BaseException) -> int:
    """The HTTP status of an answer, or 0 if there is none."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
        for name in ("status_code", "status", "code"):
            value = getattr(one, name, None)
            if isinstance(value, (int, str)) and re.fullmatch(r"[1-5]\d\d", str(value)):
                return int(value)
    return 0


def is_users_to_mend(error: BaseException) -> str:
    """How to mend credentials, bucket or region, if that is what is wrong; an empty text otherwise."""
    code, status, names = code_of(error), status_of(error), _names(error)
    if names & {"botocore.NoCredentialsError", "botocore.PartialCredentialsError", "google.DefaultCredentialsError"}:
        return "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or a role"
    if "botocore.ProfileNotFound" in names:
        return "there is no such profile: check AWS_PROFILE and `storage_options: {profile: ...}`"
    if status == _NOT_IMPLEMENTED:
        return (
            "that server lacks what torchrelay needs, such as `If-None-Match`: take a newer release, or another storage"
        )
    if code in _BUCKET_CODES:
        return "there is no such bucket: make it, or check its name and the endpoint (AWS_ENDPOINT_URL)"
    if code in _REGION_CODES or "botocore.NoRegionError" in names:
        return "the bucket lies in another region: set AWS_DEFAULT_REGION"
    if code in _CREDENTIAL_CODES or status in (401, 403) or isinstance(error, PermissionError):
        return "the storage refuses these credentials: check them, and that they may read and write there"
    if names & {"builtins.ValueError", "botocore.InvalidEndpointConfigurationError"} and "endpoint" in str(error):
        return "the endpoint is no URL: check AWS_ENDPOINT_URL and `storage_options: {endpoint_url: ...}`"
    return ""


def in_words(error: BaseException) -> str:
    """One line on what happened, without secrets."""
    code, status = code_of(error), status_of(error)
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, TruncatedError):
        return f"the answer was cut off ({text})"
    if "fsspec.FSTimeoutError" in _names(error) or (isinstance(error, TimeoutError) and not code):
        return "no answer in time"
    if status and not (code and code in text):
        text = f"it answered {status} {code if code != str(status) else ''}".rstrip() + f" ({text})"
    return without_secrets(text[:400])


def _names(error: BaseException) -> set[str]:
    """`package.Class` of an error's class and all its bases."""
    return {f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(error).__mro__}


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what it says it was caused by."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and len(found) < 5:
        found.append(current)
        current = current.__cause__
    return found


def without_secrets(text: str) -> str:
    """The text with every secret of the environment, and every user in a URL, replaced."""
    for variable in _SECRET_VARIABLES:
        value = os.environ.get(variable, "")
        if len(value) >= 4:
            text = text.replace(value, "***")
    return re.sub(r"://[^/@\s]*@", "://***@", text)
