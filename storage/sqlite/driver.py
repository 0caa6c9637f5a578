"""The only place where database files are opened, by sqlite3 or, with a key, by sqlcipher3.

The connections of the two are alike, their errors are not: what sqlcipher3 raises is raised on as sqlite3's, so that
nobody else need know of it.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from storage.encryption import EncryptionKey
from storage.errors import KeyFault, StorageError
from storage.sqlite.cipher import SALT_BYTES, Form, fits, form_of, salt_of

Mode = Literal["ro", "rw", "rwc"]

GIVE = (
    "give its key by database.encryption_key_file or APP_DATABASE_ENCRYPTION_KEY"
    " (when moving: --from-key-file, --to-key-file)"
)
OTHER = "the key is another one, or it is no database"
ENCRYPT = "encrypt it with `task-orchestrator database rekey`, or take the key away"


class DatabaseFile:
    """One that this key opens, or none if it is plain or new.

    It is looked at once, before anybody has opened it: whoever reads and closes it later takes from this process the
    locks by which SQLite knows that it is in use.
    """

    def __init__(self, path: Path, key: EncryptionKey | None) -> None:
        """Raises StorageError or OSError without having touched anything."""
        form = form_of(path)
        if key is None and form is Form.ENCRYPTED:
            raise KeyFault(f"it is encrypted, or no database: {GIVE}")
        if key and form is Form.PLAIN:
            raise KeyFault(f"it is not encrypted, but a key is given ({key.origin}): {ENCRYPT}")
        if key and form is not Form.NEW and not fits(key, path):
            raise KeyFault(f"it cannot be opened with this key ({key.origin}): {OTHER}")
        self._path = path
        self._literal = literal_of(key, salt_of(path)) if key else None

    def connect(self, mode: Mode, **options: Any) -> sqlite3.Connection:
        """`options` are those of sqlite3. Raises StorageError, or sqlite3.Error."""
        if self._literal is not None:
            return connect_cipher(self._path, mode, self._literal, **options)
        db: sqlite3.Connection = sqlite3.connect(_uri(self._path, mode), uri=True, isolation_level=None, **options)
        return db


def connect(path: Path, mode: Mode, key: EncryptionKey | None, **options: Any) -> sqlite3.Connection:
    """The only connection to this file. Raises StorageError, OSError or sqlite3.Error."""
    return DatabaseFile(path, key).connect(mode, **options)


def literal_of(key: EncryptionKey, salt: bytes | None) -> str:
    """As SQLCipher takes it, for the file with this salt; None: for a new one."""
    salt = salt or os.urandom(SALT_BYTES)
    return f"x'{key.with_salt(salt).hex()}{salt.hex()}'"


def connect_cipher(path: Path, mode: Mode, literal: str | None, **options: Any) -> sqlite3.Connection:
    """By sqlcipher3 also where there is no key. Raises StorageError, or sqlite3.Error."""
    try:
        from sqlcipher3 import dbapi2
    except ModuleNotFoundError:
        raise StorageError(
            "sqlcipher3 is missing, which encryption takes: pip install task-orchestrator[encryption]"
        ) from None
    with errors_of_sqlite3():
        db: sqlite3.Connection = dbapi2.connect(_uri(path, mode), uri=True, isolation_level=None, **options)
        try:
            db.execute("pragma cipher_log = off")  # it would go to the standard error; what matters is raised
            if literal is not None:
                db.execute(f'pragma key = "{literal}"')
                db.execute("pragma cipher_compatibility = 4")
        except BaseException:
            db.close()
            raise
    return db


@contextmanager
def errors_of_sqlite3() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("sqlcipher3"):
            raise
        told = getattr(sqlite3, type(error).__name__, sqlite3.DatabaseError)(*error.args)
        for name in ("sqlite_errorcode", "sqlite_errorname"):
            if hasattr(error, name):
                setattr(told, name, getattr(error, name))
        raise told.with_traceback(error.__traceback__) from None


def _uri(path: Path, mode: Mode) -> str:
    return f"{path.resolve().as_uri()}?mode={mode}"
