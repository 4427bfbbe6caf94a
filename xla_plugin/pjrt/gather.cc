#include "gather.h"

#include <cstring>
#include <limits>

namespace missile::pjrt {
namespace {

// By PJRT_Buffer_Type, which only grows. Negative: less than a byte, packed by most devices.
constexpr int kBits[] = {
    0,                   // INVALID
    8,                   // PRED
    8,  16,  32, 64,     // S8 S16 S32 S64
    8,  16,  32, 64,     // U8 U16 U32 U64
    16, 32,  64,         // F16 F32 F64
    16,                  // BF16
    64, 128,             // C64 C128
    8,  8,   8,  8,  8,  // F8E5M2 F8E4M3FN F8E4M3B11FNUZ F8E5M2FNUZ F8E4M3FNUZ
    -4, -4,              // S4 U4
    0,                   // TOKEN
    -2, -2,              // S2 U2
    8,  8,   8,          // F8E4M3 F8E3M4 F8E8M0FNU
    -4,                  // F4E2M1FN
    -1, -1,              // S1 U1
};

int BitsOf(int type) {
  constexpr int kCount = sizeof(kBits) / sizeof(kBits[0]);
  return type < 0 || type >= kCount ? 0 : kBits[type];
}

template <std::size_t size>
void CopyRow(std::int64_t count, std::int64_t stride, const std::byte* source,
             std::byte* destination) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::memcpy(destination + i * static_cast<std::int64_t>(size), source + i * stride, size);
  }
}

void CopyInner(const Gather& gather, const std::byte* source, std::byte* destination) {
  const std::int64_t count = gather.dims.back();
  const std::int64_t stride = gather.source_strides.back();
  const std::size_t size = gather.element_bytes;
  if (stride == static_cast<std::int64_t>(size)) {
    std::memcpy(destination, source, static_cast<std::size_t>(count) * size);
    return;
  }
  switch (size) {
    case 1:
      return CopyRow<1>(count, stride, source, destination);
    case 2:
      return CopyRow<2>(count, stride, source, destination);
    case 4:
      return CopyRow<4>(count, stride, source, destination);
    case 8:
      return CopyRow<8>(count, stride, source, destination);
    default:
      return CopyRow<16>(count, stride, source, destination);
  }
}

// The dimensions in the destination's order, or nothing.
bool OrderOf(const Layout* layout, std::size_t num_dims, std::vector<std::size_t>* order) {
  order->resize(num_dims);
  if (layout == nullptr) {
    for (std::size_t i = 0; i < num_dims; ++i) (*order)[i] = i;
    return true;
  }
  if (layout->type != LayoutType::kTiled || layout->tiled.num_tiles != 0 ||
      layout->tiled.num_dims != num_dims) {
    return false;
  }
  std::vector<bool> seen(num_dims);
  for (std::size_t i = 0; i < num_dims; ++i) {
    const std::int64_t dim = layout->tiled.minor_to_major[num_dims - 1 - i];
    if (dim < 0 || dim >= static_cast<std::int64_t>(num_dims) ||
        seen[static_cast<std::size_t>(dim)]) {
      return false;
    }
    seen[static_cast<std::size_t>(dim)] = true;
    (*order)[i] = static_cast<std::size_t>(dim);
  }
  return true;
}

}  // namespace

int WholeBits(int type) { return BitsOf(type) > 0 ? BitsOf(type) : 0; }

int ElementBits(int type) { return BitsOf(type) < 0 ? -BitsOf(type) : BitsOf(type); }

std::optional<std::uint64_t> ArrayBytes(const std::int64_t* dims, std::size_t num_dims, int bits) {
  constexpr std::uint64_t kMost = std::numeric_limits<std::int64_t>::max() / 128;
  std::uint64_t count = 1;
  bool empty = false;
  for (std::size_t i = 0; i < num_dims; ++i) {
    if (dims[i] < 0) return std::nullopt;
    if (dims[i] == 0) {
      empty = true;
      continue;
    }
    const auto dim = static_cast<std::uint64_t>(dims[i]);
    if (count > kMost / dim) return std::nullopt;
    count *= dim;
  }
  if (empty) return 0;
  return (count * static_cast<std::uint64_t>(bits) + 7) / 8;
}

std::optional<Gather> PlanGather(const std::int64_t* dims, std::size_t num_dims,
                                 std::size_t element_bytes, const std::int64_t* byte_strides,
                                 std::size_t num_byte_strides, const Layout* layout) {
  if (byte_strides != nullptr && num_byte_strides == 0) byte_strides = nullptr;
  if (byte_strides != nullptr && num_byte_strides != num_dims) return std::nullopt;
  std::vector<std::size_t> order;
  if (!OrderOf(layout, num_dims, &order)) return std::nullopt;
  std::vector<std::int64_t> strides(num_dims);
  auto stride = static_cast<std::int64_t>(element_bytes);
  for (std::size_t i = num_dims; i-- > 0;) {
    strides[i] = byte_strides != nullptr ? byte_strides[i] : stride;
    stride *= dims[i];
  }

  Gather gather;
  gather.element_bytes = element_bytes;
  // Dimensions of one element have no stride that matters, and neighbours that lie behind each
  // other are one.
  for (std::size_t dim : order) {
    if (dims[dim] == 1) continue;
    std::int64_t extent = 0;
    if (!gather.dims.empty() && !__builtin_mul_overflow(strides[dim], dims[dim], &extent) &&
        gather.source_strides.back() == extent) {
      gather.dims.back() *= dims[dim];
      gather.source_strides.back() = strides[dim];
      continue;
    }
    gather.dims.push_back(dims[dim]);
    gather.source_strides.push_back(strides[dim]);
  }
  if (gather.dims.empty()) {
    gather.dims.push_back(1);
    gather.source_strides.push_back(static_cast<std::int64_t>(element_bytes));
  }
  gather.dense =
      gather.dims.size() == 1 &&
      (gather.dims[0] == 1 || gather.source_strides[0] == static_cast<std::int64_t>(element_bytes));
  return gather;
}

void RunGather(const Gather& gather, const std::byte* source, std::byte* destination) {
  const std::size_t outer = gather.dims.size() - 1;
  std::int64_t rows = 1;
  for (std::size_t i = 0; i < outer; ++i) rows *= gather.dims[i];
  const auto row_bytes = static_cast<std::size_t>(gather.dims.back()) * gather.element_bytes;
  std::vector<std::int64_t> at(outer);
  for (std::int64_t row = 0; row < rows; ++row) {
    CopyInner(gather, source, destination);
    destination += row_bytes;
    for (std::size_t i = outer; i-- > 0;) {
      source += gather.source_strides[i];
      if (++at[i] < gather.dims[i]) break;
      source -= gather.source_strides[i] * gather.dims[i];
      at[i] = 0;
    }
  }
}

}  // namespace missile::pjrt
