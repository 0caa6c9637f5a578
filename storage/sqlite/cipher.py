"""How SQLCipher encrypts a database file, as far as one must know to tell a key that fits from one that does not.

A file is pages of 4096 bytes. The first begins with the salt, where a plain file has its header; each ends with a
code that only who has the key can have made. So the key is tried without SQLCipher, which would write into the
directory and on the standard error before it had found out.
"""

import hmac
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum, auto
from hashlib import pbkdf2_hmac
from pathlib import Path

from storage.encryption import EncryptionKey

HEADER = b"SQLite format 3\0"
SALT_BYTES = 16
PAGE_BYTES = 4096
CODE_BYTES = 64
LOG_HEAD_BYTES, FRAME_HEAD_BYTES, NUMBER_BYTES = 32, 24, 4  # of the write-ahead log


class Form(Enum):
    NEW = auto()  # or empty
    PLAIN = auto()
    ENCRYPTED = auto()  # by all appearances
    FOREIGN = auto()


def form_of(path: Path) -> Form:
    """Raises OSError, but not if it is missing."""
    try:
        with path.open("rb") as file:
            head = file.read(PAGE_BYTES)
            size = file.seek(0, 2)
    except FileNotFoundError:
        return Form.NEW
    if not head.strip(b"\0"):
        return Form.NEW
    if head.startswith(HEADER):
        return Form.PLAIN
    return Form.ENCRYPTED if size % PAGE_BYTES == 0 else Form.FOREIGN


def salt_of(path: Path) -> bytes | None:
    """Of an encrypted file; None if it is new."""
    if form_of(path) is Form.NEW:
        return None
    with path.open("rb") as file:
        return file.read(SALT_BYTES)


def fits(key: EncryptionKey, path: Path) -> bool:
    """Whether the file is encrypted with this key. It is changed in no way. Raises OSError."""
    salt = salt_of(path)
    if salt is None:
        return False
    secret = key.with_salt(salt)
    return any(_is_of(secret, salt, number, page) for number, page in _samples(path))


def _samples(path: Path) -> Iterator[tuple[int, bytes]]:
    """A page, and another from the log: a power failure may have torn the first, which is then whole in the log."""
    with path.open("rb") as file:
        yield 1, file.read(PAGE_BYTES)
    with suppress(FileNotFoundError), Path(f"{path.resolve()}-wal").open("rb") as log:
        log.seek(LOG_HEAD_BYTES)
        head, page = log.read(FRAME_HEAD_BYTES), log.read(PAGE_BYTES)
        yield int.from_bytes(head[:NUMBER_BYTES], "big"), page


def _is_of(secret: bytes, salt: bytes, number: int, page: bytes) -> bool:
    if len(page) < PAGE_BYTES:
        return False
    code_key = pbkdf2_hmac("sha512", secret, bytes(byte ^ 0x3A for byte in salt), 2, len(secret))
    coded = page[SALT_BYTES if number == 1 else 0 : -CODE_BYTES] + number.to_bytes(4, "little")
    return hmac.compare_digest(hmac.digest(code_key, coded, "sha512"), page[-CODE_BYTES:])
