#include "staging.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

namespace missile {
namespace {

std::atomic<std::int64_t> live_blocks{0};
std::atomic<std::int64_t> live_bytes{0};

std::size_t RoundUp(std::size_t size_bytes) {
  return (size_bytes + kStagingAlignment - 1) / kStagingAlignment * kStagingAlignment;
}

}  // namespace

StagingBlock::StagingBlock(std::size_t size_bytes) : size_bytes_(size_bytes) {
  // aligned_alloc wants a non-zero multiple of the alignment.
  std::size_t reserved = RoundUp(size_bytes == 0 ? 1 : size_bytes);
  data_ = static_cast<std::byte*>(std::aligned_alloc(kStagingAlignment, reserved));
  if (data_ == nullptr) throw std::bad_alloc();
  live_blocks.fetch_add(1);
  live_bytes.fetch_add(static_cast<std::int64_t>(size_bytes_));
}

StagingBlock::~StagingBlock() {
  std::free(data_);
  live_blocks.fetch_sub(1);
  live_bytes.fetch_sub(static_cast<std::int64_t>(size_bytes_));
}

void StagingBlock::Write(std::size_t offset_bytes, const std::byte* source,
                         std::size_t size_bytes) {
  if (offset_bytes > size_bytes_ || size_bytes > size_bytes_ - offset_bytes) {
    throw std::out_of_range("staging write past the end of the block");
  }
  std::memcpy(data_ + offset_bytes, source, size_bytes);
}

void StagingBlock::ZeroFrom(std::size_t offset_bytes) {
  if (offset_bytes > size_bytes_) {
    throw std::out_of_range("staging padding past the end of the block");
  }
  std::memset(data_ + offset_bytes, 0, size_bytes_ - offset_bytes);
}

std::int64_t LiveStagingBlocks() { return live_blocks.load(); }
std::int64_t LiveStagingBytes() { return live_bytes.load(); }

}  // namespace missile
