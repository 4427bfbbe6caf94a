#include "view.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace missile {
namespace {

std::string Name(std::size_t index) { return "view " + std::to_string(index); }

}  // namespace

std::uint64_t TensorBytes(const std::vector<std::int64_t>& shape, DLDataType dtype) {
  std::int64_t size_bytes = dtype.bits / 8;
  for (std::int64_t axis : shape) {
    if (axis < 0)
      throw std::invalid_argument("a shape has no negative axis: " + std::to_string(axis));
    if (__builtin_mul_overflow(size_bytes, axis, &size_bytes)) {
      throw std::invalid_argument("a shape has more bytes than 64 bits can count");
    }
  }
  return static_cast<std::uint64_t>(size_bytes);
}

ViewLayout::ViewLayout(std::vector<ViewEntry> entries) : entries_(std::move(entries)) {
  for (const ViewEntry& entry : entries_) {
    std::uint64_t end = 0;
    if (__builtin_add_overflow(entry.offset_bytes, TensorBytes(entry.shape, entry.dtype), &end)) {
      throw std::invalid_argument("a view ends behind the last address");
    }
    if (end > end_bytes_) end_bytes_ = end;
    offset_bits_ |= entry.offset_bytes;
  }
}

void ViewLayout::CheckFits(std::uint64_t size_bytes, std::uint64_t alignment) const {
  if (end_bytes_ <= size_bytes && offset_bits_ % alignment == 0) return;
  for (std::size_t index = 0; index < entries_.size(); ++index) {
    const ViewEntry& entry = entries_[index];
    if (entry.offset_bytes % alignment != 0) {
      throw std::invalid_argument(Name(index) + " starts at " + std::to_string(entry.offset_bytes) +
                                  ", which is no multiple of the arena's alignment, " +
                                  std::to_string(alignment));
    }
    std::uint64_t end = entry.offset_bytes + TensorBytes(entry.shape, entry.dtype);
    if (end > size_bytes) {
      throw std::invalid_argument(Name(index) + " ends at " + std::to_string(end) +
                                  ", behind the block's " + std::to_string(size_bytes) + " bytes");
    }
  }
}

}  // namespace missile
