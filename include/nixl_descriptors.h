// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Descriptors and lists of them. A descriptor names a range of memory: address, length in bytes and device id (for
// files: offset, length and file descriptor or file id). Plain values without locking: one thread at a time per list.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "nixl_types.h"

#pragma GCC visibility push(default)

/// A range of memory. 24 bytes; the layout in memory is the layout on the wire.
class nixlBasicDesc {
public:
    uintptr_t addr; ///< start address, or offset in a file or object
    size_t len;     ///< bytes
    uint64_t devId; ///< device, file or object id

    /// Leaves the members uninitialised, as in NIXL: lists of a million descriptors are resized, then filled.
    nixlBasicDesc() {}

    nixlBasicDesc(const uintptr_t &addr, const size_t &len, const uint64_t &dev_id)
        : addr(addr),
          len(len),
          devId(dev_id) {}

    /// From exactly 24 serialised bytes; any other size gives a descriptor of zeros.
    nixlBasicDesc(const nixl_blob_t &blob);

    nixlBasicDesc(const nixlBasicDesc &) = default;
    nixlBasicDesc(nixlBasicDesc &&) = default;
    nixlBasicDesc &
    operator=(const nixlBasicDesc &) = default;
    nixlBasicDesc &
    operator=(nixlBasicDesc &&) = default;
    ~nixlBasicDesc() = default;

    /// Orders by device id, address, length.
    bool
    operator<(const nixlBasicDesc &other) const noexcept {
        if (devId != other.devId) return devId < other.devId;
        if (addr != other.addr) return addr < other.addr;
        return len < other.len;
    }

    friend bool
    operator==(const nixlBasicDesc &a, const nixlBasicDesc &b) noexcept {
        return a.addr == b.addr && a.len == b.len && a.devId == b.devId;
    }

    friend bool
    operator!=(const nixlBasicDesc &a, const nixlBasicDesc &b) noexcept {
        return !(a == b);
    }

    /// True when `query` lies wholly inside this range on the same device; an empty query at either end does.
    /// A query whose end would pass the last address is never covered.
    bool
    covers(const nixlBasicDesc &query) const noexcept;

    /// True when the two ranges share a byte on the same device.
    bool
    overlaps(const nixlBasicDesc &query) const;

    /// The 24 raw bytes.
    nixl_blob_t
    serialize() const;

    /// Logs the descriptor at INFO, followed by `suffix`.
    void
    print(const std::string &suffix) const;
};

/// A range with a blob: backend keys, a path, an object key.
class nixlBlobDesc : public nixlBasicDesc {
public:
    nixl_blob_t metaInfo;

    using nixlBasicDesc::nixlBasicDesc;
    nixlBlobDesc() = default;

    nixlBlobDesc(const uintptr_t &addr, const size_t &len, const uint64_t &dev_id, const nixl_blob_t &meta_info)
        : nixlBasicDesc(addr, len, dev_id),
          metaInfo(meta_info) {}

    nixlBlobDesc(const nixlBasicDesc &desc, const nixl_blob_t &meta_info) : nixlBasicDesc(desc), metaInfo(meta_info) {}

    /// From at least 24 serialised bytes, the rest being metaInfo; fewer give a descriptor of zeros.
    nixlBlobDesc(const nixl_blob_t &blob);

    friend bool
    operator==(const nixlBlobDesc &a, const nixlBlobDesc &b) noexcept {
        return static_cast<const nixlBasicDesc &>(a) == static_cast<const nixlBasicDesc &>(b) &&
            a.metaInfo == b.metaInfo;
    }

    nixl_blob_t
    serialize() const;

    void
    print(const std::string &suffix) const;
};

/// A range of another agent, for memory views.
struct nixlRemoteDesc : public nixlBasicDesc {
    std::string remoteAgent;

    using nixlBasicDesc::nixlBasicDesc;
    nixlRemoteDesc() = default;

    nixlRemoteDesc(const uintptr_t &addr, const size_t &len, const uint64_t &dev_id, const std::string &remote_agent)
        : nixlBasicDesc(addr, len, dev_id),
          remoteAgent(remote_agent) {}

    nixlRemoteDesc(const nixlBasicDesc &desc, const std::string &remote_agent)
        : nixlBasicDesc(desc),
          remoteAgent(remote_agent) {}

    /// From at least 24 serialised bytes, the rest being the agent's name.
    explicit nixlRemoteDesc(const nixl_blob_t &blob);

    friend bool
    operator==(const nixlRemoteDesc &a, const nixlRemoteDesc &b) noexcept {
        return static_cast<const nixlBasicDesc &>(a) == static_cast<const nixlBasicDesc &>(b) &&
            a.remoteAgent == b.remoteAgent;
    }

    nixl_blob_t
    serialize() const;

    void
    print(const std::string &suffix) const;
};

/// `count` blocks of `len` bytes, `stride` bytes apart, the first at `addr`. Since NIXL 1.5.
class nixlStrideDesc : public nixlBasicDesc {
public:
    size_t stride = 0;
    size_t count = 0;

    using nixlBasicDesc::nixlBasicDesc;
    nixlStrideDesc() = default;

    nixlStrideDesc(const uintptr_t &addr,
                   const size_t &len,
                   const uint64_t &dev_id,
                   const size_t &stride,
                   const size_t &count)
        : nixlBasicDesc(addr, len, dev_id),
          stride(stride),
          count(count) {}

    friend bool
    operator==(const nixlStrideDesc &a, const nixlStrideDesc &b) noexcept {
        return static_cast<const nixlBasicDesc &>(a) == static_cast<const nixlBasicDesc &>(b) && a.stride == b.stride &&
            a.count == b.count;
    }

    void
    print(const std::string &suffix) const;
};

/// A list of descriptors of one memory type. Indexing is unchecked.
template<class T> class nixlDescList {
protected:
    nixl_mem_t type;
    std::vector<T> descs;

public:
    /// `init_size` is the number of (default) elements, not a capacity.
    nixlDescList(const nixl_mem_t &type, const int &init_size = 0);

    /// Reads a list that `serialize` wrote. Wrong or hostile bytes give an empty list.
    nixlDescList(nixlSerDes *deserializer);

    nixlDescList(const nixlDescList &) = default;
    nixlDescList(nixlDescList &&) noexcept = default;
    nixlDescList &
    operator=(const nixlDescList &) = default;
    nixlDescList &
    operator=(nixlDescList &&) noexcept = default;
    virtual ~nixlDescList() = default;

    inline nixl_mem_t
    getType() const {
        return type;
    }

    inline int
    descCount() const {
        return static_cast<int>(descs.size());
    }

    inline bool
    isEmpty() const noexcept {
        return descs.empty();
    }

    inline const T &
    operator[](unsigned int index) const {
        return descs[index];
    }

    inline T &
    operator[](unsigned int index) {
        return descs[index];
    }

    inline typename std::vector<T>::const_iterator
    begin() const {
        return descs.begin();
    }

    inline typename std::vector<T>::const_iterator
    end() const {
        return descs.end();
    }

    inline typename std::vector<T>::iterator
    begin() {
        return descs.begin();
    }

    inline typename std::vector<T>::iterator
    end() {
        return descs.end();
    }

    template<class Y>
    friend bool
    operator==(const nixlDescList<Y> &a, const nixlDescList<Y> &b);

    virtual void
    resize(const size_t &count);

    inline void
    reserve(const size_t &count) {
        descs.reserve(count);
    }

    inline void
    clear() {
        descs.clear();
    }

    virtual void
    addDesc(const T &desc);

    template<typename... Args>
    T &
    emplace(Args &&...args) {
        return descs.emplace_back(std::forward<Args>(args)...);
    }

    /// Throws std::out_of_range.
    void
    remDesc(const int &index);

    /// The same ranges without what T adds to a nixlBasicDesc.
    nixlDescList<nixlBasicDesc>
    trim() const;

    /// Position of the first element whose range equals `query`, or NIXL_ERR_NOT_FOUND.
    virtual int
    getIndex(const nixlBasicDesc &query) const;

    /// Appends the list to `serializer`; INVALID_PARAM or NOT_SUPPORTED for element types without a wire form.
    nixl_status_t
    serialize(nixlSerDes *serializer) const;

    /// Writes the list to stdout.
    void
    print() const;

    /// "DescList of mem type N"; the compact form adds the count and a histogram of lengths.
    std::string
    to_string(bool compact = false) const;
};

template<class T>
bool
operator==(const nixlDescList<T> &a, const nixlDescList<T> &b) {
    return a.type == b.type && a.descs == b.descs;
}

using nixl_xfer_dlist_t = nixlDescList<nixlBasicDesc>;
using nixl_reg_dlist_t = nixlDescList<nixlBlobDesc>;
using nixl_remote_dlist_t = nixlDescList<nixlRemoteDesc>;
using nixl_local_dlist_t = nixlDescList<nixlBasicDesc>;

extern template class nixlDescList<nixlBasicDesc>;
extern template class nixlDescList<nixlBlobDesc>;
extern template class nixlDescList<nixlRemoteDesc>;
extern template class nixlDescList<nixlStrideDesc>;

#pragma GCC visibility pop
