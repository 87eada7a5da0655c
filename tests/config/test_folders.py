"""Links in the folder of a sweep: submitit's stay within it, and others are refused."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lexp.config.folders import refuse_links_of_sweep
from lexp.system.errors import StorageError


@pytest.fixture
def submitit(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs" / "study" / "sweep" / ".submitit"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "1_submission.sh").write_text("#!/bin/bash\n")
    return folder


def refuse(tmp_path: Path) -> None:
    refuse_links_of_sweep(OmegaConf.create({"outputs": f"{tmp_path}/outputs", "name": "study"}))


def test_what_submitit_leaves_is_no_reason_to_end(submitit, tmp_path):
    """Every job of an array composes its config where the link is already."""
    (submitit / ".submission_file_0.sh").symlink_to(submitit / "1" / "1_submission.sh")
    (submitit / "relative.sh").symlink_to("1/1_submission.sh")
    refuse(tmp_path)


@pytest.mark.parametrize("target", ["/etc/passwd", "../multirun.yaml", "../../..", "/not/there"])
def test_a_link_that_leads_out_is_refused(submitit, tmp_path, target):
    (submitit / ".submission_file_0.sh").symlink_to(target)
    with pytest.raises(StorageError, match=r"\.submission_file_0\.sh is a symbolic link"):
        refuse(tmp_path)
