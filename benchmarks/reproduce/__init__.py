# SPDX-License-Identifier: Apache-2.0
"""Papers re-run: one matrix file and one stored result for each; ``python -m benchmarks.reproduce``."""
