"""Encrypts a database file, or decrypts it, or has it encrypted with another key.

The whole record is copied into a draft beside the file, which then takes its place in one step of the file system: at
every moment the file is either as before or as wanted. What a draft that was given up holds is removed by the next try.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from storage.encryption import EncryptionKey
from storage.errors import KeyFault, NotOurs, StorageError
from storage.sqlite.cipher import Form, fits, form_of, salt_of
from storage.sqlite.driver import GIVE, OTHER, connect_cipher, errors_of_sqlite3, literal_of
from storage.sqlite.owner import OwnerLock
from storage.sqlite.versions import APPLICATION_ID

DRAFT = ".rekeying"
ENDS = ("", "-journal", "-wal", "-shm")
TABLES = "select name from {}.sqlite_schema where type = 'table' and rootpage > 0"


def rekey_file(path: Path, key: EncryptionKey | None, new_key: EncryptionKey | None) -> bool:
    """A file that no server uses; `key` is not asked for if it is plain, and it becomes so if there is no new one.
    Returns whether there was anything to do. Raises StorageError, and the file is as it was."""
    if not path.exists():
        raise StorageError(f"{path}: there is no such file")
    try:
        lock = OwnerLock(path)
        try:
            with errors_of_sqlite3():
                return _rekey(path.resolve(), key, new_key)
        finally:
            lock.release()
    except StorageError as error:
        raise type(error)(f"{path}: {error}") from None
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"{path}: {error}") from error


def _rekey(path: Path, key: EncryptionKey | None, new_key: EncryptionKey | None) -> bool:
    if is_as_wanted(path, new_key):
        remove_draft(path)
        return False
    present = _literal(path, key)
    with _draft(path) as draft:
        new = literal_of(new_key, None) if new_key else None
        with closing(connect_cipher(path, "rw", present)) as db:
            _settle(db)
            _copy(db, draft, new)
        with closing(connect_cipher(draft, "rw", new)) as db:
            _examine(db)
        _put_in_place(draft, path)
    return True


def is_as_wanted(path: Path, new_key: EncryptionKey | None) -> bool:
    return fits(new_key, path) if new_key else form_of(path) is Form.PLAIN


def _literal(path: Path, key: EncryptionKey | None) -> str | None:
    """Of the key that it has now."""
    form = form_of(path)
    if form is Form.PLAIN:
        return None
    if form is not Form.ENCRYPTED:
        raise NotOurs("it is not a database of this program")
    if key is None:
        raise KeyFault(f"it is encrypted, or no database: {GIVE}")
    if not fits(key, path):
        raise KeyFault(f"it cannot be opened with this key ({key.origin}): {OTHER}")
    return literal_of(key, salt_of(path))


def remove_draft(path: Path) -> None:
    """Only who has the owner's lock of `path` may do so."""
    for end in ENDS:
        Path(f"{path.resolve()}{DRAFT}{end}").unlink(missing_ok=True)


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """An empty file that only its owner may read, gone in the end if it has not taken its place."""
    remove_draft(path)
    draft = Path(f"{path}{DRAFT}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        yield draft
    finally:
        remove_draft(path)


def _settle(db: sqlite3.Connection) -> None:
    """Everything in the one file, for its log would be taken for that of the file that takes its place."""
    (owner,) = db.execute("pragma application_id").fetchone()
    if owner != APPLICATION_ID:
        raise NotOurs("it is not a database of this program")
    (mode,) = db.execute("pragma journal_mode = delete").fetchone()
    if mode != "delete":
        raise StorageError("another program has it open")
    db.execute("begin immediate")
    db.execute("rollback")


def _copy(db: sqlite3.Connection, draft: Path, literal: str | None) -> None:
    db.execute("attach ? as draft key ?", (str(draft), literal or ""))
    db.execute("pragma draft.journal_mode = off")
    db.execute("pragma draft.synchronous = off")
    db.execute("begin")
    db.execute("select sqlcipher_export('draft')").fetchone()
    for name in ("user_version", "application_id"):
        (value,) = db.execute(f"pragma main.{name}").fetchone()
        db.execute(f"pragma draft.{name} = {value}")
    _compare(db)
    db.execute("commit")
    db.execute("detach draft")


def _compare(db: sqlite3.Connection) -> None:
    here, there = ({name for (name,) in db.execute(TABLES.format(side))} for side in ("main", "draft"))
    for name in here | there:
        query = " = ".join(f'(select count(*) from {side}."{name}")' for side in ("main", "draft"))
        if name not in here & there or not db.execute(f"select {query}").fetchone()[0]:
            raise StorageError(f"the copy is not the same ({name}): nothing was changed")


def _examine(db: sqlite3.Connection) -> None:
    (found,) = db.execute("pragma integrity_check(1)").fetchone()
    if found != "ok":
        raise StorageError(f"the copy is damaged ({found}): nothing was changed")


def _put_in_place(draft: Path, path: Path) -> None:
    as_before = path.stat()
    with draft.open("rb") as file:
        os.fchown(file.fileno(), as_before.st_uid, as_before.st_gid)
        os.fchmod(file.fileno(), as_before.st_mode & 0o7777)
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
