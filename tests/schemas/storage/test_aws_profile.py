"""Access keys from the files of the AWS tools."""

import pytest

from attlas.schemas.errors import InvalidValueError, StorageError
from attlas.schemas.storage import open_storage
from attlas.schemas.storage.aws_profile import profile_settings
from attlas.schemas.storage.object_storage import ObjectStorage
from attlas.schemas.storage.patience import Patience

CREDENTIALS = """
[default]
aws_access_key_id = one
aws_secret_access_key = two%%
[lab]
aws_access_key_id = three
aws_secret_access_key = four
aws_session_token = five
"""
CONFIG = """
[default]
region = eu-west-1
[profile lab]
region = eu-north-1
endpoint_url = http://127.0.0.1:9
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "credentials").write_text(CREDENTIALS)
    (tmp_path / "config").write_text(CONFIG)
    return {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"), "AWS_CONFIG_FILE": str(tmp_path / "config")}


def test_the_default_profile(files):
    assert profile_settings(files) == {
        "access_key_id": "one",
        "secret_access_key": "two%%",
        "region": "eu-west-1",
    }


def test_a_named_profile(files):
    assert profile_settings({**files, "AWS_PROFILE": "lab"}) == {
        "access_key_id": "three",
        "secret_access_key": "four",
        "session_token": "five",
        "region": "eu-north-1",
        "endpoint": "http://127.0.0.1:9",
    }


def test_the_environment_comes_first(files):
    told = {
        **files,
        "AWS_PROFILE": "lab",
        "AWS_ACCESS_KEY_ID": "six",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "x",
    }
    assert profile_settings(told) == {}


def test_no_files(tmp_path):
    nowhere = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no"), "AWS_CONFIG_FILE": str(tmp_path / "no" / "no")}
    assert profile_settings(nowhere) == {}
    with pytest.raises(InvalidValueError, match="AWS_PROFILE is 'lab', which neither the credentials nor the config"):
        profile_settings({**nowhere, "AWS_PROFILE": "lab"})


def test_a_broken_file(tmp_path):
    (tmp_path / "credentials").write_text("no section")
    with pytest.raises(InvalidValueError, match="credentials cannot be read: MissingSectionHeaderError"):
        profile_settings({"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")})


def test_a_store_is_opened_with_a_profile(files, s3_server, s3_url, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ALLOW_HTTP"):
        monkeypatch.delenv(name)
    for name, value in files.items():
        monkeypatch.setenv(name, value)
    storage = open_storage(f"{s3_url}/x.zarr")
    storage.put("zarr.json", b"{}")
    assert storage.get("zarr.json") == b"{}"


def test_nobody_told_a_key(s3_url, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    storage = ObjectStorage(f"{s3_url}/x.zarr", patience=Patience(0.2, 1, 0.01, 0.1))
    with pytest.raises(StorageError, match=r"no access key was found in the environment \(AWS_ACCESS_KEY_ID"):
        storage.get("zarr.json")
