"""`lexp study`: read a study file, plan its jobs, run them, report."""
