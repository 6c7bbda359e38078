# SPDX-License-Identifier: Apache-2.0
"""What a claim about speed or about a paper is measured with; each module is run as ``python -m benchmarks.NAME``."""
