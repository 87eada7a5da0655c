"""The commit of the code that runs, read from the files of git."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def source_commit(checkout: Path = CHECKOUT) -> str:
    """Return the commit of the checkout that lexp runs from; "" without a checkout."""
    git = checkout / ".git"
    try:
        if git.is_file():  # a worktree of another checkout
            git = checkout / git.read_text(encoding="utf-8").removeprefix("gitdir: ").strip()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head
        ref = head.removeprefix("ref: ")
        if (git / "commondir").exists():
            git = git / (git / "commondir").read_text(encoding="utf-8").strip()
        if (git / ref).exists():
            return (git / ref).read_text(encoding="utf-8").strip()
        packed = (git / "packed-refs").read_text(encoding="utf-8").splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {ref}")), "")
    except (OSError, UnicodeDecodeError):
        return ""
