"""`python -m etude.cli`, the same as `etude`."""

from __future__ import annotations

import sys

from etude.cli import main

sys.exit(main())
