"""Launchers for Hydra, which finds them in this namespace: hydra/launcher=here|local."""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf


def make_all_jobs(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> list:
    """Return the jobs of a launcher's sweep."""
    from lexp.commands.launch import make_jobs
    from lexp.config.job_configs import JobConfigs

    loader, config = launcher.hydra_context.config_loader, launcher.config
    word, of_hydra = config.hydra.job.config_name, list(config.hydra.overrides.hydra)
    configs = JobConfigs(loader, word)
    return make_jobs(word, job_overrides, first, lambda words: configs.compose([*of_hydra, *words]))


class Here(BasicLauncher):
    """Runs jobs one after another in this process; skips trainings that are done.

    Each text is opened once for all runs that train on it.
    """

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs."""
        from lexp.commands.launch import left_to_do, queued, refuse_unfinished

        every_job = make_all_jobs(self, job_overrides, initial_job_idx)
        jobs = left_to_do(every_job)
        os.environ["LEXP_SWEEP_JOBS"] = str(len(jobs))
        if self.config.hydra.job.config_name == "train":
            from lexp.commands.texts import TrainingTexts

            self.task_function = partial(self.task_function, texts=TrainingTexts())
        with queued(jobs):
            returns = super().launch([job.overrides for job in jobs], initial_job_idx)
        if all(one.status == JobStatus.COMPLETED for one in returns):
            refuse_unfinished(every_job, jobs)
        return returns


class Local(Launcher):
    """Runs jobs in parallel on this machine, each as a process."""

    def __init__(self, jobs: int | str, per_gpu: int):
        self._jobs, self._per_gpu = jobs, per_gpu

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Keep what Hydra passes before `launch`."""
        self.hydra_context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs."""
        from lexp.commands.launch import left_to_do, make_slots, refuse_unfinished, run_processes
        from lexp.commands.live_sweep import sweep_display
        from lexp.config.folders import sweep_folder

        slots = make_slots(self._jobs, self._per_gpu)
        every_job = make_all_jobs(self, job_overrides, initial_job_idx)
        jobs = left_to_do(every_job)
        before = [self.config.hydra.job.config_name, *self._for_every_job()]
        with sweep_display(jobs, len(slots)) as shown:
            ended = run_processes(
                jobs,
                slots,
                lambda job: [*before, *job.overrides],
                sweep_folder(self.config),
                shown,
            )
        returns = []
        for job in jobs:
            failure = ended[job.number]
            state = JobStatus.FAILED if failure else JobStatus.COMPLETED
            returns.append(JobReturn(overrides=job.overrides, status=state, _return_value=failure))
        if not any(ended.values()):
            refuse_unfinished(every_job, jobs)
        return returns

    def _for_every_job(self) -> list[str]:
        """Return the words for Hydra that each job needs: config folders and overrides."""
        sources = self.config.hydra.runtime.config_sources
        folders = [s.path for s in sources if s.provider == "command-line"]
        words = OmegaConf.to_container(self.config.hydra.overrides.hydra)
        of_sweep = (
            "hydra/launcher",
            "hydra.launcher",
            "hydra/sweeper",
            "hydra.sweeper",
            "hydra.mode",
        )
        kept = [word for word in words if not word.lstrip("+~").startswith(of_sweep)]
        return [*(f"--config-dir={folder}" for folder in folders), *kept]
