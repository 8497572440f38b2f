"""The two secrets that lie in the data folder: the master key and the local operator's token."""

import os
import secrets
from pathlib import Path

from infra.settings import WeirSettings
from infra.state import load_state
from schemas.errors import ConfigurationError
from schemas.privacy import KEY_BYTES


def master_key(settings: WeirSettings) -> bytes:
    """The key that wraps all data keys: `WEIR_MASTER_KEY`, else `master.key`, made at first start.

    It alone is not in the log: whoever loses it loses all content. Raises ConfigurationError.
    """
    if settings.master_key is not None:
        text = settings.master_key.get_secret_value()
    else:
        path = settings.home / "master.key"
        if not path.exists() and load_state(settings.home) is not None:
            raise ConfigurationError(
                f"{path} is missing, though Weir has run here: with a new one, nothing that was "
                "recorded could be read again",
                action="Restore it from your backup, or set WEIR_MASTER_KEY to it. If it is lost for "
                "good, so are the recorded texts: set WEIR_MASTER_KEY to 64 new hexadecimal digits.",
            )
        text = _kept(path, os.urandom(KEY_BYTES).hex())
    try:
        return bytes.fromhex(text.strip())
    except ValueError as error:
        raise ConfigurationError(
            "the master key is not hexadecimal",
            action="Restore WEIR_MASTER_KEY or master.key from your backup.",
        ) from error


def operator_token(home: Path) -> str:
    """What lets commands on this machine in: whoever can read the data folder owns it anyway."""
    return _kept(home / "operator.token", secrets.token_urlsafe(32))


def _kept(path: Path, fresh: str) -> str:
    """The file's text; it is made from `fresh` (mode 0600, fsynced) where it is missing."""
    if not path.exists():
        half = path.with_suffix(f".{os.getpid()}")
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(fresh + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(half, path)  # fails where another process was first: its secret stands
        except FileExistsError:
            pass
        finally:
            half.unlink()
    return path.read_text().strip()
