"""The supervisor of one node: it starts torchrun, and owns what torchrun does not give.

work.py           what an attempt is to run, by its records
plan.py           what each start of the gang is made of
attempt.py        one node's share of an attempt from the first start to the outcome
coordinator.py    the nodes agree on every start, and on how the attempt ends
gang.py           one start of torchrun: watching the ranks, stopping them, ending them
starter.py        starting torchrun, through the fork server where it can
fork_client.py    starting the fork server, and asking it
forkserver.py     the process that has imported torch, from which torchrun is forked
first_failure.py  what went wrong first, out of all that is known afterwards
budget.py         whether another start makes sense, and when
output.py         what ranks and torchrun print, into the node's log
guard.py          the process between supervisor and torchrun, which cleans up should the supervisor die
"""
