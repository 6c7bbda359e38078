# SPDX-License-Identifier: Apache-2.0
"""Maths that several attacks or defenses share; a module has one idea, and imports nothing above the engine."""
