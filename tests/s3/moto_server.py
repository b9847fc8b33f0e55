"""An S3 server for the tests: moto on a free port of the loopback, until the process that started it is gone.

Prints its port. Ends when its standard input does, so that it never outlives the tests, however those end.
"""

import os
import sys
import threading

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


class OneConditionAtATime:
    """moto looks for the object and then puts the new one: between two threads, both could win. S3 does not do that."""

    def __init__(self, application: DomainDispatcherApplication) -> None:
        self.application = application
        self.lock = threading.Lock()

    def __call__(self, environment, start_response):
        if environment["REQUEST_METHOD"] in ("PUT", "POST"):
            with self.lock:
                return self.application(environment, start_response)
        return self.application(environment, start_response)


def main() -> None:
    application = OneConditionAtATime(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.port, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
