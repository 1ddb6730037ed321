"""A program with a child of its own, which both do nothing for a while."""

from __future__ import annotations

import subprocess
import sys
import time

if __name__ == "__main__":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    sys.stdout.write(f"idle {child.pid}\n")
    sys.stdout.flush()
    time.sleep(60)
