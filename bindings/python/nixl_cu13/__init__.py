# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Another name of the package nixl."""

from nixl._alias import become_nixl

become_nixl(__name__)
del become_nixl
