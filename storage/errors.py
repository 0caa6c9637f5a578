"""Why a database cannot be used. Each says it in one line that an operator can act on."""


class StorageError(Exception):
    """This database cannot be opened."""


class AlreadyOwned(StorageError):
    """Another server writes to it."""


class TooNew(StorageError):
    """A newer release has written it."""


class NotOurs(StorageError):
    """It is not a database of this program."""


class KeyFault(StorageError):
    """It is encrypted with another key than the one given, if at all; or that key cannot be had."""
