"""Many requests at once."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Part = TypeVar("Part")
Answer = TypeVar("Answer")


def in_parallel(do: Callable[[Part], Answer], parts: Iterable[Part], parallel: int) -> list[Answer]:
    """`do` for every part, `parallel` at a time, answers in order. The first failure drops what has not begun."""
    from concurrent.futures import ThreadPoolExecutor

    todo = list(parts)
    if len(todo) <= 1:
        return [do(part) for part in todo]
    with ThreadPoolExecutor(min(parallel, len(todo)), thread_name_prefix="torchrelay-storage") as pool:
        try:
            return list(pool.map(do, todo))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
