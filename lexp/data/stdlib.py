"""The embedded default corpus: the sources and reference texts of Python's own standard library.

Real, long, structured documents that every machine with lexp has: about 10 MB, offline, without
licence questions. They differ between Python versions, so every run stores the fingerprint. A
file's split depends only on its path, so versions never mix train and test.
"""

import hashlib
import sysconfig
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path

from lexp.data.corpus import SPLITS, Corpus, Document, Split, content_fingerprint
from lexp.system.errors import DataError

# test: some distributions leave it out. encodings, ensurepip, config-*: generated tables and
# bundled wheels. site- and dist-packages: not the standard library. pydoc_data: texts, see below.
LEFT_OUT = {
    "test", "tests", "idle_test", "encodings", "ensurepip", "site-packages", "dist-packages",
    "pydoc_data", "__pycache__",
}  # fmt: skip


class Stdlib(Corpus):
    """One document per source file and per language-reference topic."""

    def documents(self, split: Split) -> Iterator[Document]:
        """Yield the documents whose path falls in a split: 86 % train, 5 % validation, 9 % test."""
        root = Path(sysconfig.get_path("stdlib"))
        for path in sorted(root.rglob("*.py")):
            name = path.relative_to(root).as_posix()
            parts = set(name.split("/"))
            if parts & LEFT_OUT or name.startswith("config-") or split_of(name) != split:
                continue
            try:
                text = path.read_bytes().decode()
            except (OSError, UnicodeDecodeError):
                continue  # lib2to3 ships a few sources in other encodings
            if text:
                yield Document(name, text)
        for name, text in _topics():
            if split_of(name) == split:
                yield Document(name, text)

    def fingerprint(self) -> str:
        """Return a digest of all names and texts."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        fingerprint = content_fingerprint((split, self.documents(split)) for split in SPLITS)
        if fingerprint == content_fingerprint([]):
            root = sysconfig.get_path("stdlib")
            raise DataError(f"no Python sources found in {root}; use dataset=text with your files")
        return fingerprint


def split_of(name: str) -> Split:
    """Return the split of a document, from a hash of its name alone."""
    share = hashlib.sha256(f"lexp-stdlib-v1:{name}".encode()).digest()[0] / 256
    return "train" if share < 0.86 else "validation" if share < 0.91 else "test"


def _topics() -> Iterator[tuple[str, str]]:
    try:
        topics = import_module("pydoc_data.topics").topics
    except ImportError:  # Debian splits it off into another package
        return
    for name in sorted(topics):
        yield f"topics/{name}", topics[name]
