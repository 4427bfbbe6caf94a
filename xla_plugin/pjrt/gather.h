// What a host buffer looks like, and how it becomes the bytes of a device's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "api.h"

namespace missile::pjrt {

// Bits of one element; 0 for types that are not known, and for those that a device packs.
int WholeBits(int type);
// Bits of one element, packed ones too; 0 for what is not known.
int ElementBits(int type);

// Bytes of a dense array; nothing if a dimension is negative or they are too many.
std::optional<std::uint64_t> ArrayBytes(const std::int64_t* dims, std::size_t num_dims, int bits);

// A host buffer that is to become a dense one.
struct Gather {
  std::size_t element_bytes = 0;
  // Both by dimensions of the destination, the outermost first.
  std::vector<std::int64_t> dims;
  std::vector<std::int64_t> source_strides;  // In bytes; of any sign.
  bool dense = false;                        // The source has the bytes in that order already.
};

// Null strides: dense, the last dimension innermost. A null layout too: that order. Nothing if the
// layout is none that bytes can be put into one after another, or contradicts the shape.
std::optional<Gather> PlanGather(const std::int64_t* dims, std::size_t num_dims,
                                 std::size_t element_bytes, const std::int64_t* byte_strides,
                                 std::size_t num_byte_strides, const Layout* layout);

// Reads the source's elements alone, writes each of the destination's bytes once.
void RunGather(const Gather& gather, const std::byte* source, std::byte* destination);

}  // namespace missile::pjrt
