"""How texts are compared: without regard to case as Unicode folds it; accents count. And which can be kept at all."""


def fold(text: str) -> str:
    """Texts that differ only in case are the same in this form."""
    return text.casefold()


def is_keepable(text: str) -> bool:
    """A record may hold it, which can hold neither NUL nor halves of characters."""
    return "\0" not in text and not any("\ud800" <= it <= "\udfff" for it in text)
