"""What a step of `Run.steps` costs when the loop does nothing, the agreement on stops included."""

import sys
import time

import torchrelay

STEPS = int(sys.argv[1])
with torchrelay.Run.attach() as run:
    start = 0.0
    for step in run.steps(STEPS):
        if step == STEPS // 10:  # past the first agreements, which learn how long a step takes
            start = time.perf_counter()
    if run.is_main:
        print(f"seconds_per_step {(time.perf_counter() - start) / (STEPS - STEPS // 10)}")
