"""The suite runs on processes of one thread each: models this small only wait for more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded, here and in the processes that tests start
