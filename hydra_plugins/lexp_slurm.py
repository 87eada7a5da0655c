"""hydra/launcher=slurm: submitit's launcher, with lexp's functions to queue and to wait."""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher"):
    from hydra.core.singleton import Singleton
    from hydra.core.utils import JobReturn, JobStatus
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

    from hydra_plugins.lexp_launchers import make_all_jobs

    class Slurm(SlurmLauncher):
        """Runs jobs as a SLURM array; a preempted or timed-out job is queued again."""

        def __init__(self, wait: bool, **params: Any):
            super().__init__(**params)
            self._wait = wait

        def __call__(self, *arguments: Any) -> JobReturn:
            """Run a job in its process; submitit's signal handler is installed by now."""
            from lexp.cli.streams import tolerant
            from lexp.commands.launch.hold_signals import take_signals
            from lexp.system.output import make_libraries_plain

            make_libraries_plain()
            take_signals()
            with tolerant(stops=False):
                return super().__call__(*arguments)

        def launch(
            self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
        ) -> Sequence[JobReturn]:
            """Queue the jobs, and wait for them if `wait` is set."""
            from lexp.commands.launch import left_to_do
            from lexp.commands.launch.slurm import collect, submit, warn_without_accounting
            from lexp.config.checks import raise_all, yes_no

            raise_all(yes_no("hydra.launcher.wait", self._wait))
            jobs = left_to_do(make_all_jobs(self, job_overrides, initial_job_idx))
            if not jobs:
                return []
            os.environ["LEXP_SWEEP_JOBS"] = "1"  # they do not follow one another
            state = Singleton.get_state()
            arguments = [
                (list(job.overrides), "hydra.sweep.dir", job.number, f"job_{job.number}", state)
                for job in jobs
            ]
            handles = submit(self, jobs, arguments, self.params)
            if not self._wait:
                return []
            warn_without_accounting()
            returns = []
            for job, result in zip(jobs, collect(jobs, handles), strict=True):
                if isinstance(result, Exception):
                    state = JobStatus.FAILED
                    result = JobReturn(overrides=job.overrides, status=state, _return_value=result)
                returns.append(result)
            return returns
