"""What drivers' exceptions mean, told by names and codes alone."""

import errno

import pytest

from torchrelay.contract import object_errors


def answered(status, code, base=OSError):
    """As s3fs raises it: an OSError, caused by botocore's ClientError."""
    cause = Exception(f"An error occurred ({code})")
    cause.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = base("made up")
    error.__cause__ = cause
    return error


def named(module, *names):
    """An instance of a class chain, as a driver's package would have it."""
    cls = Exception
    for name in reversed(names):
        cls = type(name, (cls,), {"__module__": module})
    return cls("made up")


@pytest.mark.parametrize(
    "error",
    [
        answered(500, "InternalError"),
        answered(503, "SlowDown"),
        answered(503, "Unheard"),
        answered(429, "TooManyRequests"),
        answered(409, "ConditionalRequestConflict"),
        answered(409, "ConcurrentModification"),
        answered(409, "409"),
        answered(400, "RequestTimeout", TimeoutError),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        TimeoutError(),
        OSError(errno.ETIMEDOUT, "timed out"),
        named("botocore.exceptions", "ReadTimeoutError", "HTTPClientError"),
        named("botocore.exceptions", "EndpointConnectionError", "ConnectionError"),
        named("aiohttp.client_exceptions", "ClientPayloadError", "ClientError"),
        named("azure.core.exceptions", "ServiceResponseError"),
        object_errors.TruncatedError("short"),
    ],
)
def test_what_may_pass_is_tried_again(error):
    assert object_errors.is_transient(error)
    assert not object_errors.is_users_to_mend(error)


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (answered(403, "AccessDenied", PermissionError), "credentials"),
        (answered(501, "NotImplemented"), "If-None-Match"),
        (answered(403, "403", PermissionError), "credentials"),
        (answered(403, "InvalidAccessKeyId"), "credentials"),
        (answered(400, "ExpiredToken"), "credentials"),
        (answered(404, "NoSuchBucket", FileNotFoundError), "no such bucket"),
        (answered(301, "PermanentRedirect"), "AWS_DEFAULT_REGION"),
        (answered(400, "AuthorizationHeaderMalformed"), "AWS_DEFAULT_REGION"),
        (named("botocore.exceptions", "NoCredentialsError"), "no credentials were found"),
    ],
)
def test_what_the_user_has_to_mend_is_said(error, hint):
    assert hint in object_errors.is_users_to_mend(error)
    assert not object_errors.is_transient(error)


@pytest.mark.parametrize("error", [answered(404, "NoSuchKey"), OSError(errno.EINVAL, "bad"), KeyError("x")])
def test_everything_else_is_final(error):
    assert not object_errors.is_transient(error)
    assert not object_errors.is_users_to_mend(error)


def test_other_drivers_statuses_are_read():
    error = named("gcsfs.retry", "HttpError")
    error.code = 503
    assert object_errors.is_transient(error)
    error.code = "403"
    assert "credentials" in object_errors.is_users_to_mend(error)


def test_no_secret_is_put_into_words(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-indeed")
    text = object_errors.in_words(OSError("signed with very-secret-indeed for http://me:word@minio:9000/x"))
    assert text == "signed with *** for http://***@minio:9000/x"
