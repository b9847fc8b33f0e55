"""Who the tests are on the S3 server. moto takes anybody; ceph_server.sh makes this user."""

import os
from typing import Any

import boto3

SECRET = "never-written-down-0123456789abcdef"  # so that it can be told apart in what is written and printed
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


def client(endpoint: str) -> Any:
    """boto3's client of the server."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=SETTINGS["AWS_DEFAULT_REGION"],
        aws_access_key_id=SETTINGS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=SECRET,
    )
