// The memory of an arena: one stretch of anonymous pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <string>

namespace missile {

// Where a region starts: the size of a huge page, so that its first page can be one.
inline constexpr std::uint64_t kRegionAlignment = std::uint64_t{1} << 21;

// Memory that the system refused, with the reason.
class NoMemory : public std::bad_alloc {
 public:
  explicit NoMemory(std::string reason) : reason_(std::move(reason)) {}
  const char* what() const noexcept override { return reason_.c_str(); }

 private:
  std::string reason_;
};

class Region {
 public:
  // Throws NoMemory. `prefault`: every page is there before the constructor returns. `huge_pages`:
  // the kernel is asked for them, and small ones serve where it has none.
  Region(std::uint64_t size_bytes, bool prefault, bool huge_pages);
  ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  std::byte* base() const { return base_; }
  std::uint64_t size_bytes() const { return size_bytes_; }

 private:
  void Prefault();

  std::byte* base_ = nullptr;
  std::uint64_t size_bytes_;
  std::uint64_t mapped_bytes_ = 0;
  std::uint64_t page_bytes_;
};

}  // namespace missile
