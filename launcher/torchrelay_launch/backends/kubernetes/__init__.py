"""Kubernetes: an Indexed Job, one pod per node, in each pod the same supervisor as everywhere.

backend.py     render, submit, stop and cancel: what the launcher calls
objects.py     job -> the objects that are created, from k8s/*.yaml
pods.py        what a pod gets: command, variables, resources, volumes, placement
names.py       names and labels that the API takes
merge.py       strategic merge patches
reach.py       whether pods can reach the run's storage
code.py        the code snapshot
client.py      the official client, and what the API's complaints mean
creation.py    creating the objects, with all that can be refused
states.py      Kubernetes' words, as tables
watching.py    how an attempt stands, as Kubernetes sees it
pod_logs.py    what pods printed, for those whose supervisors could not write it down
pod.py         what runs in a pod
participation.py  takes part in one attempt after the other
generations.py which attempt the pods run, and claiming the next
"""
