"""Getting ready faster: the garbage collector looks little at what is made before the first step.

Imports make half a million objects that stay to the end. Going through all of them again and again takes Python a fifth
of the time to the first step, and later a pause of 0.2 s now and then in the midst of the training.
"""

import atexit
import gc

_RARELY = 1_000_000  # objects between two collections: those of all imports, and a bound for what data sets leave
_usual: tuple[int, int, int] | None = None


def begin() -> None:
    """Collect rarely from here on."""
    global _usual  # noqa: PLW0603 - the collector belongs to the process, and so does this
    _usual = gc.get_threshold()
    gc.set_threshold(_RARELY, *_usual[1:])


def end() -> None:
    """Collect once, and then as before, leaving alone what is there now. Nothing if somebody else has taken charge."""
    global _usual  # noqa: PLW0603 - see begin
    if _usual is not None and gc.get_threshold() == (_RARELY, *_usual[1:]):
        gc.collect()  # or the garbage would be frozen too
        gc.freeze()
        gc.set_threshold(*_usual)
        atexit.register(gc.unfreeze)  # or what is frozen would never be finalised
    _usual = None
