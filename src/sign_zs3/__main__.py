"""``python -m sign_zs3`` is the program, whoever owns the name `lightning`."""

import sys

from sign_zs3.cli import main

sys.exit(main())
