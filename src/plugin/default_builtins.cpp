// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// No built-ins. libnixl carries a generated table that replaces this one; test programs made of the modules' objects do
// not. In a file of its own, so that no caller sees the definition and inlines it.
#include "plugin/builtin.h"

namespace nx::plugin {

__attribute__((weak)) const std::vector<BuiltinPlugin> &
builtinPlugins() {
    static const std::vector<BuiltinPlugin> none;
    return none;
}

} // namespace nx::plugin
