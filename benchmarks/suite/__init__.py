# SPDX-License-Identifier: Apache-2.0
"""Everything once: all attacks, and all defenses against their breakers; ``python -m benchmarks.suite``."""
