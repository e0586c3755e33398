# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""What bench/compare is made of: rows (what is measured), worker and measure (in the measured processes), pair (their
life), machine and report."""
