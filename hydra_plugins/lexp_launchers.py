"""Launchers of lexp for Hydra, which finds them in this namespace: hydra/launcher=here|local."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf


def make_jobs_left(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> list:
    """The jobs of a launcher's sweep that are to be started."""
    from lexp.launch import left_to_do, make_jobs

    loader, config = launcher.hydra_context.config_loader, launcher.config
    word = config.hydra.job.config_name
    jobs = make_jobs(word, job_overrides, first, lambda own: loader.load_sweep_config(config, own))
    return left_to_do(jobs)


class Here(BasicLauncher):
    """One job after another in this process; of a sweep of trainings, those that are not done."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs."""
        from lexp.launch import queued

        jobs = make_jobs_left(self, job_overrides, initial_job_idx)
        os.environ["LEXP_SWEEP_JOBS"] = str(len(jobs))
        with queued(jobs):
            return super().launch([job.overrides for job in jobs], initial_job_idx)


class Local(Launcher):
    """Jobs side by side on this machine, each a process."""

    def __init__(self, jobs: int | str, per_gpu: int):
        self._asked, self._per_gpu = jobs, per_gpu

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """What Hydra hands over before `launch`."""
        self.hydra_context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs."""
        from lexp.launch import make_slots, run_processes

        slots = make_slots(self._asked, self._per_gpu)
        jobs = make_jobs_left(self, job_overrides, initial_job_idx)
        before = [self.config.hydra.job.config_name, *self._for_every_job()]
        ended = run_processes(
            jobs,
            slots,
            lambda job: [*before, *job.overrides],
            Path(str(self.config.hydra.sweep.dir)),
        )
        returns = []
        for job in jobs:
            failure = ended[job.number]
            state = JobStatus.FAILED if failure else JobStatus.COMPLETED
            returns.append(JobReturn(overrides=job.overrides, status=state, _return_value=failure))
        return returns

    def _for_every_job(self) -> list[str]:
        """Words for Hydra itself that a job needs too: the user's config folders and overrides."""
        sources = self.config.hydra.runtime.config_sources
        folders = [s.path for s in sources if s.provider == "command-line"]
        words = OmegaConf.to_container(self.config.hydra.overrides.hydra)
        own = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.mode")
        kept = [word for word in words if not word.lstrip("+~").startswith(own)]
        return [*(f"--config-dir={folder}" for folder in folders), *kept]
