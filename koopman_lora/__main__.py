"""`python -m koopman_lora`: the command line, also for launchers such as torchrun."""

import sys

from koopman_lora.cli import main

if __name__ == "__main__":
    sys.exit(main())
