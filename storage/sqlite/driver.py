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
ENCRYPT = "encrypt it with `task-orchestrator database rekey`, or take the key away"


def connect(path: Path, mode: Mode, key: EncryptionKey | None, **options: Any) -> sqlite3.Connection:
    """`options` are those of sqlite3. Raises StorageError without having touched anything, or sqlite3.Error."""
    form = form_of(path)
    if key is None:
        if form is Form.ENCRYPTED:
            raise KeyFault(f"it is encrypted, or no database: {GIVE}")
        plain: sqlite3.Connection = sqlite3.connect(_uri(path, mode), uri=True, isolation_level=None, **options)
        return plain
    if form is Form.PLAIN:
        raise KeyFault(f"it is not encrypted, but a key is given ({key.origin}): {ENCRYPT}")
    if form is not Form.NEW and not fits(key, path):
        raise KeyFault(
            f"it cannot be opened with this key ({key.origin}): the key is another one, or it is no database"
        )
    return connect_cipher(path, mode, key, **options)


def connect_cipher(path: Path, mode: Mode, key: EncryptionKey | None, **options: Any) -> sqlite3.Connection:
    """By sqlcipher3 also where there is no key; a key must be known to fit. Raises as `connect`."""
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
            if key is not None:
                db.execute(f'pragma key = "{key_literal(path, key)}"')
                db.execute("pragma cipher_compatibility = 4")
        except BaseException:
            db.close()
            raise
    return db


def key_literal(path: Path, key: EncryptionKey) -> str:
    """As SQLCipher takes the key of this file, which may be new."""
    salt = salt_of(path) or os.urandom(SALT_BYTES)
    return f"x'{key.with_salt(salt).hex()}{salt.hex()}'"


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
