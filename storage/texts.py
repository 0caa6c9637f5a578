"""How texts are compared: without regard to case as Unicode folds it; accents count."""


def fold(text: str) -> str:
    """Texts that differ only in case are the same in this form."""
    return text.casefold()
