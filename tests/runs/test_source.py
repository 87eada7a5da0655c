"""The commit that results are kept with: of a checkout, of a worktree, packed, detached, none."""

import subprocess

from lexp.runs.source import source_commit


def test_the_commit_is_the_one_that_git_names(tmp_path):
    main, other = tmp_path / "main", tmp_path / "other"

    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.check_output(["git", "-C", str(main), *who, *words], text=True).strip()

    main.mkdir()
    assert source_commit(main) == ""
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "one")
    git("worktree", "add", "-q", "-b", "branch", str(other))
    commit = git("rev-parse", "HEAD")
    assert source_commit(main) == source_commit(other) == commit
    git("pack-refs", "--all")
    assert source_commit(main) == source_commit(other) == commit
    git("checkout", "-q", "--detach")
    assert source_commit(main) == commit
