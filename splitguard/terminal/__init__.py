# SPDX-License-Identifier: Apache-2.0
"""What the commands of the command line do; each module is imported by its command only."""
