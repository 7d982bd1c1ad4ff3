"""Secrets: read at the last moment, from where the config says, and never put into a message, a log or a repr."""

import stat
from pathlib import Path

from gatewayd.config.environment import Environment
from gatewayd.config.schema import Secret
from gatewayd.errors import ConfigError

MAX_SECRET_BYTES = 65536


def read_secret(secret: Secret, *, key: str, beside: Path, environment: Environment) -> str:
    """The secret, without the newline an editor leaves at the end of a file.

    Args:
        key: dotted key of the secret in config.toml, for messages.
        beside: the folder of config.toml.

    Raises ConfigError when it is not there, cannot be read, or is empty.
    """
    if secret.env is not None:
        value = environment.variables.get(secret.env, "")
        if not value:
            raise ConfigError(f"{key}.env", f"the environment variable {secret.env} is not set: set it, or use `file`")
        return value
    if secret.file is None:
        raise ConfigError(key, "names no place to read the secret from: set `file` or `env`")
    path = secret_path(secret.file, beside=beside, environment=environment)
    return _read(path, f"{key}.file")


def secret_path(name: str, *, beside: Path, environment: Environment) -> Path:
    """Where a secret's file is: a bare name in $CREDENTIALS_DIRECTORY when it is there, else beside config.toml."""
    if environment.credentials_directory and "/" not in name:
        given = Path(environment.credentials_directory) / name
        if given.exists():
            return given
    return beside / Path(name).expanduser()


def _read(path: Path, key: str) -> str:
    try:
        with path.open("rb") as file:
            mode = path.stat().st_mode
            content = file.read(MAX_SECRET_BYTES + 1)
    except OSError as failure:
        problem = f"{path}: {failure.strerror}: create it readable for the daemon alone, or name it in LoadCredential="
        raise ConfigError(key, problem) from None
    if mode & stat.S_IROTH:
        import structlog  # here, for it takes longer to load than the rest of the config together

        log = structlog.get_logger(__name__)
        log.warning("secret is readable for everybody: chmod o-r", key=key, path=str(path))
    if len(content) > MAX_SECRET_BYTES:
        raise ConfigError(key, f"{path}: is larger than {MAX_SECRET_BYTES} bytes: this is not the secret's file")
    try:
        value = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        # Without the cause: it would carry the bytes.
        raise ConfigError(key, f"{path}: is not UTF-8 text") from None
    if not value:
        raise ConfigError(key, f"{path}: is empty: write the secret into it")
    return value
