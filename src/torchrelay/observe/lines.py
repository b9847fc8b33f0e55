"""Plain lines of progress, for logs: `step 200/1000 (20 %)  loss 0.4123  lr 1.0e-03  812 samples/s  eta 0:12`."""

from torchrelay.contract.log_lines import PROGRESS

_SHOWN_OTHERWISE = ("samples_per_s", "data_wait_s", "step_s", "memory_bytes", "checkpoint_stall_s", "checkpoint_wait_s")


def progress(step: int, total: int | None, metrics: dict[str, float], eta_s: float | None) -> str:
    """One line for a step."""
    parts = [f"{PROGRESS}{step}/{total} ({100 * step // total} %)" if total else f"{PROGRESS}{step}"]
    parts += [f"{name} {number(name, value)}" for name, value in metrics.items() if name not in _SHOWN_OTHERWISE]
    if metrics.get("samples_per_s"):
        parts.append(f"{metrics['samples_per_s']:.0f} samples/s")
    if eta_s is not None:
        parts.append(f"eta {clock(eta_s)}")
    return "  ".join(parts)


def evaluation(step: int, metrics: dict[str, float]) -> str:
    """One line for an evaluation."""
    return "  ".join(
        [f"evaluation at step {step}", *(f"{name} {number(name, value)}" for name, value in metrics.items())]
    )


def number(name: str, value: float) -> str:
    """Learning rates in powers of ten, counts whole, everything else with four decimals unless that shows nothing."""
    if name == "lr":
        return f"{value:.1e}"
    if 1 <= abs(value) < 1e15 and value == int(value):
        return str(int(value))
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3g}"


def clock(seconds: float) -> str:
    """0:12, 3:05:10."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
