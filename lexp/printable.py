"""Text from elsewhere (names of files, documents, runs) where it is shown."""


def printable(text: str) -> str:
    """Text without what a terminal or browser would act on instead of showing.

    Control characters, direction overrides and lone surrogates become U+FFFD, line ends spaces.
    """
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text.replace("\r", "")
    )
