// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The agent and what belongs to it: configuration, telemetry, reports.
#pragma once

#include <nanobind/nanobind.h>

namespace nx::python {

void
bindAgent(nanobind::module_ &module);

} // namespace nx::python
