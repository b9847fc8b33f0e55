"""Between a supervisor and its torchrun: leaves no process behind should the supervisor be killed. Run as a script.

    python -I -S guard.py SUPERVISOR_PID GRACE_S COMMAND...

While the supervisor lives it only starts the command, passes a SIGTERM on to it and ends with its exit code. When the
supervisor is gone, the kernel sends it SIGTERM; it lets torchrun stop the ranks, for `grace` at most, and then kills
whatever is left. It adopts orphans (PR_SET_CHILD_SUBREAPER), so that it also finds the ranks of a torchrun that was
killed at the same moment. Standard library only, and little of it: as a script it starts in about 20 ms. The fork
server calls the same functions.
"""

import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
EXTRA_S = 5.0  # beyond the grace, for torchrun to come to its end
WAKE = {signal.SIGTERM, signal.SIGCHLD}


def main() -> int:
    supervisor, grace, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    if not take_post(supervisor):
        return 1
    child = fork()
    if not child:
        execute(command)
    return keep(child, supervisor, grace)


def take_post(supervisor: int) -> bool:
    """Become the guard of a supervisor, this process's parent. False if that is gone already."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WAKE)
    for ignored in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        signal.signal(ignored, signal.SIG_IGN)  # torchrun inherits it, and would die of the first two otherwise
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    return end_with(supervisor, signal.SIGTERM)


def end_with(parent: int, number: signal.Signals) -> bool:
    """Have the kernel send this signal when the parent is gone. False if it is gone already."""
    _prctl(PR_SET_PDEATHSIG, number)
    return os.getppid() == parent


def fork() -> int:
    """Fork what is to be guarded, in a session of its own, to get SIGTERM when this process is gone. As os.fork."""
    guard = os.getpid()
    child = os.fork()
    if not child:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WAKE)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not end_with(guard, signal.SIGTERM):
            os._exit(127)
    return child


def execute(command: list[str]) -> None:
    """Replace this process by the command; it ends with 127 if that can't be."""
    try:
        os.execvp(command[0], command)  # noqa: S606 - a list, built by the supervisor
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def keep(child: int, supervisor: int, grace: float) -> int:
    """Guard the child to its end. Returns its exit code, 128+n if a signal ended it."""
    code = wait(child, supervisor, grace)
    if os.getppid() != supervisor:
        kill_all_below()
    return code


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def wait(child: int, supervisor: int, grace: float) -> int:
    """The child's exit code, 128+n if a signal ended it. Reaps every orphan on the way."""
    deadline = None
    while True:
        code = reap(child)
        if code is not None:
            return code
        if deadline is not None and time.monotonic() > deadline and os.getppid() != supervisor:
            return 128 + signal.SIGKILL
        heard = signal.sigtimedwait(WAKE, 1.0)
        if heard is not None and heard.si_signo == signal.SIGTERM and deadline is None:
            deadline = time.monotonic() + grace + EXTRA_S
            os.kill(child, signal.SIGTERM)


def reap(child: int) -> int | None:
    """Collect all children that have ended. Returns the exit code of `child` if it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            ended = os.waitstatus_to_exitcode(status)
            code = ended if ended >= 0 else 128 - ended


def kill_all_below() -> None:
    """SIGKILL every descendant until there is none, for 10 s at most."""
    patience = time.monotonic() + 10
    while time.monotonic() < patience:
        below = running_below(os.getpid())
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        reap(0)
        if not below:
            return
        time.sleep(0.005)


def running_below(root: int) -> list[int]:
    """Pids of all descendants that have not ended."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - pathlib costs as much as all the rest
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
            except OSError:
                continue
            parents[int(name)] = (int(parent), state)
    found, waiting = [], [root]
    while waiting:
        above = waiting.pop()
        for pid, (above_pid, letter) in parents.items():
            if above_pid == above:
                waiting.append(pid)
                if letter not in b"ZX":
                    found.append(pid)
    return found


if __name__ == "__main__":
    sys.exit(main())
