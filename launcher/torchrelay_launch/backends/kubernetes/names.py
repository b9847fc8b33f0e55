"""Names and labels that the API takes, for whatever a run is called."""

import hashlib
import re

LONGEST_OBJECT = 44  # a JobSet's pods are called NAME-node-0-INDEX-xxxxx, which must stay below 64
LONGEST_LABEL = 63

RUN_LABEL = "torchrelay/run"
ATTEMPT_LABEL = "torchrelay/attempt"
URL_ANNOTATION = "torchrelay/url"
OWN_LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/managed-by", RUN_LABEL, ATTEMPT_LABEL)

_TAIL = re.compile(r"-\d{8}-\d{6}-[0-9a-f]{4}\Z")  # what makes a run id unique


def object_name(run_id: str, attempt: int) -> str:
    """The name of an attempt's Job and Service: a DNS label (RFC 1035) that stays one with every suffix of a pod.

    Of a name that is too long the end is kept, which makes it unique, or else replaced by a hash.
    """
    slug = re.sub(r"[^a-z0-9-]+", "-", run_id.lower()).strip("-") or "run"
    slug = slug if slug[0].isalpha() else f"r-{slug}"
    suffix = f"-a{attempt}"
    room = LONGEST_OBJECT - len(suffix)
    if len(slug) > room:
        match = _TAIL.search(slug)
        tail = match[0] if match else "-" + hashlib.sha256(run_id.encode()).hexdigest()[:8]
        slug = slug[: room - len(tail)].rstrip("-") + tail
    return slug + suffix


def label_value(text: str) -> str:
    """The text as a label's value: cut and cleaned where it is none."""
    cleaned = re.sub(r"[^A-Za-z0-9_.-]", "-", text)
    if len(cleaned) > LONGEST_LABEL:
        cleaned = f"{cleaned[:54]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return cleaned.strip("-_.")


def labels(run_id: str, attempt: int) -> dict[str, str]:
    """The labels by which the objects of a run, and of an attempt, are found."""
    return {
        "app.kubernetes.io/name": "torchrelay",
        "app.kubernetes.io/managed-by": "torchrelay",
        RUN_LABEL: label_value(run_id),
        ATTEMPT_LABEL: str(attempt),
    }


def selector(run_id: str, attempt: int | None = None) -> str:
    """The label selector for the objects of a run, or of one attempt."""
    chosen = f"{RUN_LABEL}={label_value(run_id)}"
    return chosen if attempt is None else f"{chosen},{ATTEMPT_LABEL}={attempt}"
