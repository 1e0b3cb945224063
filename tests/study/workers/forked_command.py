"""``END ARGUMENT ...``: print who this process is, and end in a way."""

import atexit
import json
import os
import signal
import sys
import threading
import time

end, *rest = sys.argv[1:]
print(json.dumps([os.getpid(), os.getppid(), os.getsid(0), rest, os.environ.get("OWN")]))  # stays in a buffer
atexit.register(print, "handler")
threading.Thread(target=lambda: (time.sleep(0.05), print("thread"))).start()
if end == "sleep":
    sys.stdout.flush()
    time.sleep(600)
if end == "raise":
    raise RuntimeError("planted")
if end == "kill server":
    os.kill(os.getppid(), signal.SIGKILL)
sys.exit(0 if end == "kill server" else int(end))
