"""Access keys that the AWS tools keep in files, for those whom the environment tells none."""

import configparser
import os
from collections.abc import Mapping
from pathlib import Path

from attlas.schemas.errors import InvalidValueError

__all__ = ["profile_settings"]

TOLD = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SKIP_SIGNATURE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""Variables of which one is enough to find credentials."""

KEYS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
PLACES = {
    "region": ("region", ("AWS_REGION", "AWS_DEFAULT_REGION")),
    "endpoint_url": ("endpoint", ("AWS_ENDPOINT_URL",)),
}


def profile_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of the profile ``AWS_PROFILE``, as obstore names them, less what the environment tells."""
    profile = environment.get("AWS_PROFILE") or "default"
    keys = _section(environment.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials", profile)
    config = _section(
        environment.get("AWS_CONFIG_FILE") or "~/.aws/config", profile if profile == "default" else f"profile {profile}"
    )
    if not keys and not config and environment.get("AWS_PROFILE"):
        raise InvalidValueError(f"AWS_PROFILE is {profile!r}, which neither the credentials nor the config file has")
    told = {**config, **keys}
    found = {
        own: told[name]
        for name, (own, variables) in PLACES.items()
        if name in told and not environment.keys() & set(variables)
    }
    if not environment.keys() & set(TOLD):
        found |= {own: told[name] for name, own in KEYS.items() if name in told}
    return found


def _section(file: str, name: str) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        with Path(os.path.expanduser(file)).open(encoding="utf-8") as lines:
            parser.read_file(lines)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, configparser.Error) as err:
        raise InvalidValueError(f"{file} cannot be read: {type(err).__name__}") from err
    return dict(parser[name]) if parser.has_section(name) else {}
