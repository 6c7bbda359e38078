# SPDX-License-Identifier: Apache-2.0
"""One defense a file; the registry imports each module whose name has no leading underscore."""
