// Staging blocks: host memory that XLA's CPU client can alias instead of copying.
#pragma once

#include <cstddef>
#include <cstdint>

namespace missile {

// XLA aliases a host array without a copy only at this alignment.
inline constexpr std::size_t kStagingAlignment = 64;

// One aligned allocation. Its owner keeps it alive for as long as anything reads it: blocks are
// never recycled, so an array that XLA still aliases can not change under it.
class StagingBlock {
 public:
  // Throws std::bad_alloc if the memory is not to be had.
  explicit StagingBlock(std::size_t size_bytes);
  ~StagingBlock();
  StagingBlock(const StagingBlock&) = delete;
  StagingBlock& operator=(const StagingBlock&) = delete;

  std::byte* data() { return data_; }
  std::size_t size_bytes() const { return size_bytes_; }

  // Copies `size_bytes` from `source` to `offset_bytes` of the block. The range must lie inside.
  void Write(std::size_t offset_bytes, const std::byte* source, std::size_t size_bytes);
  // Zeroes from `offset_bytes` to the end: the padding of a batch that does not fill its bucket.
  void ZeroFrom(std::size_t offset_bytes);

 private:
  std::byte* data_;
  std::size_t size_bytes_;
};

// Blocks alive and bytes they hold, for leak checks.
std::int64_t LiveStagingBlocks();
std::int64_t LiveStagingBytes();

}  // namespace missile
