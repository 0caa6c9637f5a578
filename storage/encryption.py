"""What a database file is encrypted with, and how it is given."""

import os
import re
import stat
from hashlib import pbkdf2_hmac
from pathlib import Path

from attrs import field, frozen

from storage.errors import KeyFault

FILE_BYTES_MAX = 4096
KEY_BYTES = 32
SHORT = 16  # characters: fewer can be guessed
ROUNDS = 256_000  # of SQLCipher 4, as are the hash and the lengths
OTHERS_OR_GROUP_WRITE = stat.S_IRWXO | stat.S_IWGRP


@frozen
class EncryptionKey:
    """`text` is a passphrase, or the key itself: 64 hexadecimal digits. `origin` tells where it was given."""

    text: str = field(repr=False)
    origin: str
    _derived: dict[bytes, bytes] = field(factory=dict, init=False, repr=False, eq=False)

    @property
    def is_short(self) -> bool:
        return len(self.text) < SHORT

    def with_salt(self, salt: bytes) -> bytes:
        """The key of the file that begins with this salt. A passphrase takes a fifth of a second, the first time."""
        if salt not in self._derived:
            is_raw = re.fullmatch(rf"[0-9a-fA-F]{{{2 * KEY_BYTES}}}", self.text)
            self._derived[salt] = (
                bytes.fromhex(self.text)
                if is_raw
                else pbkdf2_hmac("sha512", self.text.encode(), salt, ROUNDS, KEY_BYTES)
            )
        return self._derived[salt]


def given_key(file: str | None, text: str | None) -> EncryptionKey | None:
    """As the settings give it. Raises KeyFault."""
    if file is not None:
        return read_key(Path(file), "database.encryption_key_file")
    return EncryptionKey(text, "database.encryption_key") if text is not None else None


def read_key(file: Path, given_by: str) -> EncryptionKey:
    """A line of text, spaces around it aside. `given_by`: the setting or the option that names it. Raises KeyFault."""
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            content = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise KeyFault(f"{given_by}: {file} cannot be read: {error.strerror}") from None
    if stat.S_ISREG(status.st_mode) and status.st_mode & OTHERS_OR_GROUP_WRITE:
        raise KeyFault(f"{given_by}: {file} can be read or changed by others: say `chmod 600 {file}`")
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or not text or len(content) > FILE_BYTES_MAX:
        raise KeyFault(f"{given_by}: {file} is not one line of text: make one with `openssl rand -hex 32`")
    return EncryptionKey(text, f"{given_by}: {file}")
