"""`python -m micro_diffusion.cli`, the same as `micro-diffusion`."""

import sys

from micro_diffusion.cli.entry import main

sys.exit(main())
