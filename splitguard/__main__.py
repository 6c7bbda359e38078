# SPDX-License-Identifier: Apache-2.0
"""``python -m splitguard``."""

from splitguard.cli import main

if __name__ == "__main__":
    main()
