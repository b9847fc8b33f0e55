"""Kubernetes: an Indexed Job, one pod per node, in each pod the same supervisor as everywhere.

backend.py     render, submit, stop and cancel: what the launcher calls
objects.py     job -> the objects that are created, from k8s/*.yaml
pods.py        what a pod gets: command, variables, resources, volumes, placement
names.py       names and labels that the API takes
merge.py       strategic merge patches
reach.py       whether pods can reach the run's storage
code.py        the code snapshot
client.py      the API by the official client
kubeconfig.py  which cluster that is
refusals.py    what the API's complaints mean
creation.py    creating the objects, with all that can be refused
states.py      Kubernetes' words, as tables
watching.py    how an attempt stands, as Kubernetes sees it
events.py      why pods are not made, or do not start
pod_logs.py    what pods printed, for those whose supervisors could not write it down
doctor.py      what `torchrelay doctor` looks at
probing.py     its look from a pod
probe.py       what runs in that pod
pod.py         what runs in a pod
pod_options.py what a pod is told
pod_words.py   what it says
participation.py  takes part in one attempt after the other
meeting.py     whether the first pod answers, and over which interface
generations.py which attempt the pods run, and claiming the next
"""
