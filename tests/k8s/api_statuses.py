"""How an API server says no: the Status objects of its refusals, worded as Kubernetes' own `api/errors` words them."""

from typing import Any

Object = dict[str, Any]
REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "AlreadyExists",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}
GROUPS = {
    "jobs": "batch",
    "jobsets": "jobset.x-k8s.io",
    "trainjobs": "trainer.kubeflow.org",
    "workloads": "kueue.x-k8s.io",
    "localqueues": "kueue.x-k8s.io",
}


class Refusal(Exception):  # noqa: N818 - as in the API, it is no error of the server
    """`plain`: the server answers with the text alone, as for a path that it does not know."""

    def __init__(
        self, code: int, message: str, reason: str = "", details: Object | None = None, *, plain: bool = False
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.details, self.plain = code, message, details or {}, plain
        self.reason = reason or REASONS.get(code, "InternalError")

    def answer(self) -> Object | str:
        if self.plain:
            return f"{self.message}\n"
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message}
        return status | {"reason": self.reason, "details": self.details, "code": self.code}


def qualified(plural: str) -> str:
    return f"{plural}.{GROUPS[plural]}" if plural in GROUPS else plural


def not_found(plural: str, name: str) -> Refusal:
    return Refusal(404, f'{qualified(plural)} "{name}" not found', details=_details(plural, name))


def exists(plural: str, name: str) -> Refusal:
    return Refusal(409, f'{qualified(plural)} "{name}" already exists', details=_details(plural, name))


def conflict(plural: str, name: str) -> Refusal:
    says = (
        f'Operation cannot be fulfilled on {qualified(plural)} "{name}": the object has been modified; please apply '
        "your changes to the latest version and try again"
    )
    return Refusal(409, says, "Conflict", _details(plural, name))


def forbidden(plural: str, name: str, why: str) -> Refusal:
    named = f' "{name}"' if name else ""
    return Refusal(403, f"{qualified(plural)}{named} is forbidden: {why}", details=_details(plural, name))


def not_allowed(user: str, verb: str, resource: str, name: str, namespace: str) -> Refusal:
    """What RBAC says. `resource`: with a subresource, as in pods/log."""
    plural = resource.partition("/")[0]
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    group = GROUPS.get(plural, "")
    return forbidden(plural, name, f'User "{user}" cannot {verb} resource "{resource}" in API group "{group}" {where}')


def invalid(kind: str, plural: str, name: str, complaints: list[str]) -> Refusal:
    said = complaints[0] if len(complaints) == 1 else f"[{', '.join(complaints)}]"
    group = GROUPS.get(plural, "")
    causes = [{"reason": "FieldValueInvalid", "message": one} for one in complaints]
    details = {"name": name, "group": group, "kind": kind, "causes": causes}
    shown = f"{kind}.{group}" if group else kind
    return Refusal(422, f'{shown} "{name}" is invalid: {said}', details=details)


def _details(plural: str, name: str) -> Object:
    filled = {"name": name, "group": GROUPS.get(plural, ""), "kind": plural}
    return {key: value for key, value in filled.items() if value}
