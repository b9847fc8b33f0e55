"""Makes the modules beside the tests importable; they are tools of the tests and not shipped."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
