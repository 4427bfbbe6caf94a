// The memory of an arena: one stretch, of the host's or of a device's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "dlpack.h"

namespace missile {

// Where a region starts: the size of a huge page, so that its first page can be one. A GPU's pages
// are as large.
inline constexpr std::uint64_t kRegionAlignment = std::uint64_t{1} << 21;
inline constexpr std::uint64_t kPageBytes = kRegionAlignment;

// Offsets into a region.
struct CopyRange {
  std::uint64_t to;
  std::uint64_t from;
  std::uint64_t size_bytes;
};

class Region {
 public:
  virtual ~Region() = default;
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  std::byte* base() const { return base_; }
  std::uint64_t size_bytes() const { return size_bytes_; }
  DLDevice device() const { return device_; }

  // Moves bytes to a lower offset; the ranges may overlap. They are there when it returns. If it
  // throws, none is on its way, and the source is as it was unless the ranges overlap.
  virtual void MoveDown(std::uint64_t to, std::uint64_t from, std::uint64_t size_bytes) = 0;
  // Copies between ranges that do not overlap. They are there when it returns. If it throws, none
  // is on its way.
  virtual void Copy(const std::vector<CopyRange>& ranges) = 0;

 protected:
  Region(std::uint64_t size_bytes, DLDevice device) : size_bytes_(size_bytes), device_(device) {}

  std::byte* base_ = nullptr;

 private:
  const std::uint64_t size_bytes_;
  const DLDevice device_;
};

// Anonymous pages of the host.
class HostRegion : public Region {
 public:
  // Throws NoMemory. `prefault`: every page is there before the constructor returns. `huge_pages`:
  // the kernel is asked for them, and small ones serve where it has none.
  HostRegion(std::uint64_t size_bytes, bool prefault, bool huge_pages);
  ~HostRegion() override;

  void MoveDown(std::uint64_t to, std::uint64_t from, std::uint64_t size_bytes) override;
  void Copy(const std::vector<CopyRange>& ranges) override;

 private:
  void Prefault();

  std::uint64_t mapped_bytes_ = 0;
  std::uint64_t page_bytes_;
};

}  // namespace missile
