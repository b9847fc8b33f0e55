"""The machine that this is: one supervisor per node of the job, each a process in a session of its own.

backend.py      render, submit, stop and cancel: what the launcher calls
supervisors.py  starting the supervisors, holding and ending them
"""
