"""An S3 stand-in on 127.0.0.1 that asks for a secret: moto's server, if `dvc-s3` and `moto[server]` are installed."""

import contextlib
import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.flows_lab import until
from tests.support.ports import free_port, listens

BUCKET = "bucket"


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Address, and the environment variables of a user who may write to the bucket. Skips where moto is missing."""
    if any(importlib.util.find_spec(name) is None for name in ("moto", "dvc_s3", "flask")):
        pytest.skip("no S3 stand-in: pip install dvc-s3 'moto[server]'")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log,
            stderr=log,
            env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "4"},
        )
    try:
        until(lambda: listens(port), 60)
        yield address, _user(address)
    finally:
        process.kill()
        process.wait()


def _user(address: str) -> dict[str, str]:
    """Make a bucket and a user with all rights; after these four calls the server asks everybody for a secret."""
    boto3 = importlib.import_module("boto3")

    first = {"aws_access_key_id": "first", "aws_secret_access_key": "first", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=address, **first).create_bucket(Bucket=BUCKET)
    iam = boto3.client("iam", endpoint_url=address, **first)
    iam.create_user(UserName="lab")
    policy = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
    iam.put_user_policy(UserName="lab", PolicyName="all", PolicyDocument=policy)
    key = iam.create_access_key(UserName="lab")["AccessKey"]
    return {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        "AWS_DEFAULT_REGION": "us-east-1",
    }
