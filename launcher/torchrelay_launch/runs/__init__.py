"""A run and its attempts in storage: finding, creating, claiming, stopping, and telling how it stands.

Everything here is read from or written to the run's storage alone, so any launcher that can read the URL can do it.

locate.py      from what a user types to a run's storage
claims.py      making a run, and claiming its next attempt
inheriting.py  claiming it from within a job, which goes on with the same spec
status.py      how a run stands
observed.py    and what its backend adds
stop.py        asking it to stop
sweeps.py      the same for a sweep
"""
