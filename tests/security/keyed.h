// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Agents with keys of their test's own. An agent reads its key as it is made. One thread at a time.
#pragma once

#include <cstdlib>
#include <sys/stat.h>

#include "support/agent_pair.h"
#include "support/temp_dir.h"

namespace nx::test {

class Keys {
public:
    /// From now on agents are made with the key `name`, another one for each name; "": without a key.
    void
    use(const std::string &name) {
        if (name.empty()) {
            ::unsetenv("NIXL_SECRET_FILE");
        } else {
            ::setenv("NIXL_SECRET_FILE", file(name).c_str(), 1);
        }
    }

    ~Keys() {
        ::unsetenv("NIXL_SECRET_FILE");
    }

    std::string
    file(const std::string &name) {
        const auto path = folder_.write("key " + name, name + " qL3vN8xT2mZ7rB5cY0wK9dF4hJ6gS1pA");
        ::chmod(path.c_str(), 0600);
        return path;
    }

    /// An agent that has the key.
    PairedAgent
    agent(const std::string &name, const std::string &key, const PairOptions &options = {}) {
        use(key);
        return PairedAgent(name, options);
    }

private:
    const TempDir folder_;
};

/// What the agent says to the blob.
inline nixl_status_t
load(PairedAgent &agent, const nixl_blob_t &blob) {
    std::string name;
    return agent->loadRemoteMD(blob, name);
}

inline bool
knows(PairedAgent &agent, const std::string &peer, const nixl_xfer_dlist_t &ranges = nixl_xfer_dlist_t(DRAM_SEG)) {
    return agent->checkRemoteMD(peer, ranges) == NIXL_SUCCESS;
}

} // namespace nx::test
