# SPDX-License-Identifier: Apache-2.0
"""The split training engine: networks cut in stages, parties, the wire, and what each adversary sees."""
